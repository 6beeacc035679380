"""Back up one database, and mail the backup."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.report import backed_up
from tasks.backups.source import target
from tasks.backups.steps.announce import announce_backup, failure_announced
from tasks.backups.steps.deliver import deliver_backup
from tasks.backups.steps.dump import dump_database, publish_backup

Client = Annotated[str, Field(max_length=200)]
Block = Annotated[str, Field(max_length=200)]


def run_name() -> str:
    """`backup acme` or `backup app-database`."""
    given = flow_run.parameters
    return f"backup {given.get('client') or given.get('database') or 'nothing'}"


@flow(name="backup-database", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def backup_database(client: Client | None = None, database: Block | None = None) -> str:
    """Make a proven backup of one database, put it in the place of the previous one, and mail it if mailing is on.

    Give exactly one of the two. When the backup is good but its mail was not delivered, the run ends Failed and says both.
    A webhook, where backup-policy names one, is told how it ended.

    Args:
        client: A client's slug: its Zero database is backed up.
        database: The name of a PostgreSQL database block: `app-database` is your own application's.
    """
    whose = target(client, database)
    async with failure_announced(whose):
        made = await dump_database(client, database)
    delivered = await deliver_backup(made)
    webhook = await announce_backup(whose, made, delivered, "")
    await publish_backup(made, delivered, webhook)
    return backed_up(made, delivered)

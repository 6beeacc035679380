"""Mail backups that were not delivered."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.report import resent
from tasks.backups.source import target
from tasks.backups.steps.resend import resend_backups

Client = Annotated[str, Field(max_length=200)]
Block = Annotated[str, Field(max_length=200)]


def run_name() -> str:
    """`resend backup of acme`, or of all that were not delivered."""
    given = flow_run.parameters
    return f"resend backup of {given.get('client') or given.get('database') or 'all not delivered'}"


@flow(name="resend-backup", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def resend_backup(client: Client | None = None, database: Block | None = None) -> str:
    """Mail the latest backup to those who did not get it; when everybody did and it is named here, mail it again and say so.

    With neither given, every latest backup that was not delivered is mailed, but for those that are tried again by themselves later. The
    run fails when any could not be delivered, and names it.

    Args:
        client: A client's slug: the backup of its Zero database.
        database: The name of a PostgreSQL database block: the backup of that database.
    """
    if client or database:
        target(client, database)
    came = await resend_backups(client or None, database or None)
    return resent([(one.target.spoken, one.delivered, one.note) for one in came])

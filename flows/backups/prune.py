"""Remove dated backups that are not needed any more."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.pruning import sentence
from tasks.backups.source import target
from tasks.backups.steps.prune import prune_targets, targets_to_prune

Client = Annotated[str, Field(max_length=200)]
Block = Annotated[str, Field(max_length=200)]


def run_name() -> str:
    """`prune backups of acme`, or of all."""
    given = flow_run.parameters
    return f"prune backups of {given.get('client') or given.get('database') or 'all'}"


@flow(name="prune-backups", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def prune_backups(client: Client | None = None, database: Block | None = None) -> str:
    """Remove the dated backups that the policy's numbers do not ask for, where a newer one is proven by a trial restore.

    With neither given, those of every target are looked through, of deprovisioned clients too. The newest backup and the newest
    verified one are never removed. verify-backup does the same for what it proved.

    Args:
        client: A client's slug: the backups of its Zero database.
        database: The name of a PostgreSQL database block: the backups of that database.
    """
    if client or database:
        target(client, database)
    targets = await targets_to_prune(client or None, database or None)
    return sentence(await prune_targets(targets) if targets else [])

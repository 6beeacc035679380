"""Prove backups by restoring them."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.pruning import sentence
from tasks.backups.report import verified
from tasks.backups.source import target
from tasks.backups.steps.prune import prune_targets
from tasks.backups.steps.verify import targets_to_verify, verify_targets

Client = Annotated[str, Field(max_length=200)]
Block = Annotated[str, Field(max_length=200)]


def run_name() -> str:
    """`verify backup of acme`, or of all."""
    given = flow_run.parameters
    return f"verify backup of {given.get('client') or given.get('database') or 'all'}"


@flow(name="verify-backup", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def verify_backup(client: Client | None = None, database: Block | None = None) -> str:
    """Restore the latest backup into a scratch database on the clients' server, compare it with its manifest, drop it again.

    With neither given, every target that has a good backup is verified; the run fails when any is not good, and names it. The
    dated backups that a good one makes needless are removed then, as prune-backups does.

    Args:
        client: A client's slug: the backup of its Zero database.
        database: The name of a PostgreSQL database block: the backup of that database.
    """
    if client or database:
        target(client, database)
    targets = await targets_to_verify(client or None, database or None)
    verdicts = await verify_targets(targets) if targets else []
    proven = [one.target for one in verdicts if one.good]
    pruned = await prune_targets(proven) if proven else []
    return sentence(pruned, after=verified([(one.target.spoken, one.good, one.sentence) for one in verdicts]))

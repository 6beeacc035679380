"""The steps that remove dated backups."""

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.backups import dated, history, pruning
from tasks.backups.pruning import Pruned
from tasks.backups.retention import NEWEST_ONLY, Retention
from tasks.backups.source import Target, target
from tasks.backups.steps.backup_blocks import folder_of, keeper_of_run, latest_of, policy, require_known
from tasks.errors import FleetError, NotFound


@task(name="choose whose backups are pruned", cache_policy=NO_CACHE, persist_result=False)
async def targets_to_prune(client: str | None, database: str | None) -> list[Target]:
    """The target named, or all that have a backup in the registry or on the disk, clients that are gone among them.

    Raises:
        InvalidInput: both are given, or one is malformed.
        NotFound: no such client, or nothing was ever backed up.
        NotConfigured: no such block.
    """
    keeper, given = await keeper_of_run(), await policy()
    known = await asyncio.to_thread(history.targets, keeper.engine)
    known += await asyncio.to_thread(dated.targets_in, folder_of(given))
    if client is None and database is None:
        return sorted(set(known), key=lambda one: one.key)
    whose = target(client, database)
    if whose in known:
        return [whose]
    await require_known(keeper, whose)
    raise NotFound(f"there is no backup of {whose.spoken}", f"run backup-database for {whose.spoken} first")


@task(name="remove backups that are not needed", cache_policy=NO_CACHE, persist_result=False)
async def prune_targets(targets: list[Target]) -> list[Pruned]:
    """Remove each target's dated backups that the policy does not ask for and a newer, verified one stands for.

    One that cannot be pruned hinders no other; its error is in its result.
    """
    keeper, given = await keeper_of_run(), await policy()
    keep_dated = given.keep == "dated"
    retention = Retention(given.daily, given.weekly, given.monthly) if keep_dated else NEWEST_ONLY
    results = []
    for whose in targets:
        try:
            latest = latest_of(whose, given)
            found = await asyncio.to_thread(pruning.prune, keeper, whose, latest, retention, keep_dated)
            get_run_logger().info(pruning.sentence([found]))
        except FleetError as error:
            found = Pruned(whose, error=error)
            get_run_logger().warning("%s could not be pruned: %s", whose.spoken, error)
        results.append(found)
    return results

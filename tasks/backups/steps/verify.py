"""The steps that prove backups by restoring them."""

import asyncio
from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.installation import installation
from tasks.backups import history
from tasks.backups.source import Target, target
from tasks.backups.steps.backup_blocks import keeper_of_run, policy, require_known, server
from tasks.errors import FleetError


@dataclass(frozen=True)
class Verdict:
    """What a trial restore of one target said."""

    target: Target
    good: bool
    sentence: str


@task(name="choose the backups", cache_policy=NO_CACHE, persist_result=False)
async def targets_to_verify(client: str | None, database: str | None) -> list[Target]:
    """The target named, or all that have a good backup.

    Raises:
        InvalidInput: both are given, or one is malformed.
        NotFound: no such client.
        NotConfigured: no such block.
    """
    keeper = await keeper_of_run()
    if client is None and database is None:
        return await asyncio.to_thread(history.targets, keeper.engine)
    whose = target(client, database)
    await require_known(keeper, whose)
    return [whose]


@task(name="restore into a scratch database", cache_policy=NO_CACHE, persist_result=False)
async def verify_targets(targets: list[Target]) -> list[Verdict]:
    """Restore each target's latest backup into a scratch database, one after the other, and compare.

    Raises:
        NotConfigured: there is no server for scratch databases.
    """
    from tasks.backups import trial as trials
    from tasks.backups.restore import Trial

    keeper = await keeper_of_run()
    trial = Trial(await server(), installation().fleet, (await policy()).restore_seconds, installation().pg_bin)
    verdicts = []
    try:
        for whose in targets:
            try:
                found = await asyncio.to_thread(trials.verify, keeper, whose, trial)
                verdicts.append(Verdict(whose, True, found.sentence))
                get_run_logger().info("%s: %s", whose.spoken, found.room)
            except FleetError as error:
                verdicts.append(Verdict(whose, False, str(error)))
            get_run_logger().info("%s: %s", whose.spoken, verdicts[-1].sentence)
    finally:
        trial.cancelled.set()
    return verdicts

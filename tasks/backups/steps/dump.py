"""The steps that make a backup and show it."""

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.backups import BackupPolicy
from blocks.documents import DoesNotFit
from blocks.installation import installation
from tasks.backups import report
from tasks.backups.delivery import Delivered
from tasks.backups.manifest import Made
from tasks.backups.source import Target, target
from tasks.backups.steps.backup_blocks import database_of, keeper_of_run, latest_of, policy
from tasks.errors import FleetError, NotFound

if TYPE_CHECKING:  # they bring psycopg, which a flow's cold start can do without
    from tasks.backups.dump import Job
    from tasks.backups.keeper import Keeper

PROGRESS_SECONDS = 3.0
"""A dump that is shorter shows no progress; a longer one that often."""


@task(name="dump the database", cache_policy=NO_CACHE, persist_result=False)
async def dump_database(client: str | None, database: str | None) -> Made:
    """Make a proven backup of a client's database or of the one that a block names.

    Args:
        client: a client's slug.
        database: a PostgresDatabase block's name.

    Raises:
        FleetError: what is missing, refused or failed; the previous backup then stands.
    """
    return await back_up(target(client, database))


async def back_up(whose: Target) -> Made:
    """Make a proven backup of ``whose``; inside a step.

    Raises:
        FleetError: what is missing, refused or failed; the previous backup then stands.
    """
    from tasks.backups import history

    keeper = await keeper_of_run()
    try:
        given = await policy()
        job = await _job(keeper, whose, given)
    except NotFound:  # the client is gone, which is no failure of its backups
        raise
    except (FleetError, DoesNotFit) as error:
        await asyncio.to_thread(history.not_begun, keeper.engine, whose, keeper.run_id, str(error))
        raise
    # Whether it can be mailed shows when it is: a wrong recipient must not cost a backup.
    return await _shown(keeper, job, given.mail_enabled, given.keep == "dated")


async def _job(keeper: "Keeper", whose: Target, given: BackupPolicy) -> "Job":
    from tasks.backups.dump import Job

    source, restorer = await database_of(keeper, whose)
    return Job(
        whose,
        source,
        latest_of(whose, given),
        keeper.run_id,
        given.timeout_seconds,
        given.stall_seconds,
        installation().pg_bin,
        restorer,
        must_be_mounted=given.must_be_mounted,
    )


async def _shown(keeper: "Keeper", job: "Job", mailed: bool, keep_dated: bool) -> Made:
    """Dump in a thread beside a progress artifact; a cancelled run ends its dump as well."""
    from tasks.backups import backing_up

    whose, progress = job.target, job.progress
    work = asyncio.create_task(asyncio.to_thread(backing_up.back_up, keeper, job, mailed, keep_dated))
    shown = None
    try:
        while not (await asyncio.wait({work}, timeout=PROGRESS_SECONDS))[0]:
            shown = await _show(shown, progress.percent, whose)
        if shown is not None and work.exception() is None:
            await _show(shown, 100.0, whose)
    finally:
        job.cancelled.set()
    return await work


async def _show(shown: UUID | None, percent: float, whose: Target) -> UUID | None:
    """Make or move the progress artifact; a Prefect server that does not answer now must not end a dump."""
    try:
        if shown is not None:
            await aupdate_progress_artifact(shown, percent)
            return shown
        words = f"dumping {whose.spoken}, against the database's size"
        return await acreate_progress_artifact(percent, key=f"{whose.artifact}-progress", description=words)
    except Exception as error:
        get_run_logger().warning("the progress could not be shown: %s", type(error).__name__)
        return shown


@task(name="write the backup's page", cache_policy=NO_CACHE, persist_result=False)
async def publish_backup(made: Made, delivered: Delivered | None, webhook: str = "") -> None:
    """Show the backup's facts as a page among the artifacts."""
    await show_page(made, delivered, webhook)


async def show_page(made: Made, delivered: Delivered | None, webhook: str = "") -> None:
    """The backup's facts as a page among the artifacts, with what ``tell_webhook`` returned; inside a step."""
    page = report.page(made, delivered, installation().time_zone, webhook)
    await acreate_markdown_artifact(
        page, key=made.target.artifact, description=f"Latest backup of {made.target.spoken}"
    )

"""The step that mails backups which were not delivered, or one of them again."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.backups import fleet, message, posted
from tasks.backups.delivery import Delivered
from tasks.backups.manifest import Made
from tasks.backups.source import Target, target
from tasks.backups.steps.backup_blocks import database_of, keeper_of_run, latest_of, policy, require_known
from tasks.backups.steps.deliver import mail_backup, not_mailed
from tasks.backups.steps.dump import show_page
from tasks.clock import now, spoken
from tasks.errors import FleetError, NotConfigured, Unreachable
from tasks.registry.models import Delivery

if TYPE_CHECKING:  # brings psycopg, which a flow's cold start can do without
    from tasks.backups.keeper import Keeper

EARLY = timedelta(minutes=1)
"""What is due so soon is due: clocks differ."""


@dataclass(frozen=True)
class Resent:
    """What became of one target: its mail, or in words why none was tried."""

    target: Target
    delivered: Delivered | None = None
    note: str = ""


@task(name="mail what was not delivered", cache_policy=NO_CACHE, persist_result=False)
async def resend_backups(client: str | None, database: str | None) -> list[Resent]:
    """Mail the latest backup of the target named, or of all whose latest was not delivered and is not waiting for its time.

    Raises:
        InvalidInput: both are given, or one is malformed.
        NotFound: no such client, or it has no backup.
        NotConfigured: mailing is off, or there is no such block.
    """
    keeper, given = await keeper_of_run(), await policy()
    if not message.require_recipients(given.mail_enabled, given.recipients):
        raise NotConfigured(
            "mailing is off, so nothing was mailed", "switch EMAIL_BACKUP_ENABLED (Mail the backup) on and run again"
        )
    if client or database:
        whose = target(client, database)
        await require_known(keeper, whose)
        made = await _made(keeper, whose)
        delivered = await mail_backup(made, again=True)
        await show_page(made, delivered)
        return [Resent(whose, delivered)]
    return await _all(keeper)


@task(name="mail what earlier runs could not deliver", cache_policy=NO_CACHE, persist_result=False)
async def resend_earlier() -> list[Resent]:
    """Mail the latest backups that earlier runs made and did not deliver; this run's own were just tried. None while mailing is off."""
    keeper, given = await keeper_of_run(), await policy()
    if not message.require_recipients(given.mail_enabled, given.recipients):
        return []
    return await _all(keeper, but_of=keeper.run_id)


async def _all(keeper: "Keeper", but_of: str = "") -> list[Resent]:
    """Everything that is due or waits for somebody, one after the other; after some failures in a row the rest waits too.

    Args:
        but_of: a run whose own backups are left alone.
    """
    came: list[Resent] = []
    failures: list[FleetError | None] = []
    for whose, row in await asyncio.to_thread(posted.undelivered, keeper.engine):
        assert row.id is not None
        if row.run_id == but_of:
            continue
        if row.deliver_after is not None and row.deliver_after > now() + EARLY:
            when = spoken(row.deliver_after, keeper.time_zone)
            came.append(Resent(whose, note=f"tried again by itself at {when} (name it to mail it now)"))
        elif fleet.gives_up(failures):
            error = Unreachable(
                f"it was not tried, because {fleet.MAIL_FAILURES} mails failed in a row before it",
                "mend what those name and run resend-backup",
            )
            came.append(Resent(whose, await not_mailed(keeper, row.id, error)))
        else:
            came.append(await _one(keeper, whose, row.id))
            delivered = came[-1].delivered
            lost = delivered is not None and delivered.state == Delivery.FAILED and not delivered.accepted
            failures.append(delivered.error if delivered and lost else None)
        get_run_logger().info("%s: %s", whose.spoken, said(came[-1]))
    return came


async def _one(keeper: "Keeper", whose: Target, row_id: int) -> Resent:
    try:
        made = await _made(keeper, whose)
    except FleetError as error:  # its file is gone or damaged, which the next backup mends
        return Resent(whose, await not_mailed(keeper, row_id, error))
    delivered = await mail_backup(made)
    await show_page(made, delivered)
    return Resent(whose, delivered)


def said(one: Resent) -> str:
    """What became of it in words."""
    return one.delivered.sentence if one.delivered else one.note or "mailing is off"


async def _made(keeper: "Keeper", whose: Target) -> Made:
    """The latest backup of ``whose`` as it lies on the disk.

    Raises:
        NotFound: there is none.
        Damaged: it is not what the registry knows.
    """
    path = latest_of(whose, await policy())
    try:
        role = (await database_of(keeper, whose))[1]
    except FleetError:  # the client or the block is gone, its backup is not
        role = "postgres"

    def read() -> Made:
        from tasks.backups.keeper import opened

        with opened(keeper, whose, path) as (_, manifest, row_id):
            return Made(row_id, whose, path, manifest, role)

    return await asyncio.to_thread(read)

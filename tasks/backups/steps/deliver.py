"""The step that mails a backup, and what plans another try of a delivery that failed."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from blocks.backups import BackupPolicy
from tasks.backups import message
from tasks.backups.delivery import Delivered, Post
from tasks.backups.mail import Account
from tasks.backups.manifest import Made
from tasks.backups.steps.backup_blocks import account, keeper_of_run, policy, teller
from tasks.errors import FleetError

if TYPE_CHECKING:  # brings psycopg, which a flow's cold start can do without
    from tasks.backups.keeper import Keeper

RESEND = "resend-backup/default"
PREFECT_SECONDS = 30.0
"""Prefect may take so long to plan a run."""


@task(name="mail the backup", cache_policy=NO_CACHE, persist_result=False)
async def deliver_backup(made: Made) -> Delivered | None:
    """Mail a backup as the policy says; None when mailing is off. A delivery that fails leaves the backup valid."""
    return await mail_backup(made)


async def mail_backup(made: Made, again: bool = False, wait: float = 30.0) -> Delivered | None:
    """Mail a backup as the policy says; None when mailing is off. Inside a step; raises nothing that mail does.

    Args:
        made: the backup.
        again: mail it also to those who have it, and say so.
        wait: seconds to wait for another run that mails the same target.
    """
    from tasks.backups import mailing

    given = await policy()
    keeper = await keeper_of_run()
    try:
        recipients = message.require_recipients(given.mail_enabled, given.recipients)
        if not recipients:
            return None
        through = await account()
        post = _post(given, through, recipients, keeper.time_zone, made, again)
        came = await asyncio.to_thread(mailing.deliver, keeper, made, through, post, teller(), wait)
    except FleetError as error:
        return await not_mailed(keeper, made.row_id, error)
    return await _planned(keeper, made.row_id, came)


def _post(
    given: BackupPolicy, through: Account, recipients: list[str], time_zone: str, made: Made, again: bool
) -> Post:
    return Post(
        message.sender_of(given.sender, through.username),
        recipients,
        given.subject_prefix,
        time_zone,
        f"backup.{made.row_id}.{made.manifest.sha256[:16]}",
        made.role,
        tuple(given.age_recipients),
        given.too_big,
        again,
    )


async def not_mailed(keeper: "Keeper", row_id: int, error: FleetError) -> Delivered:
    """Note that a backup was not mailed because of ``error``, and plan another try where that may help; inside a step."""
    from tasks.backups import mailing

    return await _planned(keeper, row_id, await asyncio.to_thread(mailing.undelivered, keeper, row_id, error))


async def _planned(keeper: "Keeper", row_id: int, came: Delivered) -> Delivered:
    """``came``, with its next try planned as a run of resend-backup, or without one when none could be."""
    from tasks.backups import posted

    if came.next_try is None or await _plan(came.next_try):
        return came
    await asyncio.to_thread(posted.not_planned, keeper.engine, row_id)
    return replace(came, next_try=None)


async def _plan(moment: datetime) -> bool:
    """Plan one run of resend-backup for everything that is due at ``moment``; whether that worked."""
    try:
        # The key: a hundred mails that fail in one night need one run, not a hundred.
        key = f"{RESEND}:{moment.astimezone(UTC).isoformat()}"
        planned = arun_deployment(RESEND, scheduled_time=moment, timeout=0, as_subflow=False, idempotency_key=key)
        await asyncio.wait_for(planned, PREFECT_SECONDS)
    except ObjectNotFound:
        get_run_logger().warning("no later try was planned: there is no deployment %s; run `make up`", RESEND)
        return False
    except Exception as error:
        # Whatever Prefect's server says now, the backup stands and the registry knows that it was not delivered.
        get_run_logger().warning("no later try was planned: %s; run resend-backup later", type(error).__name__)
        return False
    get_run_logger().info("the mail is tried again at %s", moment.isoformat(timespec="minutes"))
    return True

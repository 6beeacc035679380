"""The step that mails a backup."""

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.backups import delivery, history, message
from tasks.backups.delivery import Delivered, Post
from tasks.backups.manifest import Made
from tasks.backups.steps.backup_blocks import account, keeper_of_run, policy, teller
from tasks.errors import FleetError
from tasks.registry.models import Delivery


@task(name="mail the backup", cache_policy=NO_CACHE, persist_result=False)
async def deliver_backup(made: Made) -> Delivered | None:
    """Mail a backup as the policy says; None when mailing is off. A delivery that fails leaves the backup valid."""
    return await mail_backup(made)


async def mail_backup(made: Made) -> Delivered | None:
    """Mail a backup as the policy says; None when mailing is off. Inside a step; raises nothing that mail does."""
    from tasks.backups import mailing

    given = await policy()
    keeper = await keeper_of_run()
    try:
        recipients = message.require_recipients(given.mail_enabled, given.recipients)
        if not recipients:
            return None
        sent_through = await account()
        sender = message.sender_of(given.sender, sent_through.username)
        identity = message.message_id(f"backup.{made.row_id}.{made.manifest.sha256[:16]}", sender.domain)
        post = Post(sender, recipients, given.subject_prefix, keeper.time_zone, identity, made.role)
        return await asyncio.to_thread(mailing.deliver, keeper, made, sent_through, post, teller())
    except FleetError as error:
        failed = delivery.Delivered(Delivery.FAILED, [], f"it was not delivered: {error}", error)
        await asyncio.to_thread(history.delivered, keeper.engine, made.row_id, failed.state, [], None, str(error))
        return failed

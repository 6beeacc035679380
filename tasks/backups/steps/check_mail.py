"""The step of send-test-email."""

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from blocks.installation import installation
from tasks.backups import delivery, message
from tasks.backups.steps.backup_blocks import account, policy, teller
from tasks.clock import now


@task(name="send the test mail", cache_policy=NO_CACHE, persist_result=False)
async def try_mail(recipient: str) -> str:
    """Talk to the mail server of the block `smtp` step by step and send a mail; what it said at the end.

    Raises:
        FleetError: names the step that failed.
    """
    given = await policy()
    tried = await account()
    sender = message.sender_of(given.sender, tried.username)
    moment, settings = now(), installation()
    identity = message.message_id(f"test.{str(flow_run.id or 'none')[:8]}.{int(moment.timestamp())}", sender.domain)
    came = await asyncio.to_thread(
        delivery.check, tried, sender, recipient, identity, moment, settings.time_zone, teller()
    )
    how = {"SSL": "SSL", "STARTTLS": "STARTTLS", "PLAIN": "no TLS, everything in the clear"}[tried.security]
    took = f"{tried.where.server} took the test mail to {recipient} from {sender.addr_spec} ({how}): {came.reply}"
    return f"{took}; {came.room}."

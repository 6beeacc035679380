"""The steps that tell the webhook: of every finished backup, and of what is wrong with the fleet's."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.documents import DoesNotFit, find, types_of
from blocks.webhook import WebhookEndpoint
from tasks.backups import events
from tasks.backups.delivery import Delivered
from tasks.backups.manifest import Made
from tasks.backups.source import Target
from tasks.backups.steps.backup_blocks import policy
from tasks.clock import now
from tasks.errors import FleetError, needed, of_another_type


@task(name="tell the webhook", cache_policy=NO_CACHE, persist_result=False)
async def announce_backup(whose: Target, made: Made | None, delivered: Delivered | None, error: str) -> str:
    """Tell the policy's webhook how a backup ended; what became of that, "" when there is none."""
    return await tell_webhook(whose, made, delivered, error)


@asynccontextmanager
async def failure_announced(whose: Target) -> AsyncIterator[None]:
    """What raises inside is told to the webhook as the failure of a backup of ``whose``, and raised on."""
    try:
        yield
    except Exception as failed:
        ours = isinstance(failed, FleetError | DoesNotFit)
        error = str(failed) if ours else f"unexpected: {type(failed).__name__}; see the run's log."
        await announce_backup(whose, None, None, error)
        raise


async def tell_webhook(whose: Target, made: Made | None, delivered: Delivered | None, error: str) -> str:
    """Tell the policy's webhook how a backup ended; inside a step. Never raises for what the endpoint does.

    Args:
        whose: the database.
        made: the backup; None when it failed.
        delivered: what became of its mail; None when mailing is off.
        error: why it failed.

    Returns:
        What became of it, for the backup's page; "" when there is no webhook.
    """
    return await _tell(events.finished(whose, made, delivered, error, str(flow_run.id or "none"), now()))


async def tell_alert(sentences: list[str]) -> str:
    """Tell the policy's webhook what is wrong with the fleet's backups, if anything is; inside a step, as ``tell_webhook``."""
    if not sentences:
        return ""
    return await _tell(events.alert(sentences, str(flow_run.id or "none"), now()))


async def _tell(event: Mapping[str, Any]) -> str:
    from tasks.backups import webhook

    logger = get_run_logger()
    try:
        name = (await policy()).webhook
        if not name:
            return ""
        block = await find(WebhookEndpoint, name)
        others = [] if block else await types_of(name)
        if others:
            cure = "give Webhook in the block backup-policy the name of a Zero Fleet Webhook Endpoint block"
            raise of_another_type("Webhook Endpoint", name, others, cure)
        block = needed(
            block, name, "make it in the Prefect UI under Blocks, or empty Webhook in the block backup-policy"
        )
        to = webhook.endpoint(block.url.get_secret_value(), block.signing_key.get_secret_value(), name)
        attempts = await webhook.post(to, event)
    except (FleetError, DoesNotFit) as error:
        why = str(error)
    except Exception as error:  # its text may hold the address
        why = f"unexpected {type(error).__name__}"
    else:
        tried = f" at attempt {attempts}" if attempts > 1 else ""
        logger.info("the webhook at %s was told%s", to.host, tried)
        return f"told {to.host}{tried}"
    logger.warning("the webhook was not told: %s", why)
    return f"NOT told: {why}"

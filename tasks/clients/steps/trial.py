"""What upgrading and rotating share: the wait for the new container, and the way back when it does not serve."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prefect.logging import get_run_logger

from tasks.clients import trial
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import journaled, work_on
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import Work
from tasks.errors import FleetError, Unhealthy
from tasks.registry import journal
from tasks.registry.models import Status

Back = Callable[[Work, journal.Entry], Awaitable[str]]
"""Takes back what was begun; returns what could not be put back as it was."""
Again = Callable[[Work, journal.Entry], Awaitable[tuple[str, Status]]]
"""Takes back and sees; returns how it is now, in words and in one."""


@asynccontextmanager
async def back_if_it_fails(client: str, what: str, again: Again) -> AsyncIterator[None]:
    """Take back what the block did when it fails, wait for the old container, and say both in one sentence.

    Args:
        what: what is done, for the sentence: ``upgrade to IMAGE``.
        again: takes back; ``old_again`` but for its last two arguments.

    Raises:
        Unhealthy: it failed and was taken back.
        FleetError: it failed before anything was begun, or could not be taken back.
    """
    work = work_on(client)
    try:
        yield
    except Exception as error:
        if not trial.under_way(work):
            raise
        cause = error if isinstance(error, FleetError) else None
        lines = error.last_lines if isinstance(error, Unhealthy) else ()
        if cause is None:
            get_run_logger().error("%s: unexpected %s; it is taken back", client, type(error).__name__)
        why = cause.what if cause else f"unexpected {type(error).__name__}"
        cure = cause.cure if cause and not lines else "read the new container's last lines in this run's log"
        try:
            async with journaled(work, "take back") as entry:
                how, status = await again(work, entry)
        except FleetError as worse:
            stuck = Unhealthy(
                f"{client}: the {what} failed ({why}), and could not be taken back ({worse.what})",
                f"{worse.cure}; running this again, or provision-client, takes it back first",
            )
            await in_thread(trial.stuck, work, str(stuck))
            raise stuck from None
        raised = Unhealthy(f"{client}: the {what} failed: {why}; {how}", cure)
        raised.last_lines = lines
        await in_thread(trial.over, work, status, str(raised))
        raise raised from None


async def old_again(work: Work, entry: journal.Entry, old: str, back: Back) -> tuple[str, Status]:
    """Take back and see; how it is now, in words and in one.

    Args:
        old: what comes back: ``the old image``.
        back: takes back.
    """
    left = await back(work, entry)
    said, status = f"{old} is back, not running, as before", trial.resting(work)
    if work.container is None:
        said, status = f"{old} is not back", Status.MISSING
    elif trial.before(work).running:
        try:
            await until_ready(work, entry)
            said, status = f"{old} serves again at {work.url}", Status.RUNNING
        except FleetError as error:
            said, status = f"{old} is back, and does not serve either ({error.what})", Status.ERROR
    return (f"{said}; {left}" if left else said), status

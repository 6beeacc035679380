"""The steps of start-zero, stop-zero, restart-zero and zero-logs."""

from contextlib import suppress
from datetime import datetime

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.registry import open_registry
from tasks.clients import lifecycle, logs
from tasks.clients.lifecycle import Move
from tasks.clients.steps import client_blocks
from tasks.clients.steps.existing import take_up, take_up_container
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import glance, journaled, work_on
from tasks.clients.steps.several import choose
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import Work
from tasks.clock import now
from tasks.errors import FleetError, NotConfigured, NotFound, Unhealthy
from tasks.registry import queries


async def choose_enabled(clients: list[str]) -> list[str]:
    """The slugs meant by ``clients``; of ``all``, those that are enabled, and the log names the others.

    Raises:
        InvalidInput, NotFound: a wrong name.
    """
    chosen = await choose(clients)
    if clients != ["all"]:
        return chosen
    rows = await in_thread(queries.instances, await open_registry())
    off = {row.client for row in rows if not row.spec.get("enabled", True)}
    left = [slug for slug in chosen if slug in off]
    if left:
        get_run_logger().info("not enabled, so left as they are: %s", ", ".join(left))
    return [slug for slug in chosen if slug not in off]


@task(name="start the container", task_run_name="start {client}", cache_policy=NO_CACHE, persist_result=False)
async def start_container(client: str) -> str:
    """Start the container that there is; what was done: ``started`` or ``was already running``."""
    work = work_on(client)
    move = await _move(work, "start")
    return "was already running" if move is Move.LEAVE else "started"


@task(name="restart the container", task_run_name="restart {client}", cache_policy=NO_CACHE, persist_result=False)
async def restart_container(client: str) -> str:
    """Stop the container and start it, made anew where it is not made from the spec any more; what was done: ``restarted``."""
    work = work_on(client)
    await _move(work, "restart")
    return "restarted"


async def _move(work: Work, step: str) -> Move:
    async with journaled(work, step) as entry:
        await in_thread(lifecycle.recall_enabled, work)
        await take_up(work)
        with entry.outside():
            move = await in_thread(lifecycle.start if step == "start" else lifecycle.restart, work)
        get_run_logger().info("%s: %s", work.client, move)
    return move


@task(name="stop the container", task_run_name="stop {client}", cache_policy=NO_CACHE, persist_result=False)
async def stop_container(client: str) -> str:
    """Stop the container and see it ended; a sentence."""
    work = work_on(client)
    async with journaled(work, "stop") as entry:
        await take_up_container(work)
        with entry.outside():
            return await in_thread(lifecycle.stop, work)


@task(name="look before a clean restart", task_run_name="look at {client}", cache_policy=NO_CACHE, persist_result=False)
async def look_before_clean(client: str) -> None:
    """Take the client up, and refuse what cannot be restarted before its database is dumped."""
    work = work_on(client)
    async with journaled(work, "look"):
        await in_thread(lifecycle.recall_enabled, work)
        await take_up(work)
        await in_thread(lifecycle.require_made, work)


@task(
    name="start once without agent tables", task_run_name="clean {client}", cache_policy=NO_CACHE, persist_result=False
)
async def start_clean(client: str) -> str:
    """Make the container for one start that drops Zero's agent tables, see it serve, and make it anew without that.

    It is made anew also when the clean start failed, whose error is told then.
    """
    work = work_on(client)
    failure: FleetError | None = None
    async with journaled(work, "clean start") as entry:
        with entry.outside():
            await in_thread(lifecycle.run_anew, work, True)
        try:
            await until_ready(work, entry)
        except FleetError as error:
            entry.outcome, failure = f"failed: {type(error).__name__}", error
    async with journaled(work, "container") as entry:
        with entry.outside():
            await in_thread(lifecycle.run_anew, work)
    if failure is not None:
        raised = Unhealthy(
            f"the clean start failed: {failure.what}; the container was made anew without it and started", failure.cure
        )
        raised.last_lines = failure.last_lines if isinstance(failure, Unhealthy) else ()
        raise raised
    return "restarted without its agent tables"


@task(name="wait until Zero serves", task_run_name="wait for {client}", cache_policy=NO_CACHE, persist_result=False)
async def await_serving(client: str, done: str) -> str:
    """Wait until the service answers and its database lets it in, at most ``ready_within`` seconds, and say it in a sentence.

    Args:
        done: what was done before, in words: ``started``.
    """
    work = work_on(client)
    async with journaled(work, "ready") as entry:
        await until_ready(work, entry)
    return await in_thread(lifecycle.seen_serving, work, done)


@task(name="read the log", task_run_name="read the log of {client}", cache_policy=NO_CACHE, persist_result=False)
async def read_log(client: str, tail: int, since: datetime | None) -> str:
    """Show the end of the container's log, without secrets, in this run's log and as the client's page of logs; a sentence.

    Raises:
        NotFound: there is no such client, or no container of it.
    """
    async with glance(client, "logs") as work:
        found = await take_up_container(work)
        client_blocks.take_secrets(work, found)
        for take in (client_blocks.take_server, client_blocks.take_google, client_blocks.take_twilio):
            with suppress(NotConfigured):  # what is not there need not be hidden
                take(work, found)
        if work.container is None:
            raise NotFound(
                f"there is no container of {client}, and its log went with it",
                f"run provision-client for {client}, which makes it anew",
            )
        state = work.container.state
        lines = await in_thread(lifecycle.read_log, work, tail, since)
    zone = work.house.time_zone
    head = logs.heading(work.names.container, len(lines), since, zone)
    for first in range(0, len(lines), logs.RECORD):
        get_run_logger().info("%s", "\n".join(lines[first : first + logs.RECORD]))
    page = logs.markdown(head, state, lines, now(), zone)
    await acreate_markdown_artifact(page, key=f"logs-{client}", description=f"{client}: {head}")
    return f"{client}: {head}; see the artifact logs-{client}, or this run's log"

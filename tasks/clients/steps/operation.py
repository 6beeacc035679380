"""One operation on one client: its lock, its journal, and the ``Work`` that its steps share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.installation import Installation, installation
from blocks.registry import kinds as registry_kinds
from blocks.registry import open_registry, registry_in
from tasks.clients import provisioning
from tasks.clients.ports import parse_range
from tasks.clients.steps import client_blocks
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import House, Work
from tasks.clock import now
from tasks.errors import FleetError, Unhealthy
from tasks.registry import journal
from tasks.registry.lock import hold
from tasks.registry.revision import require_head
from tasks.registry.spec import ZeroSpec

_open: dict[str, Work] = {}


def work_on(client: str) -> Work:
    """What the steps of the operation that is open on ``client`` share."""
    return _open[client]


def held(work: Work) -> bool:
    """Whether ``work`` is of an operation that holds its client alone, and so may change it."""
    return _open.get(work.client) is work


@asynccontextmanager
async def operation(client: str, name: str) -> AsyncIterator[None]:
    """Hold ``client`` alone for an operation called ``name``; its error is noted as the client's last one.

    Raises:
        Conflict: another run holds the client for 30 s.
        NotConfigured: the registry is of another revision.
    """
    settings = installation()
    asked = now()
    early = await client_blocks.documents(client, ZeroSpec(), registry_kinds())
    registry = registry_in(early)
    await in_thread(require_head, registry)
    run = str(flow_run.id or "none")
    house = _house(settings)
    with ExitStack() as stack:
        holder = hold(
            registry, client, f"run {run[:8]} ({name} {client})", settings.locks, time_zone=settings.time_zone
        )
        await in_thread(stack.enter_context, holder)
        work = _open[client] = Work(client, run, name, house, registry)
        if await in_thread(_idle_since, work, asked):
            client_blocks.keep(client, early)
        try:
            yield
        except FleetError as error:
            lines = error.last_lines if isinstance(error, Unhealthy) else ()
            if lines:
                get_run_logger().error("last lines of %s:\n%s", work.names.container, "\n".join(lines))
            await in_thread(provisioning.failed, work, str(error), lines)
            raise
        except Exception as error:
            await in_thread(provisioning.failed, work, f"unexpected: {type(error).__name__}; see the run's log.")
            raise
        finally:
            del _open[client]
            client_blocks.forget(client)
            if work.docker is not None:
                await in_thread(work.docker.close)
            await in_thread(stack.close)


@asynccontextmanager
async def glance(client: str, name: str) -> AsyncIterator[Work]:
    """A ``Work`` to look at ``client`` with, for what changes nothing: no lock, no journal. Hand it down inside one step.

    Raises:
        NotConfigured: the registry is of another revision.
    """
    settings = installation()
    registry = await open_registry()
    await in_thread(require_head, registry)
    work = Work(client, str(flow_run.id or "none"), name, _house(settings), registry)
    try:
        yield work
    finally:
        if work.docker is not None:
            await in_thread(work.docker.close)


@asynccontextmanager
async def journaled(work: Work, step: str) -> AsyncIterator[journal.Entry]:
    """Journal a step; the registry is written in a thread, since it may be busy."""
    context = journal.step(work.registry, work.client, work.run_id, work.operation, step)
    entry = await in_thread(context.__enter__)
    try:
        yield entry
    except BaseException as error:
        with suppress(type(error)):
            await in_thread(context.__exit__, type(error), error, error.__traceback__)
        raise
    await in_thread(context.__exit__, None, None, None)


async def outside(entry: journal.Entry, act: Callable[..., Any], *arguments: Any) -> None:
    """Run what waits for Docker or PostgreSQL in a thread, and count its time as theirs."""
    with entry.outside():
        await in_thread(act, *arguments)


async def together(*acts: Awaitable[Any]) -> None:
    """Await all of ``acts`` to their end, so that none outlives its step, then raise the first error."""
    for outcome in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _house(settings: Installation) -> House:
    return House(settings.fleet, settings.network, parse_range(settings.ports), settings.time_zone)


def _idle_since(work: Work, asked: datetime) -> bool:
    """Whether no operation touched the client since ``asked``, so that its secrets read then are those of now.

    Every operation journals under the client's lock; a minute is allowed for clocks of other hosts.
    """
    last = journal.latest(work.registry, work.client, 1)
    return not last or (last[0].ended_at or last[0].started_at) < asked - timedelta(minutes=1)

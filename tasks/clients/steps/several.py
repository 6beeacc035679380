"""The same operation on one client, several or all: bounded in parallel, and one that fails hides no other."""

import asyncio
from collections.abc import Awaitable, Callable

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.registry import open_registry
from tasks.clients.outcomes import Outcome
from tasks.clients.steps.threads import in_thread
from tasks.errors import FleetError
from tasks.registry.queries import resolve_clients
from tasks.registry.revision import require_head

AT_ONCE = 4
"""Clients worked on at the same time: Docker and PostgreSQL of one machine gain nothing from more."""


@task(name="choose the clients", cache_policy=NO_CACHE, persist_result=False)
async def choose(clients: list[str]) -> list[str]:
    """The slugs meant by ``clients``: one, several, or ``all``.

    Raises:
        InvalidInput, NotFound: a wrong name.
    """
    registry = await open_registry()
    await in_thread(require_head, registry)
    return await in_thread(resolve_clients, registry, clients)


async def each(clients: list[str], act: Callable[[str], Awaitable[str]], at_once: int = AT_ONCE) -> list[Outcome]:
    """Await ``act`` for every client, at most ``at_once`` together, and tell each one's sentence in the log.

    Args:
        act: works on one client and returns its sentence.

    Returns:
        One outcome per client, in the order given.
    """
    slots = asyncio.Semaphore(at_once)

    async def one(client: str) -> Outcome:
        async with slots:
            try:
                said = Outcome(client, True, await act(client))
            except FleetError as error:
                said = Outcome(client, False, named(client, str(error)))
            except Exception as error:
                get_run_logger().error("%s: unexpected %s", client, type(error).__name__)
                said = Outcome(client, False, f"{client}: unexpected {type(error).__name__}; see the run's log.")
        (get_run_logger().info if said.good else get_run_logger().error)("%s", said.sentence)
        return said

    return list(await asyncio.gather(*(one(client) for client in clients)))


def named(client: str, sentence: str) -> str:
    """``sentence`` with the client's slug before it, unless it begins so.

    >>> named("acme", "the port is taken; choose another.")
    'acme: the port is taken; choose another.'
    """
    return sentence if sentence.startswith(f"{client}:") else f"{client}: {sentence}"

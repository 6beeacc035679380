"""Taking up a client that there is: what is stored, its blocks, and the engine it runs on."""

import asyncio

from blocks.docker import connect, engine_name
from tasks.clients import containers, provisioning
from tasks.clients.engine import answers
from tasks.clients.steps import client_blocks
from tasks.clients.work import Work


async def take_up(work: Work) -> None:
    """Fill ``work`` of a client that was provisioned: stored spec and port, secrets, server, engine, container as seen.

    Raises:
        NotFound: no such client.
        NotConfigured: a block is missing.
        Conflict: the container of its name is not this fleet's.
        Unreachable, Refused: what the engine answered.
    """
    await asyncio.to_thread(provisioning.recall, work)
    block = await client_blocks.read(work)
    await asyncio.to_thread(_look, work, block)


def _look(work: Work, block: object) -> None:
    with answers("answer"):
        work.docker = connect(block)
    work.engine = engine_name(work.docker)
    work.container = containers.inspect(work.docker, work.names.container)
    containers.refuse_foreign(work.container, work.house.fleet, work.client)

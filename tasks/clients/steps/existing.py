"""Taking up a client that there is: what a killed run left under way is ended, then what is stored, its blocks, and its engine."""

from prefect.client.schemas.objects import BlockDocument
from prefect.logging import get_run_logger

from blocks.docker import connect, engine_name
from tasks.clients import containers, provisioning, restore, rotation, upgrade
from tasks.clients.engine import answers
from tasks.clients.steps import client_blocks
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import held, journaled
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import Work
from tasks.errors import FleetError
from tasks.registry import journal, queries


async def take_up(work: Work) -> None:
    """Fill ``work`` of a client that was provisioned: stored spec and port, secrets, server, engine, container as seen.

    Raises:
        NotFound: no such client.
        NotConfigured: a block is missing.
        Conflict: the container of its name is not this fleet's.
        Unreachable, Refused: what the engine answered.
    """
    await settle(work)
    await _fill(work)


async def settle(work: Work) -> None:
    """Finish or take back an upgrade, a rotation or a restore that a killed run left under way; only for an operation that holds the client.

    Raises:
        FleetError: it could not be done now, and stays noted.
    """
    if not held(work):
        return
    stored = await in_thread(queries.find_instance, work.registry, work.client)
    begun = (stored.pending or {}).get("operation") if stored else None
    if begun not in _SETTLED:
        return
    mine = Work(work.client, work.run_id, work.operation, work.house, work.registry)
    try:
        async with journaled(mine, f"settle {begun}") as entry:
            await _fill(mine)
            said = await _SETTLED[begun](mine, entry)
    finally:
        if mine.docker is not None:
            await in_thread(mine.docker.close)
    get_run_logger().warning("%s", said)


async def _settle_upgrade(work: Work, entry: journal.Entry) -> str:
    serves = await in_thread(upgrade.runs_new, work) and await _serves_after_all(work, entry, "an upgrade")
    with entry.outside():
        return await in_thread(upgrade.settle, work, serves)


async def _settle_restore(work: Work, entry: journal.Entry) -> str:
    serves = await in_thread(restore.runs_restored, work) and await _serves_after_all(work, entry, "a restore")
    with entry.outside():
        return await in_thread(restore.settle, work, serves)


async def _serves_after_all(work: Work, entry: journal.Entry, what: str) -> bool:
    """Whether what was tried when the run was cut off serves. People may have worked with it since: so the trial goes on, and only a
    service that does not pass the gate is taken back.
    """
    get_run_logger().info(
        "%s: %s was cut off while it was tried; waiting until the service answers, at most %s s, else it is taken back",
        work.client, what, work.spec.ready_within,
    )  # fmt: skip
    try:
        await until_ready(work, entry)
    except FleetError as error:
        get_run_logger().warning("%s: %s", work.client, error)
        return False
    return True


async def _settle_rotation(work: Work, entry: journal.Entry) -> str:
    which = f"{work.client}: the rotation of its secrets that was cut off"
    if rotation.committed(work):
        await client_blocks.replace_secrets(work, rotation.with_new(work.given))
        with entry.outside():
            await in_thread(rotation.finish, work)
        return f"{which} is finished"
    left = await take_rotation_back(work, entry)
    await in_thread(rotation.taken_back, work)
    return f"{which} was taken back{'; ' + left if left else ''}"


async def take_rotation_back(work: Work, entry: journal.Entry) -> str:
    """Put the old secrets and the old container back; what could not be, in words."""
    with entry.outside():
        left = await in_thread(rotation.take_back, work)
    await client_blocks.replace_secrets(work, rotation.with_old(work.given, rotation.made_here(work)))
    return left


async def _fill(work: Work) -> None:
    await in_thread(provisioning.recall, work)
    block = await client_blocks.read(work)
    await in_thread(_look, work, block)


async def take_up_container(work: Work) -> dict[str, BlockDocument]:
    """Fill ``work`` only with what is stored, the engine and the container as seen: what stopping and reading logs need, which must
    go where a block is missing. The documents of its blocks are handed back.

    Raises:
        NotFound: no such client.
        Conflict: the container of its name is not this fleet's.
        Unreachable, Refused: what the engine answered.
    """
    await in_thread(provisioning.recall, work)
    found = await client_blocks.documents(work.client, work.spec)
    await in_thread(_look, work, client_blocks.take_engine(found))
    return found


def _look(work: Work, block: object) -> None:
    with answers("answer"):
        work.docker = connect(block)
    work.engine = engine_name(work.docker)
    provisioning.require_same_engine(work)
    seen = containers.inspect(work.docker, work.names.container)
    work.container = containers.recognised(seen, work.house.fleet, work.stored)
    containers.refuse_foreign(work.container, work.house.fleet, work.client)


_SETTLED = {
    upgrade.OPERATION: _settle_upgrade,
    rotation.OPERATION: _settle_rotation,
    restore.OPERATION: _settle_restore,
}

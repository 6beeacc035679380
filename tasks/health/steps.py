"""The health trade's steps: what flows call; the only place here that knows Prefect and blocks."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import BlockDocument
from prefect.logging import get_run_logger
from sqlalchemy import Engine

from blocks import docker
from blocks.clients import PostgresServer
from blocks.documents import DoesNotFit, as_block, read_documents
from blocks.health import AlertPolicy
from blocks.installation import installation
from blocks.registry import open_registry
from tasks.errors import FleetError, NotConfigured, Unhealthy
from tasks.health import databases, engine, probes, record, report
from tasks.health.judgement import Policy
from tasks.health.look import Host, Look, Shard, World, as_written
from tasks.health.probes import Answer
from tasks.health.samples import Stored
from tasks.registry.queries import instances, resolve_clients
from tasks.registry.revision import require_head

BLOCKS = {
    "alert-policy": AlertPolicy.get_block_type_slug(),
    "postgres-server": PostgresServer.get_block_type_slug(),
}
TABLE = "fleet"
"""Key of the table artifact."""


@task(name="look at engine and databases", cache_policy=NO_CACHE, persist_result=False)
async def begin_look(clients: list[str] | None = None) -> Look:
    """Read what is known of the clients, ask each Docker engine and the database server once, open nothing else.

    Args:
        clients: one slug, several, or ``all``; None for a poll of the whole fleet, which also goes on when an engine
            does not answer, and says so at its end.

    Raises:
        InvalidInput, NotFound: a wrong name.
        Unreachable, Refused: an engine does not answer, where ``clients`` are given.
    """
    started = time.monotonic()
    registry = await open_registry()
    await asyncio.to_thread(require_head, registry)
    stored = await asyncio.to_thread(record.read, registry)
    if clients is not None:
        named = frozenset(await asyncio.to_thread(resolve_clients, registry, clients))
        stored = [one for one in stored if one.client in named]
    if not stored and clients is not None:
        return Look([], Policy(), World(databases={}), started)
    # All blocks of a look in one call: every load of its own costs 60-90 ms and an event.
    blocks = await read_documents({**BLOCKS, docker.BLOCK: docker.TYPE})
    policy = as_block(AlertPolicy, blocks.get("alert-policy"))
    server = as_block(PostgresServer, blocks.get("postgres-server")) if stored else None
    world = await _world(stored, server, await _engine_blocks(stored, blocks.get(docker.BLOCK)))
    if not stored:  # nothing to judge, but orphans may be there; an engine that does not answer matters to nobody
        return Look([], Policy(), World(databases={}, orphans=await _orphans(registry, world)), started)
    if clients is not None and world.trouble is not None and all(host.trouble for host in world.hosts.values()):
        raise world.trouble
    if clients is None:
        world = replace(world, orphans=await _orphans(registry, world))
    return Look(stored, Policy(policy.failures, policy.successes) if policy else Policy(), world, started)


async def _orphans(registry: Engine, world: World) -> tuple[str, ...]:
    """The clients of containers that the registry does not know; asked anew, since one may have been registered meanwhile."""
    found = world.clients()
    if not found:
        return ()
    known = {row.client for row in await asyncio.to_thread(instances, registry)}
    return tuple(sorted(found - known))


async def _engine_blocks(stored: list[Stored], own: BlockDocument | None) -> dict[str, BlockDocument | None]:
    """The installation's Docker host (None: the environment's), and those that clients' specs name; one call for all of these."""
    named = {one.docker_block for one in stored if one.docker_block}
    found = await read_documents(dict.fromkeys(named, docker.TYPE)) if named else {}
    return {"": own, **{name: found.get(name) for name in sorted(named)}}


async def _world(stored: list[Stored], server: PostgresServer | None, hosts: dict[str, BlockDocument | None]) -> World:
    """What engines and database server say, all asked at the same time, each in a thread with deadlines of its own."""
    asked = (
        asyncio.to_thread(databases.look, _reach(server), [one.client for one in stored])
        if server is not None
        else asyncio.sleep(0, result=None)
    )
    if all(one.docker_block for one in stored) and stored:  # nobody is on the installation's own
        del hosts[""]
    looks = [_engine([one for one in stored if one.docker_block == name], name, block) for name, block in hosts.items()]
    problems, seen = await asyncio.gather(asked, asyncio.gather(*looks))
    return World(dict(zip(hosts, seen, strict=True)), problems)


def _reach(server: PostgresServer) -> databases.DatabaseServer:
    return databases.DatabaseServer(
        server.host,
        server.port,
        server.username,
        server.password.get_secret_value(),
        server.maintenance_database,
        server.sslmode,
    )


async def _engine(stored: Iterable[Stored], name: str, docker_host: BlockDocument | None) -> Host:
    from docker.errors import DockerException

    if name and docker_host is None:
        missing = f"the block {name} does not exist, and a client's docker_host names it"
        return Host(trouble=NotConfigured(missing, "make it in the Prefect UI under Blocks (Docker Host)"))
    try:
        client = await asyncio.to_thread(docker.connect, docker.docker_host(docker_host))
    except DockerException as error:
        return Host(trouble=engine.no_answer(error, name or docker.BLOCK))
    except DoesNotFit as error:
        return Host(trouble=NotConfigured(error.what, error.cure))
    except (TypeError, ValueError) as error:  # its client_kwargs are whatever somebody typed
        what = f"the block {name or docker.BLOCK} does not open an engine ({type(error).__name__})"
        return Host(trouble=NotConfigured(what, "correct its client_kwargs in the Prefect UI under Blocks"))
    try:
        host = docker.engine_name(client)
        last_seen = {one.client: one.checked_at for one in stored if one.docker_host == host}
        recorded = {one.client: one.container_id for one in stored if one.docker_host == host and one.container_id}
        containers = await asyncio.to_thread(engine.look, client, installation().fleet, last_seen, None, recorded)
    except FleetError as error:
        return Host(trouble=error)
    finally:
        client.close()
    return Host(host, containers)


@task(name="probe", task_run_name="probe {shard}", cache_policy=NO_CACHE, persist_result=False)
async def probe_shard(shard: Shard) -> dict[str, Answer]:
    """Ask the services of a portion of the fleet; an answer for each."""
    return await probes.ask_all(shard.endpoints, shard.slots)


@task(name="judge and write down", cache_policy=NO_CACHE, persist_result=False)
async def settle_poll(look: Look, answers: list[dict[str, Answer]]) -> str:
    """Judge what was seen, write it down in one transaction, publish the fleet's table.

    Returns:
        The poll in one sentence.

    Raises:
        Unreachable, Refused: the engine did not answer; all else is written.
    """
    outcomes, troubles = look.outcomes({slug: answer for shard in answers for slug, answer in shard.items()})
    registry = await open_registry()
    written = await asyncio.to_thread(
        record.write,
        registry,
        look.at,
        look.stored,
        {one.stored.client: one.verdict for one in outcomes},
        {one.stored.client: one.latency_ms for one in outcomes},
    )
    if len(written) < len(outcomes):
        rows = await asyncio.to_thread(instances, registry)
        outcomes = as_written(outcomes, written, {row.client: row.status for row in rows})
    _log_changes(outcomes, written)
    sentence = report.sentence(outcomes, look.seconds(), troubles, look.notes())
    await acreate_table_artifact(
        report.table(outcomes, look.at, installation().time_zone), TABLE, report.table_words(outcomes, sentence)
    )
    if look.world.trouble is not None:
        raise look.world.trouble
    return sentence


def _log_changes(outcomes: Iterable[report.Outcome], written: frozenset[str]) -> None:
    changed = [
        f"{one.stored.client}: {one.stored.status.value} -> {one.verdict.status.value} ({one.verdict.reason})"
        for one in outcomes
        if one.stored.client in written and one.verdict.status is not one.stored.status
    ]
    if changed:
        get_run_logger().warning("\n".join(changed))


@task(name="tell", cache_policy=NO_CACHE, persist_result=False)
async def tell_check(look: Look, answers: list[dict[str, Answer]]) -> str:
    """A line per client, and a sentence for all; nothing is written.

    Raises:
        Unhealthy: a client that is meant to run is not well; every client has its line all the same.
    """
    outcomes, troubles = look.outcomes({slug: answer for shard in answers for slug, answer in shard.items()})
    said = report.lines(outcomes)
    get_run_logger().info("\n".join(said))
    ill = [one.stored.client for one in outcomes if one.counts and not one.well]
    if ill:
        raise Unhealthy(*report.complaint(ill, len(outcomes), said))
    return report.message(report.sentence(outcomes, look.seconds(), troubles, look.notes()), said)

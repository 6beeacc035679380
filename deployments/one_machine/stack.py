"""The one-machine stack: up, down, status. Everything may be run again at any time."""

import asyncio
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.one_machine import containers, engine, ports, processes
from deployments.one_machine.embedded_postgres import EmbeddedPostgres, home_of
from deployments.one_machine.pool import QUEUES
from deployments.one_machine.settings import ROOT, Stack, prepare, write_private
from tasks.errors import NotConfigured, Unreachable

if TYPE_CHECKING:
    from deployments.bootstrap.plan import Wanted

START_SECONDS = 120
PROVISIONER = "zero_provisioner"
ALL = ("worker-health", "worker-work", "flow-launcher", "gateway", "smtp-standin", "google-standin", "server")
"""In the order in which they are stopped."""
PLACES = {"worker-health": "queue health", "worker-work": "queue work", "flow-launcher": "starts the flows' processes"}
"""Of what listens on no port."""


@dataclass(frozen=True)
class Recipe:
    """What this stack runs with besides its settings.

    Args:
        values: settings in the operators' names, as from ``.env``.
        given: makes the blocks that the stack has of its own (embedded PostgreSQL, stand-ins).
        worker: environment for the workers alone.
        before: starts what must run beside (the demo's stand-ins).
        refused: sentences about lines of ``.env`` that cannot be read; bootstrap tells them with what else is wrong.
    """

    values: Mapping[str, str] = field(repr=False)
    given: "Callable[[], list[Wanted]]" = field(default=list)
    worker: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = field(default=lambda: None)
    refused: tuple[str, ...] = ()


def up(place: Stack, recipe: Recipe, say: Callable[[str], None], overwrite: bool = False) -> None:
    """Bring the stack up, from nothing or from whatever part of it runs.

    Raises:
        BadSettings: settings are refused; nothing was started.
        FleetError: what could not be started, and what to do.
    """
    if _wrong(place, recipe):
        require_right(place, recipe)  # raises, before a wrong port is written where workers read it
    ports.require_unmoved(place)
    prepare(place)
    environment = place.environment()
    os.environ.update(environment)  # before Prefect is imported, which reads it then
    require_right(place, recipe)
    ports.require_all_free(place, _ports(place, recipe))
    if engine.ensure(place.logs / "dockerd.log", say):
        (place.run / "dockerd-is-ours").touch()
    first = processes.alive("server", place.run) is None
    if first:
        processes.start(
            "server",
            [sys.executable, "-m", "deployments.one_machine.prefect_server", str(place.port)],
            place.run, place.logs, place.server_environment(), ROOT,
        )  # fmt: skip
    # While the server takes its seconds to start:
    recipe.before()
    given = recipe.given()
    if not recipe.values.get("ZERO_POSTGRES_URL"):
        given += [embedded_server(place, say)]
    else:
        _network(place)
    answers(f"{place.api}/health", "the Prefect server", place, "server")
    say(f"Prefect server answers at {place.ui}")
    asyncio.run(_configure(place, recipe, given, environment, say, overwrite))
    _start_worker(place, "work", recipe, environment)
    started, failed = containers.start_remembered(place.fleet, place.run / "containers.json")
    if started:
        say(f"started again: {', '.join(started)}")
    for line in failed:
        say(f"[red]{line}[/]; free that and run provision-client for it, which says more")
    answers(f"http://127.0.0.1:{place.gateway_port}/health", "the gateway", place, "gateway")
    asyncio.run(_workers_poll(place))
    say(f"two workers and the gateway ({place.gateway_url}) run")


async def _configure(
    place: Stack,
    recipe: Recipe,
    given: "list[Wanted]",
    environment: Mapping[str, str],
    say: Callable[[str], None],
    overwrite: bool,
) -> None:
    from deployments.bootstrap.run import bootstrap
    from deployments.one_machine import pool

    report = await bootstrap(dict(recipe.values), overwrite=overwrite, given=given, refused=recipe.refused)
    for line in report.lines():
        say(line)
    await pool.ensure_pool()
    # The gateway needs no deployment; it starts while they are made.
    processes.start(
        "gateway",
        [sys.executable, "-m", "deployments.gateway", "--host", _gateway_host(), "--port", str(place.gateway_port)],
        place.run, place.logs, environment, ROOT,
    )  # fmt: skip
    gone = [queue for queue in pool.QUEUES if processes.alive(f"worker-{queue}", place.run) is None]
    if gone:
        lost = await pool.crash_orphans(gone)
        if lost:
            say(f"{lost} run(s) that an earlier worker left open are marked as crashed")
        await pool.forget_missed_polls()
    _start_launcher(place, recipe, environment)
    # Not both workers at once: their first heartbeats meet in Prefect's SQLite and lock each other out.
    _start_worker(place, "health", recipe, environment)
    seen = place.state / "deployed"
    wanted = pool.fingerprint(ROOT, environment)
    if not seen.exists() or seen.read_text() != wanted:
        say("deploying prefect.yaml")
        pool.deploy(ROOT, environment, place.logs / "deploy.log")
        await pool.refuse_unknown_parameters()
        write_private(seen, wanted)
    else:
        say("prefect.yaml and the flows are unchanged; nothing to deploy")


def _start_launcher(place: Stack, recipe: Recipe, environment: Mapping[str, str]) -> None:
    if platform.system() == "Linux":  # elsewhere a fork of what Prefect's libraries have opened is not safe
        processes.start(
            "flow-launcher",
            [sys.executable, "-m", "deployments.one_machine.flow_launcher"],
            place.run, place.logs, {**environment, **recipe.worker}, ROOT,
        )  # fmt: skip


def _start_worker(place: Stack, queue: str, recipe: Recipe, environment: Mapping[str, str]) -> None:
    processes.start(
        f"worker-{queue}",
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "fleet", "--type", "process",
         "--work-queue", queue, "--limit", str(QUEUES[queue]), "--name", f"{place.fleet}-{queue}",
         "--install-policy", "never"],
        place.run, place.logs, {**environment, **recipe.worker}, ROOT,
    )  # fmt: skip


async def _workers_poll(place: Stack) -> None:
    """Return when both workers have polled since they were started: a process alone proves nothing.

    Raises:
        Unreachable: one has not, or has ended; where its log is.
    """
    from deployments.one_machine import pool

    deadline = time.monotonic() + START_SECONDS
    waiting = {queue: f"worker-{queue}" for queue in QUEUES}
    while waiting and time.monotonic() < deadline:
        seen = await pool.heartbeats()
        for queue, name in list(waiting.items()):
            process = processes.alive(name, place.run)
            if process is None:
                raise Unreachable(f"{name} ended", f"read the end of {place.logs / name}.log")
            if seen.get(f"{place.fleet}-{queue}", 0.0) >= process.create_time():
                del waiting[queue]
        await asyncio.sleep(0.2)
    for name in waiting.values():
        raise Unreachable(f"{name} did not poll within {START_SECONDS} s", f"read the end of {place.logs / name}.log")


def embedded(place: Stack) -> EmbeddedPostgres:
    """The stack's own PostgreSQL server; listens on Docker's bridge too where the engine runs on this kernel."""
    elsewhere = os.environ.get("DOCKER_HOST", "")
    if elsewhere.startswith(("tcp", "ssh")):
        raise NotConfigured(
            f"containers on DOCKER_HOST={elsewhere} cannot reach the embedded PostgreSQL of this machine",
            "set ZERO_POSTGRES_URL to a server that they can reach",
        )
    listen: tuple[str, ...] = ("127.0.0.1",)
    subnets: tuple[str, ...] = ()
    if engine.is_local() and engine.answers():
        bridge = engine.bridge()
        listen = ("127.0.0.1", bridge.gateway)
        network = _network(place)
        subnets = (bridge.subnet, network)
    return EmbeddedPostgres(
        home_of(place.fleet, place.state), place.postgres_port, place.key("postgres-superuser"), listen, subnets
    )


def _network(place: Stack) -> str:
    return containers.ensure_network(
        place.fleet, f"zero-fleet-{place.fleet}", place.state if (place.state / "demo").exists() else None
    )


def embedded_server(place: Stack, say: Callable[[str], None]) -> "Wanted":
    """Start the embedded PostgreSQL, make its provisioner, close its own databases to PUBLIC; the block that names it."""
    import psycopg
    from psycopg import sql
    from pydantic import SecretStr

    from blocks.clients import PostgresServer
    from deployments.bootstrap.plan import Wanted

    server = embedded(place)
    server.start()
    password = place.key("postgres-provisioner")
    with psycopg.connect(
        host="127.0.0.1", port=server.port, user="postgres", password=server.superuser_password, dbname="postgres",
        autocommit=True, connect_timeout=10,
    ) as connection:  # fmt: skip
        role = sql.Identifier(PROVISIONER)
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (PROVISIONER,)).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        verifier = connection.pgconn.encrypt_password(
            password.encode(), PROVISIONER.encode(), b"scram-sha-256"
        ).decode()
        connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}").format(role, sql.Literal(verifier))
        )
        for database in ("postgres", "template1"):
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), role))
    say(f"embedded PostgreSQL answers on port {server.port}")
    return Wanted(
        "postgres-server",
        PostgresServer,
        {
            "host": "127.0.0.1",
            "port": server.port,
            "username": PROVISIONER,
            "password": SecretStr(password),
            "container_host": "host.docker.internal",
        },
    )


def _gateway_host() -> str:
    # A reverse proxy or a browser on this machine; another address is for whoever sets GATEWAY_HOST.
    return os.environ.get("GATEWAY_HOST") or "127.0.0.1"


def require_right(place: Stack, recipe: Recipe) -> None:
    """Return if every setting is right, before anything is started.

    Raises:
        BadSettings: some are not, of the stack, of its ports and of bootstrap: all of them named at once.
    """
    from deployments.bootstrap.run import judge

    values = {name: value for name, value in recipe.values.items() if name not in place.refused}
    judge(values, refused=[*recipe.refused, *_wrong(place, recipe)])


def _wrong(place: Stack, recipe: Recipe) -> list[str]:
    """What is wrong with the settings of the stack itself."""
    return [*place.refused.values(), *ports.clashes(_ports(place, recipe))]


def _ports(place: Stack, recipe: Recipe) -> list[ports.Port]:
    demo = (place.state / "demo").exists()
    return ports.wanted(place, embedded=not recipe.values.get("ZERO_POSTGRES_URL"), demo=demo)


def answers(url: str, what: str, place: Stack, name: str, seconds: float = START_SECONDS) -> None:
    """Return when ``url`` answers 200.

    Raises:
        Unreachable: it did not within ``seconds``, or its process ``name`` ended; where its log is.
    """
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=3, trust_env=False).status_code == 200:
                return
        if processes.alive(name, place.run) is None:
            break
        time.sleep(0.1)
    raise Unreachable(f"{what} did not start", f"read the end of {place.logs / name}.log")


def down(place: Stack, say: Callable[[str], None]) -> None:
    """Stop our processes, then our containers (kept), then PostgreSQL, then dockerd if we started it. Data stays."""
    if not place.run.exists():
        say(f"nothing was ever started from {place.state}")
        return
    for name in ALL[:-1]:
        processes.ask(name, place.run)  # all at once, for a worker may take its time; the server hears their last words
    for name in ALL:
        if processes.stop(name, place.run):
            say(f"stopped {name}")
    if engine.answers():
        stopped = containers.stop_all(place.fleet, place.run / "containers.json")
        if stopped:
            say(f"stopped {', '.join(stopped)} (kept)")
    home = home_of(place.fleet, place.state)
    server = EmbeddedPostgres(home, place.postgres_port, "")
    if home.exists() and server.running():
        server.stop()
        say("stopped the embedded PostgreSQL")
    if (place.run / "dockerd-is-ours").exists():
        _stop_daemon(place, say)


def _stop_daemon(place: Stack, say: Callable[[str], None]) -> None:
    import docker

    if engine.answers():
        client = docker.from_env(timeout=10)
        others = client.containers.list()
        client.close()
        if others:
            say(f"dockerd goes on: {len(others)} container(s) that are not ours run on it")
            return
    if engine.stop_daemon():
        say("stopped dockerd")
    (place.run / "dockerd-is-ours").unlink(missing_ok=True)


def status(place: Stack) -> list[tuple[str, str, str]]:
    """What runs and where: name, state, address; of what runs the real one, of the rest what the settings say."""
    where = {"server": place.ui, "gateway": place.gateway_url, **PLACES}
    rows = []
    for name in reversed(ALL):
        process = processes.alive(name, place.run)
        if process is not None or name in where:
            state = f"runs (pid {process.pid})" if process else "down"
            rows.append((name, state, _address(place, name) if process else where[name]))
    home = home_of(place.fleet, place.state)
    if home.exists():
        real = ports.listening(place, ports.POSTGRES)
        rows.append(("postgres", "runs" if real else "down", f"127.0.0.1:{real or place.postgres_port}"))
    if not engine.answers():
        return [*rows, ("docker", "down", os.environ.get("DOCKER_HOST", "the default socket"))]
    rows.append(("docker", "runs", os.environ.get("DOCKER_HOST", "the default socket")))
    for found in containers.ours(place.fleet):
        published = [f"{one.get('IP')}:{one['PublicPort']}" for one in found.get("Ports", []) if one.get("PublicPort")]
        rows.append((containers.name(found), str(found["Status"]), ", ".join(published)))
    return rows


def _address(place: Stack, name: str) -> str:
    """Where the process ``name`` is, by what it was started with."""
    if name in PLACES:
        return PLACES[name]
    port = ports.listening(place, name)
    if name == "server":
        return f"http://127.0.0.1:{port}"
    if name == "gateway":
        url = processes.variable(name, place.run, "GATEWAY_URL") or place.gateway_url
        return url if url.endswith(f":{port}") else f"{url} (here: port {port})"
    return f"127.0.0.1:{port}"

"""What tests share: a real PostgreSQL, a real Docker Engine, a migrated registry on both databases, one Prefect server."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
# Flows and steps read these once per process; no test may reach a real installation's state, which a shell may name.
_STATE = Path(f"/tmp/zero-fleet-tests-{os.getpid()}")
os.environ["ZERO_FLEET_STATE"] = str(_STATE)
_FLEET = f"t{os.getpid():x}"
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
ENGINE_LOG = Path("/tmp/zero-fleet-dockerd.log")
os.environ["ZERO_FLEET_FLEET"] = _FLEET
_STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ["PREFECT_HOME"] = str(_STATE / "prefect")
for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_PROFILE", "TIME_ZONE", "GATEWAY_URL"):
    os.environ.pop(name, None)
if _WORKER:  # two sessions at once on one machine give out ports of their own
    _first = 20_000 + 1_000 * int(_WORKER.removeprefix("gw"))
    os.environ["ZERO_FLEET_PORTS"] = f"{_first}-{_first + 999}"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="fault and concurrency tests with their full counts")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make what two sessions at once would both make: the engine, and the image that both have to see as one."""
    if not session.config.getoption("numprocesses", None):
        return
    from deployments.one_machine import engine
    from tests.standins.zero.build import TAG, build

    engine.ensure(ENGINE_LOG, lambda line: print(line, file=sys.stderr))
    build(TAG)


def pytest_unconfigure() -> None:
    """Remove the state folder, also where no test ran, as in the session that two others are started from."""
    shutil.rmtree(_STATE, ignore_errors=True)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two halves that may run at once, because the tests wait more than they work; what shares a client's images and
    repositories is in one of them. (Marks for groups have no effect with pytest 9.2 and pytest-xdist 3.8.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Halves(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "clients" if nodeid.startswith(("tests/flows/clients/", "tests/tasks/clients/")) else "rest"

    return Halves(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What counts more under --soak, or dies at more points, is what `make soak` runs."""
    for item in items:
        if {"soak", "point"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether counts are the full ones (``make soak``)."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session", autouse=True)
def _state_folder() -> None:
    _sweep_dead_sessions()
    _STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    (_STATE / "pid").write_text(str(os.getpid()))


def _sweep_dead_sessions() -> None:
    """What killed test sessions left behind: their folders and their PostgreSQL servers."""
    from deployments.one_machine.embedded_postgres import OWN_FOLDER, EmbeddedPostgres

    for folder in [*Path("/tmp").glob("zero-fleet-tests-*"), *OWN_FOLDER.glob("tests-*")]:
        pid = folder.name.rsplit("-", 1)[-1]
        if pid.isdigit() and not _alive(int(pid)):
            if (folder / "postgres").exists():
                EmbeddedPostgres(folder / "postgres", 0, "").remove()
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def fleet() -> str:
    """The fleet id of this test session."""
    return _FLEET


@pytest.fixture(scope="session")
def _engine() -> None:
    from deployments.one_machine import engine

    engine.ensure(ENGINE_LOG, lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="session")
def docker_client(_engine: None, fleet: str) -> Iterator["object"]:
    """The machine's real engine; containers and networks of this session's fleet are gone afterwards."""
    import docker

    client = docker.from_env(timeout=60)
    _remove_of(client, lambda owner: owner == fleet or _is_dead_session(owner))
    yield client
    _remove_of(client, lambda owner: owner == fleet)
    client.close()


def _is_dead_session(owner: str | None) -> bool:
    """Whether a fleet id is that of a test session which was killed."""
    return bool(owner and re.fullmatch(r"t[0-9a-f]{1,8}", owner) and not _alive(int(owner[1:], 16)))


def _remove_of(client, mine) -> None:  # type: ignore[no-untyped-def]
    from docker.errors import APIError, NotFound

    from tasks.registry.names import LABEL_FLEET

    for found in client.api.containers(all=True, filters={"label": LABEL_FLEET}):
        if mine(found["Labels"][LABEL_FLEET]):
            try:
                client.api.remove_container(found["Id"], force=True, v=True)
            except (NotFound, APIError):
                continue
    for found in client.api.networks(filters={"label": LABEL_FLEET}):
        if mine((found.get("Labels") or {}).get(LABEL_FLEET)):
            try:
                client.api.remove_network(found["Id"])
            except (NotFound, APIError):
                continue


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that tests may fill."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    home: Path = Path()

    def connect(self, database: str = "postgres", **other):  # type: ignore[no-untyped-def]
        """A psycopg connection in autocommit mode."""
        import psycopg

        given = {"user": self.username, "password": self.password, **other}
        return psycopg.connect(
            host=self.host, port=self.port, dbname=database, autocommit=True, connect_timeout=5, **given
        )


@pytest.fixture(scope="session")
def pg_bin() -> Path:
    """Folder of psql, pg_dump and pg_ctl."""
    from deployments.one_machine.embedded_postgres import client_programs

    return client_programs()


@pytest.fixture(scope="session")
def postgres_server(_engine: None) -> Iterator[Server]:
    """A real PostgreSQL 16 as superuser; containers reach it at host.docker.internal with the same port."""
    from deployments.one_machine import engine
    from deployments.one_machine.embedded_postgres import OWN_FOLDER, EmbeddedPostgres

    base = OWN_FOLDER / f"tests-{os.getpid()}" if os.geteuid() == 0 else _STATE
    bridge = engine.bridge()
    embedded = EmbeddedPostgres(
        base / "postgres",
        free_port(),
        "superuser-" + secrets.token_hex(8),
        ("127.0.0.1", bridge.gateway),
        (bridge.subnet, "172.16.0.0/12", "192.168.0.0/16"),
    )
    embedded.start()
    yield Server("127.0.0.1", embedded.port, "postgres", embedded.superuser_password, embedded.home)
    embedded.remove()
    if os.geteuid() == 0:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["object"]:
    """A migrated, empty registry, once on SQLite and once on PostgreSQL."""
    from sqlalchemy import make_url

    from blocks.registry import open_engine
    from tasks.registry.revision import upgrade

    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/registry.sqlite"
        upgrade(url)
        engine = open_engine(make_url(url))
        yield engine
        engine.dispose()
        return
    server: Server = request.getfixturevalue("postgres_server")
    name = f"registry_{secrets.token_hex(4)}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"postgresql+psycopg://{server.username}:{server.password}@{server.host}:{server.port}/{name}"
    upgrade(url)
    engine = open_engine(make_url(url))
    yield engine
    engine.dispose()
    with server.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """The one-machine stack's Prefect server on a database of its own; entering takes about 10 s, so once per session."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    def ours(self: SubprocessASGIServer) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PREFECT_UI_ENABLED": "0",
            **get_current_settings().to_environment_variables(exclude_unset=True),
        }
        command = [sys.executable, "-m", "deployments.one_machine.prefect_server", str(self.port)]
        return subprocess.Popen(command, env=environment, cwd=ROOT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessASGIServer, "_run_uvicorn_command", ours)
        with prefect_test_harness(server_startup_timeout=90):
            yield


@pytest.fixture(scope="session")
def installed_registry(prefect_api: None) -> "object":
    """The SQLite registry where steps look for it in this session, migrated."""
    from sqlalchemy import make_url

    from blocks.installation import installation
    from blocks.registry import open_engine
    from tasks.registry.revision import upgrade

    url = f"sqlite:///{installation().registry_file}"
    upgrade(url)
    return open_engine(make_url(url))

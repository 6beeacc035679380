"""A whole one-machine stack of a test session's own, with the demo's stand-ins: started, killed in parts, asked and removed."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments.one_machine import flow_launcher, processes, stack
from deployments.one_machine.embedded_postgres import EmbeddedPostgres
from deployments.one_machine.runs import Api, Ended
from deployments.one_machine.settings import ROOT, Stack
from tasks.registry.names import LABEL_CLIENT, ClientNames

PREFIX = "zero-fleet-stack-"
"""Of the folder under /tmp that holds a session's state folder; the session's pid follows."""
RUN_SECONDS = 150


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


@dataclass
class RunningStack:
    """The stack that runs, and the variables under which its commands are called."""

    place: Stack
    variables: dict[str, str]
    image: str

    def command(self, what: str) -> str:
        """``python -m deployments.one_machine what``, as the Makefile calls it; its output."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments.one_machine", what],
            cwd=ROOT, env=bare_environment() | self.variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{what} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def up(self) -> str:
        """Bring up whatever does not run."""
        return self.command("up")

    # Runs

    async def run(self, deployment: str, **parameters: Any) -> Ended:
        """One run of a deployment, to its end."""
        api = Api(self.place)
        try:
            return await api.wait(await api.start(f"{deployment}/default", parameters), RUN_SECONDS)
        finally:
            await api.close()

    async def provision(self, client: str, **changes: Any) -> Ended:
        """provision-client with a spec that suits the stand-in."""
        return await self.run("provision-client", client=client, spec=self.spec(**changes))

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A spec that suits the stand-in."""
        return {"image": self.image, "memory": 256, "ready_within": 45, **changes}

    async def good(self, deployment: str, **parameters: Any) -> Ended:
        """A run that has to complete."""
        ended = await self.run(deployment, **parameters)
        assert ended.state == "COMPLETED", f"{deployment} ended {ended.state}: {ended.message}"
        return ended

    # Prefect's API beyond what `Api` offers

    def http(self) -> httpx.Client:
        """A client of Prefect's API."""
        user, _, password = self.place.auth.partition(":")
        return httpx.Client(base_url=self.place.api, auth=(user, password), timeout=30, trust_env=False)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call that has to succeed; SQLite's "busy" is asked again."""
        with self.http() as http:
            for _ in range(20):
                answer = http.request(method, path, json=body)
                if answer.status_code not in (429, 503):
                    break
                time.sleep(0.3)
            assert answer.is_success, f"{method} {path} -> {answer.status_code} {answer.text[:300]}"
            return answer.json() if answer.content else None

    def state_of(self, run: str) -> str:
        """The type of a run's state."""
        return str(self.ask("GET", f"/flow_runs/{run}")["state"]["type"])

    def blocks(self) -> dict[str, Any]:
        """All block documents with their secrets, by name."""
        found = self.ask("POST", "/block_documents/filter", {"include_secrets": True, "limit": 200})
        return {document["name"]: document for document in found}

    @contextlib.contextmanager
    def edited(self, block: str, **data: Any) -> Iterator[None]:
        """The block with other values, as somebody edited it in the UI; put back afterwards."""
        document = self.blocks()[block]
        before = {name: document["data"].get(name) for name in data}
        path = f"/block_documents/{document['id']}"
        self.ask("PATCH", path, {"data": data, "merge_existing_data": True})
        try:
            yield
        finally:
            self.ask("PATCH", path, {"data": before, "merge_existing_data": True})

    @contextlib.contextmanager
    def without(self, block: str) -> Iterator[None]:
        """No such block; made again afterwards."""
        document = self.blocks()[block]
        self.ask("DELETE", f"/block_documents/{document['id']}")
        try:
            yield
        finally:
            kept = {name: document[name] for name in ("name", "data", "block_schema_id", "block_type_id")}
            self.ask("POST", "/block_documents/", kept)

    # Its processes

    def flows_of(self, queue: str) -> list[psutil.Process]:
        """The processes of a queue's flows: the worker's children, and the launcher's forks that those asked for."""
        worker = processes.alive(f"worker-{queue}", self.place.run)
        asking = worker.children(recursive=True) if worker else []
        names = set[str]()
        for process in asking:
            with contextlib.suppress(psutil.Error):
                names.add(flow_launcher.name_of(process.environ().get("PREFECT__FLOW_RUN_ID", "")))
        launcher = processes.alive("flow-launcher", self.place.run)
        forks = launcher.children() if launcher else []
        return [*asking, *(fork for fork in forks if _name(fork) in names)]

    def kill(self, *victims: psutil.Process) -> None:
        """SIGKILL each, in this order and without a pause, and see that all are gone within two seconds."""
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        left = survivors(victims)
        assert not left, f"still there after SIGKILL: {left}"

    def process(self, name: str) -> psutil.Process:
        """One of the stack's processes, which has to run."""
        found = processes.alive(name, self.place.run)
        assert found is not None, f"{name} does not run"
        return found

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The embedded server."""
        return stack.embedded(self.place)

    # What there is

    def connect(self, database: str = "postgres", **other: Any) -> Any:
        """A psycopg connection as superuser, or as ``user`` with ``password``."""
        import psycopg

        who = {"user": "postgres", "password": self.place.key("postgres-superuser"), **other}
        return psycopg.connect(
            host="127.0.0.1", port=self.place.postgres_port, dbname=database, autocommit=True, connect_timeout=5, **who
        )

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Rows of the registry."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.place.state / 'registry.sqlite'}?mode=ro", uri=True, timeout=5)
        ) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]

    async def step_begun(self, client: str, step: str, seconds: float = 60) -> None:
        """Return when the journal shows that ``step`` on ``client`` has begun."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.rows("SELECT 1 FROM step_journal WHERE client = ? AND step = ?", client, step):
                return
            await asyncio.sleep(0.004)
        raise AssertionError(f"{step} on {client} did not begin within {seconds:.0f} s")

    def of_client(self, client: str) -> dict[str, list[str]]:
        """Everything that anybody has of ``client``: containers, databases, roles, rows and blocks."""
        import docker

        name = ClientNames(client).container
        engine = docker.from_env(timeout=30)
        try:
            found = [
                one["Names"][0].lstrip("/")
                for one in engine.api.containers(all=True)
                if one["Labels"].get(LABEL_CLIENT) == client or name in one["Names"][0]
            ]
        finally:
            engine.close()
        with self.connect() as connection:
            like = f"%{name}%"
            databases = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (like,)).fetchall()
            roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", (like,)).fetchall()
        return {
            "containers": found,
            "databases": [row[0] for row in databases],
            "roles": [row[0] for row in roles],
            "clients": [row["slug"] for row in self.rows("SELECT slug FROM client WHERE slug = ?", client)],
            "ports": [
                str(row["host_port"])
                for row in self.rows("SELECT host_port FROM zero_instance WHERE client = ?", client)
            ],
            "holds": [row["holder"] for row in self.rows("SELECT holder FROM hold WHERE name = ?", client)],
            "blocks": [name for name in self.blocks() if name == f"zero-{client}"],
        }

    def nothing_of(self, client: str) -> None:
        """See that there is nothing of ``client`` anywhere."""
        found = {what: names for what, names in self.of_client(client).items() if names}
        assert not found, f"half made of {client}: {found}"

    def one_of_each(self, client: str) -> int:
        """See exactly one container, database, role, row and port of ``client``, and a service that answers; its port."""
        import docker

        name = ClientNames(client).container
        (row,) = self.rows("SELECT * FROM zero_instance WHERE client = ?", client)
        assert self.of_client(client) == {
            "containers": [name], "databases": [name], "roles": [name], "clients": [client],
            "ports": [str(row["host_port"])], "holds": [], "blocks": [f"zero-{client}"],
        }  # fmt: skip
        assert (row["status"], row["last_error"]) == ("running", None)
        engine = docker.from_env(timeout=30)
        try:
            container = engine.containers.get(name)
            assert container.id == row["container_id"] and container.status == "running"
            published = container.attrs["NetworkSettings"]["Ports"]["3000/tcp"]
        finally:
            engine.close()
        assert published == [{"HostIp": "127.0.0.1", "HostPort": str(row["host_port"])}]
        answer = httpx.get(f"http://127.0.0.1:{row['host_port']}/api/auth/ok", timeout=5, trust_env=False)
        assert answer.json() == {"ok": True}
        return int(row["host_port"])


def survivors(victims: tuple[psutil.Process, ...] | list[psutil.Process], seconds: float = 2.0) -> list[psutil.Process]:
    """Those that still run after ``seconds``; what only waits to be reaped does not."""
    deadline = time.monotonic() + seconds
    left = list(victims)
    while left and time.monotonic() < deadline:
        left = [one for one in left if _runs(one)]
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def bare_environment() -> dict[str, str]:
    """This process's environment without what the tests' session and an operator may have set for Prefect and us."""
    ours = ("PREFECT_", "ZERO_", "GATEWAY_", "EMAIL_", "GOOGLE_", "GMAIL_", "DEMO_", "TIME_ZONE", "DATABASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def start(folder: Path, image: str) -> RunningStack:
    """Bring a stack up in ``folder``; call ``remove`` on the folder afterwards, whatever happens."""
    state = folder / "state"
    (state / "demo").mkdir(mode=0o700, parents=True)
    first = _free_ports()
    place = Stack(state, first, f"http://localhost:{first + 6}", first + 6, "UTC", "28000-28999")
    variables = {
        "ZERO_FLEET_STATE": str(state),
        "ZERO_FLEET_PORT": str(first),
        "GATEWAY_URL": place.gateway_url,
        "ZERO_FLEET_PORTS": place.ports,
        "TIME_ZONE": place.time_zone,
    }
    # Whoever sweeps after a killed session needs them.
    (folder / "variables.json").write_text(json.dumps(variables))
    running = RunningStack(place, variables, image)
    running.up()
    return running


def remove(folder: Path) -> None:
    """Stop the stack of ``folder`` and delete everything that it made, the folder too."""
    kept, fleet = folder / "variables.json", folder / "state" / "fleet"
    if kept.exists():
        confirmed = ["--confirm", fleet.read_text()] if fleet.exists() else []
        done = subprocess.run(
            [sys.executable, "-m", "deployments.one_machine", "clean", *confirmed],
            cwd=ROOT, env=bare_environment() | json.loads(kept.read_text()), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"clean failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the stacks of sessions that were killed."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX)
        if pid.isdigit() and not _session_runs(int(pid)):
            _stop_commands(str(folder / "state"))
            remove(folder)


def _stop_commands(state: str) -> None:
    """End an ``up`` that a killed session left in the middle; it would make anew what is being removed."""
    commands = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "deployments.one_machine" in process.cmdline() and process.environ().get("ZERO_FLEET_STATE") == state:
                process.kill()
                commands.append(process)
    survivors(commands)


def _session_runs(pid: int) -> bool:
    try:
        return _runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _free_ports() -> int:
    """The first of seven ports in a row that are free now, outside the range that the system hands out."""
    for first in range(24100, 27900, 10):
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(first, first + 7):
                held.enter_context(contextlib.closing(socket.socket())).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no seven free ports in a row from 24100 to 27900")

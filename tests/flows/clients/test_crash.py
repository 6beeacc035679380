"""provision-client killed at any point, and many of it at once: the next run ends where one run would have."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from prefect.settings import get_current_settings

from flows.clients.provision import provision_client
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import ClientNames
from tasks.registry.spec import SpecChanges

POINTS = [
    "ports.reserve",
    "-steps.client_blocks.save",
    "steps.client_blocks.save",
    "-postgres._grant",
    "containers._create",
    "-containers.start",
    "readiness.until_ready",
]
MORE = ["postgres._ensure_role", "postgres._ensure_database", "postgres.open_public_schema", "containers.create",
        "containers.start", "containers.ensure_network", "provisioning.announce", "provisioning.finish"]  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every point with --soak."""
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", POINTS + MORE if metafunc.config.getoption("--soak") else POINTS)


def process(point: str, client: str, image: str) -> subprocess.Popen[str]:
    """A run in a process of its own, against the test session's server."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.flows.clients.crash", point, client, image],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def one_of_each(house, docker_client, postgres_server, slug: str) -> None:
    """Exactly one container, database, role and port, and a service that answers."""
    names, row = ClientNames(slug), queries.get_instance(house, slug)
    assert row.status == Status.RUNNING and row.last_error is None
    found = docker_client.api.containers(all=True, filters={"label": f"zero-fleet.client={slug}"})
    assert [container["Id"] for container in found] == [row.container_id]
    assert [port["PublicPort"] for port in found[0]["Ports"]] == [row.host_port]
    with postgres_server.connect() as connection:
        for query in (
            "SELECT count(*) FROM pg_roles WHERE rolname = %s",
            "SELECT count(*) FROM pg_database WHERE datname = %s",
        ):
            assert connection.execute(query, (names.role,)).fetchone() == (1,)
    assert httpx.get(f"http://127.0.0.1:{row.host_port}/api/auth/ok", trust_env=False).json() == {"ok": True}


async def test_a_run_that_was_killed_is_finished_by_the_next(
    house, zero_image, slug, docker_client, postgres_server, point
):
    killed = process(point, slug, zero_image)
    said, _ = await asyncio.to_thread(killed.communicate, timeout=90)
    assert killed.returncode == -signal.SIGKILL, said
    began = time.monotonic()
    state = await provision_client(slug, SpecChanges(image=zero_image, memory=256, ready_within=30), return_state=True)
    assert state.is_completed(), state.message
    assert time.monotonic() - began < 60
    one_of_each(house, docker_client, postgres_server, slug)
    again = await provision_client(slug, SpecChanges(), return_state=True)
    assert "nothing to change" in again.message


async def test_several_processes_that_provision_one_client_make_one(
    house, zero_image, slug, docker_client, postgres_server, soak
):
    runs = [process("none", slug, zero_image) for _ in range(20 if soak else 3)]
    said = [(await asyncio.to_thread(run.communicate, timeout=300))[0] for run in runs]
    held = [text for text in said if f"{slug} is held by run" in text]
    assert all("STATE COMPLETED" in text for text in said if text not in held), said
    assert sum("nothing to change" in text for text in said) == len(runs) - len(held) - 1
    assert soak or not held
    one_of_each(house, docker_client, postgres_server, slug)


async def test_several_clients_at_once_get_their_own_everything(
    house, zero_image, slugs, docker_client, postgres_server, soak
):
    names = [slugs() for _ in range(20 if soak else 3)]
    runs = [process("none", name, zero_image) for name in names]
    said = [(await asyncio.to_thread(run.communicate, timeout=300))[0] for run in runs]
    assert all("STATE COMPLETED" in text for text in said), said
    assert len({queries.get_instance(house, name).host_port for name in names}) == len(names)
    for name in names:
        one_of_each(house, docker_client, postgres_server, name)


async def test_a_second_run_waits_and_then_says_who_holds_the_client(house, zero_image, slug, monkeypatch):
    from blocks.installation import installation
    from tasks.clients.steps import operation as steps
    from tasks.registry.lock import hold

    short = steps.hold
    monkeypatch.setattr(steps, "hold", lambda *given, **named: short(*given, **{**named, "wait": 0.5}))
    with hold(house, slug, "run 12345678 (upgrade it)", installation().locks):
        state = await provision_client(slug, SpecChanges(image=zero_image), return_state=True)
    assert state.is_failed() and f"{slug} is held by run 12345678 (upgrade it) since" in state.message
    assert queries.find_instance(house, slug) is None

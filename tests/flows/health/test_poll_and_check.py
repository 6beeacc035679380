"""The poll and the check as flows, against a real Prefect server, a real engine and a real PostgreSQL."""

import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from tasks.health.probes import ask
from tasks.health.samples import Container, Stored
from tasks.registry import queries
from tasks.registry.models import HealthTransition, Status
from tasks.registry.names import ClientNames
from tests.tasks.health.containers import Containers


@pytest.fixture
async def fleet_of_three(
    containers: Containers,
    installed_registry: Engine,
    postgres_server: Any,
) -> AsyncIterator[tuple[str, str, str]]:
    """One client that is well, one whose service does not listen, one whose database is gone."""
    from blocks.clients import PostgresServer

    for other in queries.instances(installed_registry):  # of tests before; their containers are gone
        queries.forget_client(installed_registry, other.client)
    await PostgresServer(
        host=postgres_server.host,
        port=postgres_server.port,
        username=postgres_server.username,
        password=postgres_server.password,
    ).save("postgres-server", overwrite=True)
    ports = {"ports": {"3000/tcp": ("127.0.0.1", None)}}
    slugs = (containers.run(**ports), containers.run("import time; time.sleep(600)", **ports), containers.run(**ports))
    with postgres_server.connect() as connection:
        for slug in slugs[:2]:
            connection.execute(f"CREATE DATABASE {ClientNames(slug).database}")
    for slug in slugs:
        port = int(containers.of(slug).ports["3000/tcp"][0]["HostPort"])
        queries.register_client(installed_registry, slug)
        queries.update_instance(installed_registry, slug, host_port=port, status=Status.STARTING)
    for slug in (slugs[0], slugs[2]):
        await _answers(Stored.of(queries.get_instance(installed_registry, slug)))
    yield slugs
    for slug in slugs:
        queries.forget_client(installed_registry, slug)
    with postgres_server.connect() as connection:
        for slug in slugs[:2]:
            connection.execute(f"DROP DATABASE {ClientNames(slug).database} WITH (FORCE)")


async def _answers(stored: Stored) -> None:
    endpoint = stored.endpoint(Container("x", "running"), "127.0.0.1")
    assert endpoint is not None
    until = time.monotonic() + 20
    while not (await ask(endpoint)).well:
        assert time.monotonic() < until


async def poll() -> Any:
    from flows.health.poll import poll_fleet_health

    return await poll_fleet_health(return_state=True)


async def check(*clients: str) -> Any:
    from flows.health.check import check_zero_health

    return await check_zero_health(list(clients), return_state=True)


def statuses(registry: Engine, slugs: tuple[str, ...]) -> list[Status]:
    return [queries.get_instance(registry, slug).status for slug in slugs]


def transitions(registry: Engine, slug: str) -> list[tuple[str, str]]:
    with Session(registry) as session:
        found = session.exec(select(HealthTransition).where(HealthTransition.client == slug))
        return [(row.old, row.new) for row in found]


async def test_polls_tell_who_is_well_and_change_a_status_once(
    fleet_of_three: tuple[str, str, str], installed_registry: Engine
) -> None:
    from prefect.artifacts import Artifact

    well, deaf, without_database = fleet_of_three
    state = await poll()
    assert state.is_completed() and " healthy in " in state.message
    assert f"{without_database}: its database {ClientNames(without_database).database} does not exist" in state.message
    assert statuses(installed_registry, fleet_of_three) == [Status.RUNNING, Status.STARTING, Status.STARTING]
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    for slug in (deaf, without_database):
        queries.update_instance(installed_registry, slug, status=Status.RUNNING)
        assert queries.get_instance(installed_registry, slug).updated_at > long_ago
    for _ in range(2):
        await poll()
    assert statuses(installed_registry, fleet_of_three) == [Status.RUNNING] * 3
    for _ in range(2):
        await poll()
    assert statuses(installed_registry, fleet_of_three) == [Status.RUNNING, Status.UNHEALTHY, Status.DEGRADED]
    assert transitions(installed_registry, well) == [("starting", "running")]
    assert transitions(installed_registry, deaf) == [("running", "unhealthy")]
    artifact = await Artifact.get("fleet")
    assert (
        artifact is not None and artifact.type == "table" and well in str(artifact.data) and "ms" in str(artifact.data)
    )
    assert queries.get_instance(installed_registry, well).latency_ms


async def test_a_container_that_is_gone_is_missing_at_the_next_poll(
    fleet_of_three: tuple[str, str, str],
    installed_registry: Engine,
    containers: Containers,
) -> None:
    well = fleet_of_three[0]
    await poll()
    containers.of(well).rename(f"gone_{secrets.token_hex(4)}")
    await poll()
    assert queries.get_instance(installed_registry, well).status is Status.MISSING
    assert transitions(installed_registry, well) == [("starting", "running"), ("running", "missing")]


async def test_a_container_of_no_client_is_said_by_the_poll_and_left_alone(
    fleet_of_three: tuple[str, str, str], installed_registry: Engine, containers: Containers
) -> None:
    orphan = containers.run()
    words = f"orphans, containers of this fleet for clients that the registry does not know: {orphan} ("
    assert words in (await poll()).message
    assert words not in (await check(fleet_of_three[0])).message
    for slug in fleet_of_three:
        queries.forget_client(installed_registry, slug)
    assert "there are no clients yet" in (message := (await poll()).message) and orphan in message
    assert containers.of(orphan).status == "running"


async def test_a_check_names_those_not_healthy_and_hides_none(
    fleet_of_three: tuple[str, str, str], installed_registry: Engine
) -> None:
    well, deaf, without_database = fleet_of_three
    state = await check(well)
    assert state.is_completed() and state.message.startswith("1 of 1 healthy in ")
    state = await check(well, deaf, without_database)
    assert state.is_failed()
    assert state.message.startswith(f"2 of 3 not healthy: {', '.join(sorted([deaf, without_database]))}; ")
    for line in (f"{well}: healthy, /health answered 200", f"{deaf}: unhealthy, ", f"{without_database}: degraded, "):
        assert f"\n{line}" in state.message
    assert statuses(installed_registry, fleet_of_three) == [Status.STARTING] * 3, "a check writes nothing"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("no-such-client", "there is no client 'no-such-client'"),
        ("acme'; drop", "is no slug"),
        ("../etc", "is no slug"),
        ("a" * 200, "is no slug"),
        ("ünicode", "is no slug"),
    ],
)
async def test_a_wrong_name_fails_with_a_sentence(named: str, words: str, installed_registry: Engine) -> None:
    state = await check(named)
    assert state.is_failed() and words in state.message


async def test_a_check_without_an_engine_fails_with_a_sentence(
    fleet_of_three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    state = await check(fleet_of_three[0])
    assert state.is_failed() and state.message.startswith("the Docker engine does not answer")


async def test_polls_without_an_engine_fail_in_one_sentence_and_make_clients_unknown(
    fleet_of_three: tuple[str, str, str], installed_registry: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await poll()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    for _ in range(3):
        state = await poll()
        assert state.is_failed() and state.message.startswith("the Docker engine does not answer")
    assert statuses(installed_registry, fleet_of_three)[0] is Status.UNKNOWN


async def test_a_poll_that_starts_over_a_minute_late_is_superseded(installed_registry: Engine) -> None:
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Scheduled

    from flows.health.poll import poll_fleet_health

    async with get_client() as api:
        due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(seconds=90))
        run = await api.create_flow_run(poll_fleet_health, state=due)
        state = await run_flow(poll_fleet_health, flow_run=run, return_type="state")
    assert state.is_completed() and state.message.startswith("superseded: due at ")

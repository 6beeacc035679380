"""Writing a poll down, on SQLite and on PostgreSQL."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from tasks.clock import now
from tasks.health import record
from tasks.health.judgement import Verdict
from tasks.registry import queries
from tasks.registry.models import Client, HealthTransition, Status, ZeroInstance

ILL = Verdict(Status.UNHEALTHY, 0, 0, 3, "refused", "refused")
WELL = Verdict(Status.RUNNING, 0, 0, 0, None)


def transitions(engine: Engine) -> list[tuple[str, str, str, str]]:
    with Session(engine) as session:
        return [(row.client, row.old, row.new, row.reason) for row in session.exec(select(HealthTransition))]


def fleet(engine: Engine, *slugs: str) -> dict[str, record.Stored]:
    for slug in slugs:
        queries.register_client(engine, slug)
        queries.update_instance(engine, slug, status=Status.RUNNING)
    return {one.client: one for one in record.read(engine)}


def test_a_change_is_written_with_its_transition_and_the_rest_without(registry: Engine) -> None:
    stored = fleet(registry, "acme", "beta")
    at = now()
    written = record.write(registry, at, stored, {"acme": ILL, "beta": WELL}, {"beta": 12.5})
    assert written == {"acme", "beta"}
    assert transitions(registry) == [("acme", "running", "unhealthy", "refused")]
    acme, beta = (queries.get_instance(registry, slug) for slug in ("acme", "beta"))
    assert (acme.status, acme.last_error, acme.restart_count, acme.updated_at) == ("unhealthy", "refused", 3, at)
    assert (beta.latency_ms, beta.checked_at) == (12.5, at)
    assert beta.updated_at == stored["beta"].updated_at, "since when it is running does not move"


def test_a_row_that_an_operation_touched_meanwhile_is_left_as_it_is(registry: Engine) -> None:
    stored = fleet(registry, "acme", "beta")
    queries.update_instance(registry, "acme", status=Status.STARTING)
    assert record.write(registry, now(), stored, {"acme": ILL, "beta": ILL}, {}) == {"beta"}
    assert queries.get_instance(registry, "acme").status is Status.STARTING
    assert [row[0] for row in transitions(registry)] == ["beta"]


def test_two_polls_that_saw_the_same_make_one_transition(registry: Engine) -> None:
    stored = fleet(registry, "acme")
    assert record.write(registry, now(), stored, {"acme": ILL}, {}) == {"acme"}
    assert record.write(registry, now() + timedelta(seconds=1), stored, {"acme": ILL}, {}) == frozenset()
    assert len(transitions(registry)) == 1


def test_an_empty_fleet_writes_nothing(registry: Engine) -> None:
    assert record.write(registry, now(), {}, {}, {}) == frozenset()


@pytest.mark.soak
def test_a_whole_fleet_is_written_in_one_go(registry: Engine, soak: bool) -> None:
    count = 10_000 if soak else 1_000
    with Session(registry) as session:
        session.add_all([Client(slug=f"c{number}") for number in range(count)])
        session.flush()
        session.add_all([ZeroInstance(client=f"c{number}", status=Status.RUNNING) for number in range(count)])
        session.commit()
    stored = {one.client: one for one in record.read(registry)}
    started = time.monotonic()
    written = record.write(registry, now(), stored, dict.fromkeys(stored, replace(ILL)), {})
    assert len(written) == count == len(transitions(registry))
    assert time.monotonic() - started < count / 400, "row by row it takes a millisecond each and more"

"""How much of provision-client's time is its own: less Docker's, PostgreSQL's, and waiting for the service.

Each round provisions a new client as an operator would, by a deployment run over the API, and takes it away again.
"""

import asyncio
import functools
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine, make_url
from sqlmodel import Session, col, delete

from deployments.one_machine.engine import ensure
from deployments.one_machine.runs import Api
from deployments.one_machine.settings import Stack
from tasks.registry import journal
from tasks.registry.models import Client, HealthTransition, Hold, StepJournal, ZeroInstance
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, ClientNames
from tests.bench.figures import Figure, Measure, Pair
from tests.bench.stack import running_stack

DEADLINE = 300
"""Seconds for one provisioning."""


@contextmanager
def provisioning() -> Iterator[tuple[Stack, Engine, str]]:
    """A running stack, its registry, and the image to provision with."""
    from blocks.registry import open_engine
    from tests.standins.zero.build import TAG, build

    ensure(Path(tempfile.gettempdir()) / "zero-fleet-dockerd.log", lambda line: print(line, flush=True))
    image = os.environ.get("ZERO_IMAGE") or TAG
    if image == TAG:
        build(TAG)
    with running_stack() as place:
        registry = open_engine(make_url(f"sqlite:///{place.state.resolve() / 'registry.sqlite'}"))
        try:
            yield place, registry, image
        finally:
            registry.dispose()


@contextmanager
def _own_share() -> Iterator[Measure]:
    with provisioning() as (place, registry, image):
        # A name of our own each time: nothing that we take away may be somebody's.
        yield functools.partial(_round, place, registry, image, secrets.token_hex(3))


def _round(place: Stack, registry: Engine, image: str, token: str, number: int) -> Pair:
    spent = asyncio.run(provision_and_remove(place, registry, image, f"bench-b{token}-{number}"))
    return Pair(spent.total - spent.outside, spent.total)


@dataclass(frozen=True)
class Spent:
    """Seconds of one provision-client: from Running to Completed, of those outside, and of those waiting for the service."""

    total: float
    outside: float
    waiting: float


async def provision_and_remove(place: Stack, registry: Engine, image: str, slug: str) -> Spent:
    """Provision a client by a deployment run over the API, and take it away again."""
    api = Api(place)
    run, steps = "", list[StepJournal]()
    try:
        run = await api.start("provision-client/default", {"client": slug, "spec": {"image": image}})
        ended = await api.wait(run, DEADLINE)
        if ended.state != "COMPLETED":
            raise RuntimeError(f"provision-client ended {ended.state}: {ended.message}")
        total = _running_to_completed(await api.get(f"/flow_run_states/?flow_run_id={run}"))
    finally:
        steps = journal.of_run(registry, run)
        await _remove(place, api, registry, slug, run)
        await api.close()
    outside = {step.step: step.outside_seconds or 0.0 for step in steps}
    if "ready" not in outside:
        raise RuntimeError("the run left no step journal in the state folder's registry")
    return Spent(total, sum(outside.values()), outside["ready"])


async def provision_at_once(place: Stack, registry: Engine, image: str, slugs: list[str]) -> float:
    """Provision several clients by deployment runs that are started together; seconds from the first's Running to the last's
    Completed. They are taken away again.
    """
    api = Api(place)
    runs: list[str] = []
    try:
        wanted = [{"client": slug, "spec": {"image": image}} for slug in slugs]
        runs = list(await asyncio.gather(*(api.start("provision-client/default", one) for one in wanted)))
        await _all_completed(api, runs)
        moments = [_moments(await api.get(f"/flow_run_states/?flow_run_id={run}")) for run in runs]
    finally:
        for slug, run in zip(slugs, runs, strict=False):
            await _remove(place, api, registry, slug, run)
        await api.close()
    return (max(at["COMPLETED"] for at in moments) - min(at["RUNNING"] for at in moments)).total_seconds()


async def _all_completed(api: Api, runs: list[str]) -> None:
    """Return when all ``runs`` have; only their number is asked for, each second: to ask for each was most of the server's load."""
    ended = {"id": {"any_": runs}, "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
    deadline = time.monotonic() + DEADLINE
    while await api.post("/flow_runs/count", {"flow_runs": ended}) < len(runs):
        if time.monotonic() > deadline:
            raise RuntimeError(f"of {len(runs)} runs of provision-client some have not ended after {DEADLINE} s")
        await asyncio.sleep(1)
    for run in await api.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}}):
        if run["state_type"] != "COMPLETED":
            raise RuntimeError(f"provision-client ended {run['state_type']}: {run['state']['message']}")


def _running_to_completed(states: list[dict[str, Any]]) -> float:
    at = _moments(states)
    return (at["COMPLETED"] - at["RUNNING"]).total_seconds()


def _moments(states: list[dict[str, Any]]) -> dict[str, datetime]:
    return {state["type"]: datetime.fromisoformat(state["timestamp"]) for state in reversed(states)}


async def _remove(place: Stack, api: Api, registry: Engine, slug: str, run: str) -> None:
    """Container, database, role, rows, block, artifacts and run of a client of ours."""
    names = ClientNames(slug)
    remove_container(place, slug)
    wanted = {"name": {"any_": [names.secrets_block, "postgres-server"]}}
    documents = await api.post("/block_documents/filter", {"block_documents": wanted, "include_secrets": True})
    for document in documents:
        if document["name"] == "postgres-server":
            await asyncio.to_thread(drop_database, document["data"], names)
        else:
            await _delete(place, f"/block_documents/{document['id']}")
    for artifact in await api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [f"client-{slug}"]}}}):
        await _delete(place, f"/artifacts/{artifact['id']}")
    if run:
        await _delete(place, f"/flow_runs/{run}")
    with Session(registry) as session:
        for statement in (
            delete(StepJournal).where(col(StepJournal.client) == slug),
            delete(HealthTransition).where(col(HealthTransition.client) == slug),
            delete(Hold).where(col(Hold.name) == slug),
            delete(ZeroInstance).where(col(ZeroInstance.client) == slug),
            delete(Client).where(col(Client.slug) == slug),
        ):
            session.exec(statement)
        session.commit()


def remove_container(place: Stack, slug: str) -> None:
    """Remove the container of our fleet's client ``slug``."""
    import docker

    engine = docker.from_env(timeout=60)
    ours = {"label": [f"{LABEL_FLEET}={place.fleet}", f"{LABEL_CLIENT}={slug}"]}
    for found in engine.api.containers(all=True, filters=ours):
        engine.api.remove_container(found["Id"], force=True, v=True)
    engine.close()


def drop_database(server: dict[str, Any], names: ClientNames) -> None:
    """Drop database and role ``names`` at the block's ``server``, where there is such a role."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(
        host=server["host"],
        port=server["port"],
        user=server["username"],
        password=server["password"],
        dbname=server.get("maintenance_database") or "postgres",
        autocommit=True,
        connect_timeout=10,
    ) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (names.role,)).fetchone():
            return
        role, database = sql.Identifier(names.role), sql.Identifier(names.database)
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


async def _delete(place: Stack, path: str) -> None:
    user, _, password = place.auth.partition(":")
    async with httpx.AsyncClient(base_url=place.api, auth=(user, password), timeout=30) as client:
        for _ in range(10):
            answer = await client.delete(path)
            if answer.status_code != 503:  # Prefect's SQLite is busy
                break
            await asyncio.sleep(0.5)
    if answer.is_error and answer.status_code != 404:
        raise RuntimeError(f"DELETE {path} answered {answer.status_code}")


FIGURES = [
    Figure(
        "provision-own-share",
        "seconds of provision-client from Running to Completed that it spent itself, beside all of them; outside is what "
        "the step journal counts for Docker, PostgreSQL and waiting for the service",
        0.25,
        _own_share,
        rounds=7,
        unit="%",
    )
]

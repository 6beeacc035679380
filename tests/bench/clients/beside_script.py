"""What provision-client costs beyond an operator's shell script of psql, docker and curl, in pairs on one stack.

Waiting for the service is taken off both: it is the service's.
"""

import asyncio
import functools
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from deployments.one_machine.embedded_postgres import client_programs
from deployments.one_machine.runs import Api
from deployments.one_machine.settings import Stack
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, ClientNames
from tests.bench.clients import by_hand
from tests.bench.clients.provision import (
    drop_database,
    provision_and_remove,
    provision_at_once,
    provisioning,
    remove_container,
)
from tests.bench.figures import Figure, Measure, in_turns

MANY = 20
PORTS = range(31000, 31100)
"""Outside the fleet's range."""


@contextmanager
def _beside_script() -> Iterator[Measure]:
    with provisioning() as (place, registry, image):
        server = asyncio.run(_server(place))
        names = (f"bench-b{secrets.token_hex(3)}" for _ in range(1000))
        with in_turns(
            functools.partial(_flow, place, registry, image, names),
            functools.partial(_script, place, server, image, names),
        ) as one:
            yield one


async def _server(place: Stack) -> dict[str, Any]:
    api = Api(place)
    try:
        wanted = {"name": {"any_": ["postgres-server"]}}
        found = await api.post("/block_documents/filter", {"block_documents": wanted, "include_secrets": True})
    finally:
        await api.close()
    return dict(found[0]["data"])


def _flow(place: Stack, registry: Engine, image: str, names: Iterator[str]) -> float:
    spent = asyncio.run(provision_and_remove(place, registry, image, next(names)))
    return spent.total - spent.waiting


def _script(place: Stack, server: dict[str, Any], image: str, names: Iterator[str]) -> float:
    slug = next(names)
    client = by_hand.Client(ClientNames(slug).container, secrets.choice(PORTS), secrets.token_urlsafe(24))
    try:
        started = time.perf_counter()
        waiting = by_hand.waited(_start(place, server, image, slug, client))
        return time.perf_counter() - started - waiting
    finally:
        remove_container(place, slug)
        drop_database(server, ClientNames(slug))


@contextmanager
def _at_once() -> Iterator[Measure]:
    with provisioning() as (place, registry, image):
        server = asyncio.run(_server(place))

        def slugs() -> list[str]:
            token = secrets.token_hex(3)
            return [f"bench-b{token}-{number}" for number in range(MANY)]

        with in_turns(
            lambda: asyncio.run(provision_at_once(place, registry, image, slugs())),
            lambda: _scripts(place, server, image, slugs()),
        ) as one:
            yield one


def _scripts(place: Stack, server: dict[str, Any], image: str, slugs: list[str]) -> float:
    scripts = []
    try:
        started = time.perf_counter()
        for slug, port in zip(slugs, PORTS, strict=False):
            client = by_hand.Client(ClientNames(slug).container, port, secrets.token_urlsafe(24))
            scripts.append(_start(place, server, image, slug, client))
        for script in scripts:
            by_hand.waited(script)
        return time.perf_counter() - started
    finally:
        for slug in slugs:
            remove_container(place, slug)
            drop_database(server, ClientNames(slug))


def _start(place: Stack, server: dict[str, Any], image: str, slug: str, client: by_hand.Client) -> Any:
    network = f"zero-fleet-{place.fleet}"  # the fleet's own: the embedded server lets in no other
    labels = {LABEL_FLEET: place.fleet, LABEL_CLIENT: slug}
    return by_hand.start(client, server, client_programs() / "psql", image, network, labels)


FIGURES = [
    Figure(
        "provision-beside-script",
        "seconds of provision-client from Running to Completed, less those of a shell script that does the same by hand, "
        "both without the wait for the service",
        1.5,
        _beside_script,
        unit="s",
    ),
    Figure(
        "twenty-at-once",
        f"seconds from the first Running to the last Completed of {MANY} provision-client runs started together, beside {MANY} "
        "such scripts started together, both until every service answers",
        1.5,
        _at_once,
        rounds=3,
    ),
]

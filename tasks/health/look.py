"""One look at clients: what was known, what is asked, and what comes of the answers."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tasks.clock import now
from tasks.errors import FleetError
from tasks.health import judgement, probes
from tasks.health.judgement import Policy
from tasks.health.probes import Answer, Endpoint
from tasks.health.report import Outcome, named
from tasks.health.samples import Container, Sample, Stored
from tasks.registry.models import Status

SHARD = 500
"""Clients per task run: a task run costs Prefect's server 18-43 ms, so never one per client."""


class Shard:
    """A portion of a look. Like Look no dataclass on purpose: Prefect walks through those, member by member, each time
    one is given to a task.
    """

    def __init__(self, endpoints: dict[str, Endpoint], slots: asyncio.Semaphore) -> None:
        self.endpoints = endpoints
        self.slots = slots

    def __str__(self) -> str:
        return f"{len(self.endpoints)} services"


@dataclass(frozen=True, slots=True)
class Host:
    """What the engine of one Docker host said."""

    name: str = "local"
    """What the registry calls it."""
    containers: Mapping[str, Container] | None = None
    """By client; None when it did not answer."""
    trouble: FleetError | None = None
    """Why it did not."""


@dataclass(frozen=True, slots=True)
class World:
    """What engines and database server said."""

    hosts: Mapping[str, Host] = field(default_factory=dict)
    """By the block that leads there, as the clients' specs name it (empty: the installation's)."""
    databases: Mapping[str, str] | None = None
    """What is wrong with the clients' databases; None when nobody could look."""
    orphans: tuple[str, ...] = ()
    """Whom containers with our label are for that the registry does not know."""

    @property
    def trouble(self) -> FleetError | None:
        """Why an engine did not answer: the first one's."""
        return next((host.trouble for host in self.hosts.values() if host.trouble is not None), None)

    def host_of(self, one: Stored) -> Host:
        """The one that the client's block leads to."""
        return self.hosts.get(one.docker_block, _NOT_ASKED)

    def clients(self) -> set[str]:
        """Whom any engine has a container for."""
        return {slug for host in self.hosts.values() for slug in host.containers or ()}


_NOT_ASKED = Host()


class Look:
    """One look, from its beginning; the clock is read once.

    Args:
        stored: the clients looked at, as the registry knows them.
        policy: when a status changes.
        world: what engine and database server said.
        started: ``time.monotonic()`` when it began.
    """

    def __init__(self, stored: Iterable[Stored], policy: Policy, world: World, started: float) -> None:
        self.at = now()
        self.started = started
        self.stored = {one.client: one for one in stored}
        self.policy = policy
        self.world = world
        self.slots = asyncio.Semaphore(probes.AT_ONCE)

    def shards(self) -> list[Shard]:
        """What is to be asked, in portions of ``SHARD`` clients: every running container that is meant to run."""
        asked: dict[str, Endpoint] = {}
        for slug, one in self.stored.items():
            host = self.world.host_of(one)
            container = (host.containers or {}).get(slug)
            if container is None or container.state != "running" or not one.enabled:
                continue
            endpoint = one.endpoint(container, "127.0.0.1" if host.name == "local" else host.name)
            if endpoint is not None:
                asked[slug] = endpoint
        slugs = list(asked)
        return [
            Shard({slug: asked[slug] for slug in slugs[first : first + SHARD]}, self.slots)
            for first in range(0, len(slugs), SHARD)
        ]

    def outcomes(self, answers: Mapping[str, Answer]) -> tuple[list[Outcome], dict[str, str]]:
        """Every client's outcome, and one sentence per host that is in trouble."""
        samples = {slug: self._sample(one, answers.get(slug)) for slug, one in self.stored.items()}
        seen = {slug: judgement.observe(one, samples[slug]) for slug, one in self.stored.items()}
        troubles: dict[str, str] = {}
        asked: dict[str, Stored] = {}
        for slug, one in self.stored.items():
            trouble = self.world.host_of(one).trouble
            if trouble is None:
                asked[slug] = one
            else:
                troubles[one.docker_host] = _words(trouble)
        corrected, ill = judgement.doubt_hosts(asked, {slug: seen[slug] for slug in asked}, self.at)
        seen |= corrected
        troubles |= ill
        outcomes = [
            Outcome(
                one, samples[slug], seen[slug], judgement.judge(one, samples[slug], seen[slug], self.policy, self.at)
            )
            for slug, one in self.stored.items()
        ]
        return outcomes, troubles

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.started

    def notes(self) -> list[str]:
        """What could not be looked at, and what is nobody's."""
        said = (
            [] if self.world.databases is not None else ["databases not looked at: there is no block postgres-server"]
        )
        if self.world.orphans:
            said.append(
                f"orphans, containers of this fleet for clients that the registry does not know: {named(self.world.orphans)} "
                "(provision-client takes one up, deprovision-client removes it)"
            )
        return said

    def _sample(self, one: Stored, answer: Answer | None) -> Sample:
        host = self.world.host_of(one)
        if host.trouble is not None:
            return Sample(unreachable=_words(host.trouble))
        if one.docker_host != host.name:
            return Sample(
                unreachable=f"it is on Docker host {one.docker_host}, and this worker asks {host.name}; "
                f"correct the block {one.docker_block or 'docker-host'}"
            )
        return Sample(
            container=(host.containers or {}).get(one.client),
            answer=answer,
            database=(self.world.databases or {}).get(one.client, ""),
        )


def _words(error: FleetError) -> str:
    return str(error).rstrip(".")


def as_written(outcomes: Iterable[Outcome], written: frozenset[str], current: Mapping[str, Status]) -> list[Outcome]:
    """The outcomes as the registry has them: where an operation was faster than the poll, its word stands.

    Args:
        outcomes: of the poll.
        written: clients whose verdict was written.
        current: the status of every client, read afterwards; a client that is gone is not in it.
    """
    return [
        one
        if one.stored.client in written
        else replace(one, verdict=replace(one.verdict, status=current[one.stored.client]))
        for one in outcomes
        if one.stored.client in written or one.stored.client in current
    ]

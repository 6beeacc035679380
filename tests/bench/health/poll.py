"""A poll of 500 clients, beside asking the same services one after the other with httpx.

A whole poll is all but the engine's one call: read the registry, ask, judge, write all down, make the table. The other
side only asks.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.figures import Clock, Figure, Measure, in_turns

COUNT = 500


@contextmanager
def _services(count: int) -> Iterator[list[int]]:
    command = [sys.executable, "-m", "tests.bench.health.many_services", str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


@contextmanager
def _poll(cost: str) -> Iterator[Measure]:
    from sqlalchemy import Engine, make_url
    from sqlmodel import Session

    from blocks.registry import open_engine
    from tasks.registry.models import Client, Status, ZeroInstance
    from tasks.registry.revision import upgrade
    from tasks.registry.spec import ZeroSpec

    with tempfile.TemporaryDirectory() as folder, _services(COUNT) as ports:
        url = f"sqlite:///{Path(folder) / 'registry.sqlite'}"
        upgrade(url)
        registry: Engine = open_engine(make_url(url))
        by_client = {f"c{number}": port for number, port in enumerate(ports)}
        spec = ZeroSpec().model_dump(mode="json")
        with Session(registry) as session:
            session.add_all([Client(slug=slug) for slug in by_client])
            session.flush()
            session.add_all(
                [
                    ZeroInstance(client=slug, host_port=port, status=Status.RUNNING, spec=spec)
                    for slug, port in by_client.items()
                ]
            )
            session.commit()

        def ours() -> float:
            with Clock().running() as clock:
                asyncio.run(_whole_poll(registry, by_client))
            return float(getattr(clock, cost))

        def beside() -> float:
            with Clock().running() as clock:
                _one_after_the_other(ports)
            return float(getattr(clock, cost))

        with in_turns(ours, beside) as one:
            yield one
        registry.dispose()


async def _whole_poll(registry, by_client: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    from tasks.health import probes, record, report
    from tasks.health.judgement import Policy
    from tasks.health.look import Host, Look, World
    from tasks.health.samples import Container

    started = time.monotonic()
    containers = {
        slug: Container(f"zero_client_{slug}", "running", uptime=9000.0, published=(("127.0.0.1", port),))
        for slug, port in by_client.items()
    }
    look = Look(record.read(registry), Policy(), World({"": Host(containers=containers)}, databases={}), started)
    answers = {}
    for shard in look.shards():
        answers |= await probes.ask_all(shard.endpoints, shard.slots)
    outcomes, troubles = look.outcomes(answers)
    verdicts = {one.stored.client: one.verdict for one in outcomes}
    latencies = {one.stored.client: one.latency_ms for one in outcomes}
    written = record.write(registry, look.at, look.stored, verdicts, latencies)
    report.table(outcomes, look.at, "UTC")
    told = report.sentence(outcomes, look.seconds(), troubles)
    assert len(written) == COUNT and told.startswith(f"{COUNT} of {COUNT} healthy"), told


def _one_after_the_other(ports: list[int]) -> None:
    import httpx

    with httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for port in ports:
            assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200


@contextmanager
def _probes() -> Iterator[Measure]:
    import httpx

    from tasks.health import probes
    from tasks.registry.spec import Probe

    with _services(COUNT) as ports:

        async def raw() -> None:
            endpoints = {
                str(port): probes.Endpoint("127.0.0.1", port, "localhost", (Probe(path="/health"),)) for port in ports
            }
            answers = await probes.ask_all(endpoints, asyncio.Semaphore(100))
            assert all(answer.well for answer in answers.values())

        async def with_httpx() -> None:
            slots = asyncio.Semaphore(100)
            limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
            async with httpx.AsyncClient(timeout=5, limits=limits) as client:

                async def get(port: int) -> None:
                    async with slots:
                        assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200

                await asyncio.gather(*map(get, ports))

        def cost(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
            with Clock().running() as clock:
                asyncio.run(work())
            return clock.cpu

        with in_turns(lambda: cost(raw), lambda: cost(with_httpx)) as one:
            yield one


_WHAT = f"a whole poll of {COUNT} services but for Docker's one call, beside {COUNT} GETs in turn with one httpx client"
FIGURES = [
    Figure("poll-per-client", f"seconds of {_WHAT}", 3.0, partial(_poll, "wall"), reach=True, rounds=3),
    Figure("poll-cpu", f"CPU seconds of {_WHAT}", 1.5, partial(_poll, "cpu"), reach=True),
    Figure(
        "probe-cpu",
        f"CPU seconds of {COUNT} probes, 100 at once, beside the same with httpx without keep-alive (its fastest here)",
        3.0,
        _probes,
        reach=True,
    ),
]

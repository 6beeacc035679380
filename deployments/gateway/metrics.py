"""Figures for Prometheus: backups and clients, read from the registry when they are asked for, for whoever has the token."""

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from prefect.blocks.system import Secret
from prefect.client.schemas.objects import BlockDocument
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from blocks.backups import PostgresDatabase
from blocks.documents import as_block, of_type, read_documents
from blocks.registry import kinds, registry_in
from deployments.gateway.pages import plain
from tasks.backups import figures
from tasks.backups.figures import Figures, Fleet
from tasks.clock import now
from tasks.errors import NotConfigured, Unreachable
from tasks.registry.models import Delivery
from tasks.registry.revision import require_head

T = TypeVar("T")
TOKEN_BLOCK = "metrics-token"  # noqa: S105  a block's name
DELIVERED = (Delivery.SENT, Delivery.SENT_IN_PARTS)
"""The file itself: a report without it delivers no backup."""


@dataclass(frozen=True)
class _Figure:
    """One metric of backups."""

    name: str
    unit: str
    help: str
    value: Callable[[Figures, datetime], float | None]
    """None: a target that this says nothing of."""


def _age(one: Figures, at: datetime) -> float:
    return (at - one.taken_at).total_seconds() if one.taken_at else math.inf


def _good(value: Callable[[Figures], float]) -> Callable[[Figures, datetime], float | None]:
    """Only of a target that has a good backup."""
    return lambda one, at: value(one) if one.taken_at else None


BACKUPS = (
    _Figure(
        "zero_fleet_backup_last_success_timestamp",
        "seconds",
        "When the newest good backup was taken, in seconds since 1970; 0: there is none.",
        lambda one, at: one.taken_at.timestamp() if one.taken_at else 0.0,
    ),
    _Figure("zero_fleet_backup_age", "seconds", "How long ago that was; +Inf: there is none.", _age),
    _Figure(
        "zero_fleet_backup_size", "bytes", "Size of the newest good backup's file.", _good(lambda one: one.file_bytes)
    ),
    _Figure(
        "zero_fleet_backup_duration",
        "seconds",
        "How long the newest good backup took, from the first connection to the proven file.",
        _good(lambda one: one.seconds),
    ),
    _Figure(
        "zero_fleet_backup_last_run_success",
        "",
        "Whether the last backup run that ended was good (1) or failed (0).",
        lambda one, at: None if one.last_run_good is None else float(one.last_run_good),
    ),
    _Figure(
        "zero_fleet_backup_last_verified_timestamp",
        "seconds",
        "When the newest backup that a trial restore proved was taken, in seconds since 1970; 0: there is none.",
        lambda one, at: one.proven_at.timestamp() if one.proven_at else 0.0,
    ),
    _Figure(
        "zero_fleet_backup_verified",
        "",
        "Whether a trial restore proved the newest good backup (1) or not, or not yet (0).",
        _good(lambda one: float(one.verified)),
    ),
    _Figure(
        "zero_fleet_backup_delivered",
        "",
        "Whether the newest good backup's file was mailed (1) or not, or not yet (0); not there where mailing is off.",
        lambda one, at: None if one.delivery is Delivery.OFF else float(one.delivery in DELIVERED),
    ),
)


class Figured(Collector):
    """The metrics of a fleet as it was read."""

    def __init__(self, fleet: Fleet, at: datetime) -> None:
        self._fleet, self._at = fleet, at

    def collect(self) -> Iterator[Metric]:
        """Every metric, each target with the label ``client`` or ``database``."""
        for figure in BACKUPS:
            metric = Metric(figure.name, figure.help, "gauge", figure.unit)
            for one in self._fleet.backups:
                value = figure.value(one, self._at)
                if value is not None:
                    metric.add_sample(metric.name, _labels(one), value)
            yield metric
        runs = Metric("zero_fleet_backup_runs", "Backup runs that ended, by how.", "counter")
        for one in self._fleet.backups:
            runs.add_sample("zero_fleet_backup_runs_total", {**_labels(one), "status": "good"}, one.good_runs)
            runs.add_sample("zero_fleet_backup_runs_total", {**_labels(one), "status": "failed"}, one.failed_runs)
        yield runs
        clients = Metric("zero_fleet_clients", "Clients by their status.", "gauge")
        for status, count in self._fleet.clients.items():
            clients.add_sample(clients.name, {"status": status.value}, count)
        yield clients


def _labels(one: Figures) -> dict[str, str]:
    return {"client": one.target.client} if one.target.client else {"database": one.target.database or ""}


class Kept(Generic[T]):
    """What ``read`` gave, kept for a while: it is read once, however many ask for it.

    A reading that hangs holds nobody for longer than ``patience``, and no second one is begun beside it.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], what: str, seconds: float, patience: float) -> None:
        self._read, self._what, self._seconds, self._patience = read, what, seconds, patience
        self._reading: asyncio.Future[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """What was read last, or now.

        Raises:
            Unreachable: it takes too long.
        """
        if self._reading is None or (self._reading.done() and time.monotonic() >= self._until):
            self._reading = asyncio.ensure_future(self._read())
            # Where nobody waits any more, asyncio would log a failure with its text.
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._until = time.monotonic() + self._seconds
        await asyncio.wait({self._reading}, timeout=self._patience)
        if not self._reading.done():
            raise Unreachable(f"{self._what} did not answer within {self._patience:g} s", "see whether it is up")
        return self._reading.result()


class Metrics:
    """What answers at /metrics.

    Args:
        seconds: figures, and what the blocks say, may be that old.
        patience: seconds that a request waits for the registry at most.
    """

    def __init__(self, seconds: float = 5.0, patience: float = 20.0) -> None:
        self._documents = Kept(_documents, "Prefect's API", seconds, patience)
        self._fleet = Kept(self._read, "the registry", seconds, patience)

    async def answer(self, request: Request) -> Response:
        """The figures in the format that the request prefers, 401 without the right token, 404 where there is no token."""
        token = _token(await self._documents.get())
        if not token:
            return plain("No metrics", "There are no metrics here: nobody made the block metrics-token.", 404)
        if not allowed(request.headers.get("authorization", ""), token):
            refused = plain("Token needed", "The metrics need the token of the block metrics-token.", 401)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="metrics"'
            return refused
        fleet = await self._fleet.get()
        registry = CollectorRegistry()
        registry.register(Figured(fleet, now()))
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(await asyncio.to_thread(encode, registry), media_type=kind)

    async def _read(self) -> Fleet:
        engine = registry_in(await self._documents.get())
        databases = [document.name or "" for document in await of_type(PostgresDatabase)]
        return await asyncio.to_thread(read_fleet, engine, databases)


async def _documents() -> dict[str, BlockDocument]:
    return await read_documents({TOKEN_BLOCK: Secret.get_block_type_slug(), **kinds()})


def _token(documents: dict[str, BlockDocument]) -> str:
    block = as_block(Secret, documents.get(TOKEN_BLOCK))
    return str(block.value.get_secret_value()).strip() if block else ""


def allowed(authorization: str, token: str) -> bool:
    """Whether the header ``authorization`` carries ``token`` as a bearer's; how long this takes does not tell how much is right.

    >>> allowed("Bearer s3cret", "s3cret"), allowed("bearer s3cret", "s3cret")
    (True, True)
    >>> allowed("Bearer s3cre", "s3cret"), allowed("Basic s3cret", "s3cret"), allowed("", "s3cret"), allowed("Bearer ", "")
    (False, False, False, False)
    """
    scheme, _, given = authorization.partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return bool(token) and scheme.lower() == "bearer" and same


def read_fleet(engine: Engine, databases: Collection[str]) -> Fleet:
    """The figures in the registry behind ``engine``.

    Args:
        databases: names of the PostgreSQL Database blocks.

    Raises:
        NotConfigured: there is no registry yet, or one of another version.
        Unreachable: its server does not answer.
    """
    file = engine.url.database
    if engine.url.get_backend_name() == "sqlite" and file and not Path(file).exists():  # SQLite would make an empty one
        raise NotConfigured(f"there is no registry at {file}", "run `make up` (or `python -m deployments.bootstrap`)")
    try:
        require_head(engine)
        return figures.read(engine, databases)
    except SQLAlchemyError as error:
        raise Unreachable(
            f"the registry does not answer ({type(error).__name__})",
            "see whether its server is up and the block registry is right",
        ) from None

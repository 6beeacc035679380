"""Figures about backups and clients, for who watches them from outside: in a few small queries, however many there are."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, and_, case, func, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from tasks.backups.history import FAILED, GOOD, RUNNING
from tasks.backups.source import Target, target_of
from tasks.registry.models import BackupKind, BackupRun, Delivery, Status, ZeroInstance


@dataclass(frozen=True)
class Figures:
    """What is known of one target's regular backups."""

    target: Target
    good_runs: int = 0
    failed_runs: int = 0
    last_run_good: bool | None = None
    """None: none has ended yet."""
    taken_at: datetime | None = None
    """Of the newest good backup, like all that follows but one; None: there is none."""
    seconds: float = 0.0
    file_bytes: int = 0
    verified: bool = False
    """A trial restore proved it."""
    delivery: Delivery = Delivery.OFF
    proven_at: datetime | None = None
    """When the newest one that a trial restore proved was taken."""


@dataclass(frozen=True)
class Fleet:
    """The figures of all."""

    backups: list[Figures]
    """By target, those that were never backed up included."""
    clients: dict[Status, int] = field(default_factory=dict)
    """How many clients have each status; each word is there."""


def read(engine: Engine, databases: Collection[str]) -> Fleet:
    """The figures of every client with a database and of ``databases``, in two queries.

    What is gone is left out: a client that was deprovisioned, a block that was deleted.

    Args:
        databases: names of the PostgreSQL Database blocks.
    """
    known = {one.target.key: one for one in _backups(engine)}
    with engine.connect() as connection:
        rows = connection.execute(
            select(col(ZeroInstance.client), col(ZeroInstance.status), col(ZeroInstance.container_id))
        ).all()
    wanted = [Target(database=name) for name in sorted(databases)]
    for client, _, container in sorted(rows):
        if container or f"client:{client}" in known:
            wanted.append(Target(client=client))
    counts = dict.fromkeys(Status, 0)
    for _, status, _ in rows:
        counts[status] += 1
    return Fleet([known.get(one.key, Figures(one)) for one in wanted], counts)


def _backups(engine: Engine) -> list[Figures]:
    """Of each target that the registry knows; what the rows count per table, most of their bytes, is not read."""
    row, newest, last, proven = BackupRun, aliased(BackupRun), aliased(BackupRun), aliased(BackupRun)
    good = col(row.status) == GOOD
    of_target = (
        select(
            col(row.target).label("target"),
            func.sum(case((good, 1), else_=0)).label("good"),
            func.sum(case((col(row.status) == FAILED, 1), else_=0)).label("failed"),
            func.max(case((good, col(row.id)))).label("newest"),
            func.max(case((col(row.status) != RUNNING, col(row.id)))).label("last"),
            func.max(case((and_(good, col(row.verified).is_(True)), col(row.id)))).label("proven"),
        )
        .where(col(row.kind) == BackupKind.REGULAR)
        .group_by(col(row.target))
        .subquery()
    )
    # Rows of 0.1.0 have neither the moment of the dump nor its duration.
    facts = (
        select(
            of_target.c.target,
            of_target.c.good,
            of_target.c.failed,
            col(last.status),
            func.coalesce(col(newest.taken_at), col(newest.started_at)),
            col(newest.started_at),
            col(newest.finished_at),
            col(newest.seconds),
            col(newest.file_bytes),
            col(newest.verified),
            col(newest.delivery),
            func.coalesce(col(proven.taken_at), col(proven.started_at)),
        )
        .outerjoin(newest, col(newest.id) == of_target.c.newest)
        .outerjoin(last, col(last.id) == of_target.c.last)
        .outerjoin(proven, col(proven.id) == of_target.c.proven)
    )
    with engine.connect() as connection:
        rows = connection.execute(facts).all()
    return [
        Figures(
            target=target_of(key),
            good_runs=int(good_runs),
            failed_runs=int(failed_runs),
            last_run_good=None if ended is None else ended == GOOD,
            taken_at=taken_at,
            seconds=seconds if seconds is not None else _between(begun, finished),
            file_bytes=file_bytes or 0,
            verified=bool(verified),
            delivery=delivery or Delivery.OFF,
            proven_at=proven_at,
        )
        for key, good_runs, failed_runs, ended, taken_at, begun, finished, seconds, file_bytes, verified, delivery, proven_at in rows
    ]


def _between(begun: datetime | None, finished: datetime | None) -> float:
    return (finished - begun).total_seconds() if begun and finished else 0.0

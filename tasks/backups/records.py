"""What the registry knows of many targets' backups at once: the newest ones, the proven ones, and what lies on the disk."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, case, func, or_
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from tasks.backups.history import GOOD
from tasks.backups.source import Target, target_of
from tasks.registry.models import BackupKind, BackupRun, Delivery, UtcDateTime, ZeroInstance

RECENT = 8
"""Newest good backups of each target that are looked at: by hand a target may be backed up several times a day."""


@dataclass(frozen=True)
class Kept:
    """One good backup."""

    row_id: int
    taken_at: datetime
    seconds: float | None
    file_bytes: int
    database_bytes: int
    """0: not known."""
    rows: int
    delivery: Delivery
    delivery_error: str
    deliver_after: datetime | None


@dataclass(frozen=True)
class Record:
    """What is known of one target's backups."""

    target: Target
    recent: list[Kept]
    """Good ones, newest first, at most ``RECENT``."""
    first_at: datetime | None = None
    """When the oldest good one was begun."""
    proven_at: datetime | None = None
    """When the newest one that a trial restore proved was begun."""
    damaged: str = ""
    """What the newest trial restore found, where it found the backup not good."""

    @property
    def newest(self) -> Kept | None:
        """The newest good backup."""
        return self.recent[0] if self.recent else None


@dataclass(frozen=True)
class Lying:
    """A file that a backup put on the disk."""

    file_bytes: int
    since: datetime
    until: datetime | None
    """When it was removed or replaced; None: it lies there."""


def read(engine: Engine, targets: list[Target]) -> list[Record]:
    """What the registry knows of ``targets``, in their order; four queries, however many they are."""
    good = (BackupRun.status == GOOD, BackupRun.kind == BackupKind.REGULAR)
    place = func.row_number().over(partition_by=col(BackupRun.target), order_by=col(BackupRun.id).desc())
    ranked = select(col(BackupRun.id).label("id"), place.label("place")).where(*good).subquery()
    tried = (
        select(func.max(col(BackupRun.id)))
        .where(*good, col(BackupRun.verified).is_not(None))
        .group_by(col(BackupRun.target))
    )
    with Session(engine) as session:
        rows = session.exec(
            select(BackupRun)
            .join(ranked, ranked.c.id == BackupRun.id)
            .where(ranked.c.place <= RECENT)
            .order_by(col(BackupRun.id).desc())
        ).all()
        begun = func.min(col(BackupRun.started_at))
        first = dict(session.exec(select(BackupRun.target, begun).where(*good).group_by(BackupRun.target)).all())
        last = func.max(col(BackupRun.started_at))
        well = select(BackupRun.target, last).where(*good, col(BackupRun.verified).is_(True)).group_by(BackupRun.target)
        proven = dict(session.exec(well).all())
        ill = select(BackupRun.target, BackupRun.verify_note).where(
            col(BackupRun.id).in_(tried), col(BackupRun.verified).is_(False)
        )
        damaged = dict(session.exec(ill).all())
    recent: dict[str, list[Kept]] = {}
    for row in rows:
        recent.setdefault(row.target, []).append(_kept(row))
    return [
        Record(
            one,
            recent.get(one.key, []),
            first.get(one.key),
            proven.get(one.key),
            damaged.get(one.key) or ("it was not good" if one.key in damaged else ""),
        )
        for one in targets
    ]


def _kept(row: BackupRun) -> Kept:
    assert row.id is not None
    seconds = row.seconds
    if seconds is None and row.finished_at is not None:  # told by 0.1.0
        seconds = (row.finished_at - row.started_at).total_seconds()
    return Kept(
        row.id,
        row.taken_at or row.started_at,
        seconds,
        row.file_bytes or 0,
        row.database_bytes or 0,
        sum(row.row_counts.values()) if row.row_counts else 0,
        row.delivery,
        row.delivery_error or "",
        row.deliver_after,
    )


def lying(engine: Engine, folder: Path, since: datetime) -> list[Lying]:
    """The files below ``folder`` that lie there or were removed after ``since``, by what the registry recorded.

    A dated file lies until it is pruned; a backup without one until the next good backup of its target takes its place.
    """
    following = func.lead(col(BackupRun.started_at), type_=UtcDateTime()).over(
        partition_by=(col(BackupRun.target), col(BackupRun.kind)), order_by=col(BackupRun.id)
    )
    stays = or_(col(BackupRun.dated_path).is_not(None), col(BackupRun.kind) == BackupKind.SAFETY)
    until = func.coalesce(col(BackupRun.pruned_at), case((stays, None), else_=following), type_=UtcDateTime()).label(
        "until"
    )
    files = (
        sa_select(col(BackupRun.path), col(BackupRun.file_bytes), col(BackupRun.started_at), until)
        .where(col(BackupRun.status) == GOOD)
        .subquery()
    )
    with engine.connect() as connection:
        rows = connection.execute(sa_select(files).where(or_(files.c.until.is_(None), files.c.until > since))).all()
    return [
        Lying(file_bytes or 0, begun, ended)
        for path, file_bytes, begun, ended in rows
        if path and Path(path).is_relative_to(folder)
    ]


def provisioned(engine: Engine) -> list[tuple[str, bool]]:
    """Every client, and whether something of it was made: a container, or a backup."""
    with Session(engine) as session:
        known = session.exec(select(ZeroInstance.client, ZeroInstance.container_id).order_by(ZeroInstance.client)).all()
        backed = set(session.exec(select(BackupRun.target).where(BackupRun.status == GOOD).distinct()).all())
    return [(slug, container is not None or Target(client=slug).key in backed) for slug, container in known]


def no_longer(engine: Engine, targets: Collection[Target], since: datetime) -> list[Target]:
    """Targets that had a good backup after ``since`` and are none of ``targets``: their client or block is gone."""
    with Session(engine) as session:
        recent = select(BackupRun.target).where(BackupRun.status == GOOD, col(BackupRun.started_at) >= since).distinct()
        keys = session.exec(recent).all()
    return [one for one in map(target_of, sorted(keys)) if one not in targets]


def window(record: Record, hours: int) -> list[Kept]:
    """The backups that the newest one is compared with: the one before it, and all within ``hours`` before it."""
    if len(record.recent) < 2:
        return []
    newest, before, *others = record.recent
    reach = newest.taken_at - timedelta(hours=hours)
    return [before, *(one for one in others if one.taken_at >= reach)]

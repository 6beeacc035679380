"""Backup runs in the registry: begun, ended, delivered, verified, pruned. What a killed run left is told here too."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, or_
from sqlmodel import Session, col, select

from tasks.backups import dated
from tasks.backups import manifest as manifests
from tasks.backups.dated import Dated
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target, target_of
from tasks.clock import now
from tasks.errors import Damaged
from tasks.registry.models import BackupKind, BackupRun, Delivery

RUNNING, GOOD, FAILED = "running", "good", "failed"
CUT_OFF = "the run was killed before it ended"


def begin(engine: Engine, target: Target, run_id: str, path: Path, kind: BackupKind = BackupKind.REGULAR) -> int:
    """A new row for a backup that starts; its id. The caller holds the target's lock.

    Args:
        path: of the target's latest backup.
        kind: whether it becomes that one.
    """
    settle(engine, target, path)
    with Session(engine) as session:
        begun = BackupRun(target=target.key, run_id=run_id, kind=kind, started_at=now(), path=str(path))
        session.add(begun)
        session.commit()
        assert begun.id is not None
        return begun.id


def settle(engine: Engine, target: Target, path: Path) -> None:
    """End what killed runs left, on the disk and in the registry. The caller holds the target's lock, so running rows are dead.

    A dead run whose dump was published nevertheless is set good, by the manifest's word.
    """
    manifests.settle(path)
    published = _published(path)
    with Session(engine) as session:
        dead = session.exec(select(BackupRun).where(BackupRun.target == target.key, BackupRun.status == RUNNING)).all()
        before_restores = {one.manifest.run_id: one for one in dated.listed(path) if one.safety} if dead else {}
        for row in dead:
            row.finished_at = now()
            if row.kind is BackupKind.SAFETY and (made := before_restores.get(row.run_id)):
                _fill(row, made.manifest, made.path, made.path)
            elif row.kind is BackupKind.REGULAR and published is not None and published.run_id == row.run_id:
                _fill(row, published, path)
                row.delivery, row.delivery_error = Delivery.FAILED, f"not mailed: {CUT_OFF}"
            else:
                row.status, row.error = FAILED, CUT_OFF
            session.add(row)
        session.commit()


def _published(path: Path) -> Manifest | None:
    try:
        return manifests.read(path)
    except Damaged:
        return None


def _fill(row: BackupRun, made: Manifest, path: Path, dated_path: Path | None = None) -> None:
    row.status, row.error, row.path = GOOD, None, str(path)
    row.dated_path = str(dated_path) if dated_path else None
    row.taken_at, row.seconds, row.database_bytes = made.taken_at, made.seconds, made.database_bytes
    row.raw_bytes, row.file_bytes, row.sha256 = made.raw_bytes, made.file_bytes, made.sha256
    row.server_version, row.row_counts = made.server_version, made.rows


def good(
    engine: Engine, row_id: int, made: Manifest, path: Path, delivery: Delivery, dated_path: Path | None = None
) -> None:
    """The backup stands at ``path``, and as a dated file too if there is one; its mail is ``delivery`` (OFF or PENDING)."""
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        _fill(row, made, path, dated_path)
        row.finished_at, row.delivery = now(), delivery
        session.add(row)
        session.commit()


def failed(engine: Engine, row_id: int, error: str) -> None:
    """The backup did not come about; the previous one stands."""
    _set(engine, row_id, status=FAILED, error=error, finished_at=now())


def not_begun(engine: Engine, target: Target, run_id: str, error: str) -> None:
    """A backup ended before it began, because a block is missing or says what cannot be: a row of its own, so that the figures and
    the night's alerts know. Of what never had a backup nothing is noted; it may be a name that somebody mistyped.
    """
    if latest_good(engine, target) is None:
        return
    with Session(engine) as session:
        moment = now()
        row = BackupRun(
            target=target.key, run_id=run_id, started_at=moment, finished_at=moment, status=FAILED, error=error
        )
        session.add(row)
        session.commit()


def verified(engine: Engine, row_id: int, well: bool, note: str) -> None:
    """What a trial restore found."""
    _set(engine, row_id, verified=well, verified_at=now(), verify_note=note)


def unproven(engine: Engine, row_id: int, note: str) -> None:
    """A trial restore could not be made: nothing is known anew of the backup itself."""
    _set(engine, row_id, verify_note=note)


def _set(engine: Engine, row_id: int, **changes: object) -> None:
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        for name, value in changes.items():
            setattr(row, name, value)
        session.add(row)
        session.commit()


def latest_good(engine: Engine, target: Target) -> BackupRun | None:
    """The newest good backup of ``target``; one made before a restore is never it."""
    with Session(engine) as session:
        return session.exec(
            select(BackupRun).where(*_regular(target)).order_by(col(BackupRun.id).desc()).limit(1)
        ).first()


def _regular(target: Target) -> tuple[Any, ...]:
    return (
        col(BackupRun.target) == target.key,
        col(BackupRun.status) == GOOD,
        col(BackupRun.kind) == BackupKind.REGULAR,
    )


def targets(engine: Engine) -> list[Target]:
    """Every target that ever had a good backup."""
    good_ones = select(BackupRun.target).where(BackupRun.status == GOOD, BackupRun.kind == BackupKind.REGULAR)
    with Session(engine) as session:
        keys = session.exec(good_ones.distinct()).all()
    return [target_of(key) for key in sorted(keys)]


def verdicts(engine: Engine, target: Target) -> dict[str, bool]:
    """What the last trial restore of each backup of ``target`` said, by SHA-256; one that was never tried is not there."""
    tried = (
        select(BackupRun.sha256, BackupRun.verified)
        .where(*_regular(target), col(BackupRun.verified).is_not(None))
        .order_by(col(BackupRun.verified_at))
    )
    with Session(engine) as session:
        return {sha256: bool(well) for sha256, well in session.exec(tried).all() if sha256}


@dataclass(frozen=True)
class DatedNotes:
    """What the rows knew of dated files and the folder does not show."""

    gone: list[str]
    """Removed by somebody's hand."""
    elsewhere: list[str]
    """In another folder than the policy's: it was changed."""


def note_dated(engine: Engine, target: Target, latest: Path, found: list[Dated]) -> DatedNotes:
    """Make the rows say which dated files there are. The caller holds the target's lock.

    Args:
        latest: the target's latest backup.
        found: its dated files on the disk.
    """
    there = {_of(one): str(one.path) for one in found}
    gone, elsewhere = set[str](), set[str]()
    with Session(engine) as session:
        rows = select(BackupRun).where(
            BackupRun.target == target.key,
            BackupRun.status == GOOD,
            or_(col(BackupRun.dated_path).is_not(None), col(BackupRun.sha256).in_({sha256 for _, sha256, _ in there})),
        )
        for row in session.exec(rows).all():
            path = there.get((row.run_id, row.sha256 or "", row.kind is BackupKind.SAFETY))
            if path is not None:
                row.dated_path, row.pruned_at = path, None  # a killed prune may have announced it and not come to it
            elif row.dated_path and not os.path.exists(row.dated_path):
                if row.pruned_at is None:
                    gone.add(row.dated_path)
                row.dated_path = None
            elif row.dated_path and Path(row.dated_path).parent != dated.folder(latest):
                elsewhere.add(row.dated_path)
            session.add(row)
        session.commit()
    return DatedNotes(sorted(gone), sorted(elsewhere))


def _of(one: Dated) -> tuple[str, str, bool]:
    """What tells whose file it is; the SHA-256 alone does not, when nothing changed between two backups."""
    return (one.manifest.run_id, one.manifest.sha256, one.safety)


def note_twin(engine: Engine, target: Target, twin: Dated) -> None:
    """The latest backup of ``target`` has the dated file ``twin``."""
    made = twin.manifest
    same = select(BackupRun).where(
        *_regular(target), col(BackupRun.sha256) == made.sha256, col(BackupRun.run_id) == made.run_id
    )
    with Session(engine) as session:
        for row in session.exec(same).all():
            row.dated_path, row.pruned_at = str(twin.path), None
            session.add(row)
        session.commit()


def prunes(engine: Engine, target: Target, one: Dated) -> None:
    """The dated file ``one`` is about to be removed: so a run killed then does not look like somebody's hand."""
    _set_dated(engine, target, one, pruned_at=now())


def pruned(engine: Engine, target: Target, one: Dated) -> None:
    """The dated file ``one`` is gone."""
    _set_dated(engine, target, one, dated_path=None)


def _set_dated(engine: Engine, target: Target, one: Dated, **changes: object) -> None:
    """Two backups of one second and the same bytes share a file, so there may be several rows."""
    rows = select(BackupRun).where(BackupRun.target == target.key, BackupRun.dated_path == str(one.path))
    with Session(engine) as session:
        for row in session.exec(rows).all():
            for name, value in changes.items():
                setattr(row, name, value)
            session.add(row)
        session.commit()

"""Backup runs in the registry: begun, ended, delivered, verified. What a killed run left is told here too."""

from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tasks.backups import manifest as manifests
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target, target_of
from tasks.clock import now
from tasks.errors import Damaged
from tasks.registry.models import BackupRun, Delivery

RUNNING, GOOD, FAILED = "running", "good", "failed"
CUT_OFF = "the run was killed before it ended"
UNKNOWN_DELIVERY = "the run was killed while it mailed, so the mail may or may not have been delivered"


def begin(engine: Engine, target: Target, run_id: str, path: Path) -> int:
    """A new row for a backup that starts; its id. The caller holds the target's lock."""
    settle(engine, target, path)
    with Session(engine) as session:
        begun = BackupRun(target=target.key, run_id=run_id, started_at=now(), path=str(path))
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
        dead = select(BackupRun).where(BackupRun.target == target.key, BackupRun.status == RUNNING)
        for row in session.exec(dead).all():
            row.finished_at = now()
            if published is not None and published.run_id == row.run_id:
                _fill(row, published, path)
                row.delivery, row.delivery_error = Delivery.FAILED, f"not mailed: {CUT_OFF}"
            else:
                row.status, row.error = FAILED, CUT_OFF
            session.add(row)
        session.commit()


def settle_delivery(engine: Engine, target: Target) -> None:
    """End what killed deliveries left. The caller holds the target's mail lock, so none is under way."""
    with Session(engine) as session:
        pending = select(BackupRun).where(BackupRun.target == target.key, BackupRun.delivery == Delivery.PENDING)
        for row in session.exec(pending).all():
            row.delivery, row.delivery_error = Delivery.FAILED, UNKNOWN_DELIVERY
            session.add(row)
        session.commit()


def _published(path: Path) -> Manifest | None:
    try:
        return manifests.read(path)
    except Damaged:
        return None


def _fill(row: BackupRun, made: Manifest, path: Path) -> None:
    row.status, row.error, row.path = GOOD, None, str(path)
    row.raw_bytes, row.file_bytes, row.sha256 = made.raw_bytes, made.file_bytes, made.sha256
    row.server_version, row.row_counts = made.server_version, made.rows


def good(engine: Engine, row_id: int, made: Manifest, path: Path, delivery: Delivery) -> None:
    """The backup stands; its mail is ``delivery`` (OFF or PENDING)."""
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        _fill(row, made, path)
        row.finished_at, row.delivery = now(), delivery
        session.add(row)
        session.commit()


def failed(engine: Engine, row_id: int, error: str) -> None:
    """The backup did not come about; the previous one stands."""
    _set(engine, row_id, status=FAILED, error=error, finished_at=now())


def delivered(
    engine: Engine,
    row_id: int,
    delivery: Delivery,
    recipients: list[str],
    message_id: str | None = None,
    error: str | None = None,
) -> None:
    """What became of the mail; ``recipients`` are those whom the server accepted."""
    _set(
        engine,
        row_id,
        delivery=delivery,
        recipients=", ".join(recipients),
        message_id=message_id,
        delivery_error=error,
    )


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
    """The newest good backup of ``target``."""
    with Session(engine) as session:
        return session.exec(
            select(BackupRun)
            .where(BackupRun.target == target.key, BackupRun.status == GOOD)
            .order_by(col(BackupRun.id).desc())
            .limit(1)
        ).first()


def targets(engine: Engine) -> list[Target]:
    """Every target that ever had a good backup."""
    with Session(engine) as session:
        keys = session.exec(select(BackupRun.target).where(BackupRun.status == GOOD).distinct()).all()
    return [target_of(key) for key in sorted(keys)]

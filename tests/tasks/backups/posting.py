"""What tests of delivery share: a registry with one backup in it, the backup's file, and one way to mail it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, make_url
from sqlmodel import Session

from blocks.registry import open_engine
from tasks.backups import delivery, message
from tasks.backups.delivery import Post
from tasks.backups.mail import Account
from tasks.backups.manifest import Manifest
from tasks.backups.posted import Book
from tasks.backups.source import Target
from tasks.registry.models import BackupRun, Delivery
from tasks.registry.revision import upgrade

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SENDER = message.address("Sicherungen Größe <ops@example.org>", "sender")
ACME = Target(client="acme")


@cache
def _empty(process: int) -> Path:
    """A migrated, empty registry to be copied: migrating takes longer than a test."""
    path = Path(os.environ["ZERO_FLEET_STATE"]) / f"empty-{process}.sqlite"
    upgrade(f"sqlite:///{path}")
    return path


@contextmanager
def books(folder: Path) -> Iterator[Engine]:
    """A registry on SQLite."""
    path = folder / "registry.sqlite"
    shutil.copyfile(_empty(os.getpid()), path)
    engine = open_engine(make_url(f"sqlite:///{path}"))
    yield engine
    engine.dispose()


def row_of(engine: Engine, made: Manifest | None = None, path: Path = Path("/nowhere")) -> int:
    """A good backup in the registry that is to be mailed."""
    with Session(engine) as session:
        row = BackupRun(
            target=ACME.key,
            run_id="run",
            started_at=WHEN,
            status="good",
            delivery=Delivery.PENDING,
            path=str(path),
            sha256=made.sha256 if made else None,
        )
        session.add(row)
        session.commit()
        assert row.id is not None
        return row.id


def manifest(size: int, digest: str = "ab" * 32, **other: object) -> Manifest:
    """The facts of a backup of ``size`` bytes."""
    made = Manifest(
        "client:acme", "run", "zero_client_acme", "db:5432", WHEN, 1.5, "16.14", "16.14", 1_000_000, 900_000, size,
        digest, "UTF8", {"public.t": 3}, 0, [],
    )  # fmt: skip
    return Manifest(**(made.__dict__ | other))


def post(*recipients: str, **other: object) -> Post:
    """A mail to ``recipients``."""
    given = {"wait": 0.05, "seconds": 10.0} | other
    return Post(SENDER, list(recipients), "[AgentAssistant] Backup", "UTC", "1", "ops", **given)  # type: ignore[arg-type]


def deliver(account: Account, given: Post, book: Book, backup: tuple[Manifest, Path]) -> delivery.Delivered:
    """Mail ``backup``."""
    made, path = backup
    with path.open("rb") as file:
        return delivery.deliver(account, given, book, ACME, made, file, path)

"""Backups that lie on the disk without a database having been dumped, for what only moves files."""

import gzip
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from tasks.backups import dated
from tasks.backups import manifest as manifests
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target, place

ACME = Target(client="acme")
AT = datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC)


def latest_of(folder: Path, target: Target = ACME) -> Path:
    """The latest file of ``target`` below ``folder``."""
    return place(target, folder, "latest_backup.sql.gz")


def publish(
    latest: Path, taken_at: datetime = AT, target: Target = ACME, run_id: str = "run-1", text: str = ""
) -> Manifest:
    """Put a small backup with its manifest at ``latest``, in the two moves that a dump makes."""
    held = gzip.compress((text or taken_at.isoformat()).encode(), mtime=0)
    made = Manifest(
        target=target.key,
        run_id=run_id,
        database="acme",
        server="db:5432",
        taken_at=taken_at,
        seconds=1.5,
        server_version="16.4",
        pg_dump_version="16.4",
        database_bytes=8_000_000,
        raw_bytes=len(gzip.decompress(held)),
        file_bytes=len(held),
        sha256=hashlib.sha256(held).hexdigest(),
        encoding="UTF8",
        rows={"public.mails": 1},
        large_objects=0,
        extensions=[],
    )
    latest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = latest.with_name(f".{latest.name}.0.part")
    part.write_bytes(held)
    part.chmod(0o600)
    manifests.announce(latest, made)
    part.replace(latest)
    manifests.confirm(latest)
    return made


def names(latest: Path) -> list[str]:
    """What lies in the folder of dated backups, temporary files too."""
    folder = dated.folder(latest)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

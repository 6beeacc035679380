"""The manifest beside a backup: what it is and what must be found in it. It makes the file provable anywhere, without the registry."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from tasks.backups import archive
from tasks.backups.source import Target
from tasks.errors import Damaged, FleetError

FORMAT = 1
MOST = 256 << 20
"""Bytes of a manifest that is read; one with a hundred thousand tables has 20 MiB."""
CURE = "make a new backup; the dump itself may still be good"


@dataclass(frozen=True)
class Manifest:
    """What was written down when a backup was made. Holds no secret."""

    target: str
    run_id: str
    database: str
    server: str
    """``host:port``."""
    taken_at: datetime
    seconds: float
    """From the first connection to the proven file."""
    server_version: str
    pg_dump_version: str
    database_bytes: int
    raw_bytes: int
    """Of the dump before compression."""
    file_bytes: int
    sha256: str
    encoding: str
    rows: dict[str, int]
    """Rows per table, in the dump's own snapshot."""
    large_objects: int
    extensions: list[str]
    taken_for: str = "regular"
    """``regular``, or ``safety``: before a restore went over the database."""
    schema: dict[str, str] = field(default_factory=dict)
    """A digest per object of the schema, as pg_dump of ``pg_dump_version`` writes it; empty in manifests of 0.1.0."""
    roles: str = ""
    """SQL that makes the roles which own something here or were granted something; without passwords."""
    grants: str = ""
    """SQL that gives the objects back to their owners, with the rights of others; run after a restore."""
    owners: bool = False
    """False: dumped with --no-owner --no-privileges, so it restores under any role."""
    format: int = FORMAT

    @property
    def server_major(self) -> int:
        """Major version of the server it came from."""
        return int(self.server_version.split(".")[0])

    def to_json(self) -> str:
        """As it lies on the disk, for a person too."""
        return json.dumps(asdict(self) | {"taken_at": self.taken_at.isoformat()}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> "Manifest":
        """The manifest in ``text``, which came from ``path``.

        Raises:
            Damaged: it is none, or of a newer format.
        """
        try:
            held = json.loads(text)
            if held["format"] > FORMAT:
                raise Damaged(
                    f"the manifest {path} was written by a newer Zero Fleet (format {held['format']})",
                    "upgrade this installation and run again",
                )
            known = {one.name for one in fields(cls)}
            values = {name: value for name, value in held.items() if name in known}
            read = _as_manifest().validate_python(values)
            int(read.server_version.split(".")[0])  # as ``server_major`` has it
            return read
        # Not UTF-8, no JSON, nested without end, or a value of another type: somebody's hand, or the disk.
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Damaged(f"the manifest {path} cannot be read", CURE) from None


@cache
def _as_manifest() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


@dataclass(frozen=True)
class Made:
    """A backup that stands; no secret in it."""

    row_id: int
    target: Target
    path: Path
    manifest: Manifest
    role: str
    """Of one who may make databases on its server, for the commands that restore by hand."""
    undated: FleetError | None = None
    """Why it has no dated file though the policy keeps them."""


def beside(path: Path) -> Path:
    """Where the manifest of the backup at ``path`` lies."""
    return path.with_name(path.name + ".json")


def _next(path: Path) -> Path:
    return path.with_name(f".{path.name}.next.json")


def announce(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a backup that is about to replace the one at ``path``, under a name of its own.

    Two files cannot be renamed in one step. So the new manifest is on the disk before the dump's rename and takes its name
    after it; a run killed in between leaves both, and ``settle`` sees by the SHA-256 which one is true.
    """
    handle = os.open(_next(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(manifest.to_json())
        file.flush()
        os.fsync(file.fileno())


def confirm(path: Path) -> None:
    """The announced manifest takes its name: the dump at ``path`` is the one it describes."""
    archive.publish(_next(path), beside(path))


def withdraw(path: Path) -> None:
    """The announced backup did not come."""
    _next(path).unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Finish what a killed run began: an announced manifest is confirmed if the dump is its own, else withdrawn.

    The caller holds the target's lock.
    """
    if not _next(path).exists():
        return
    try:
        coming = _held(_next(path))
        with archive.opened(path) as file:
            if os.fstat(file.fileno()).st_size == coming.file_bytes and archive.sha256(file) == coming.sha256:
                confirm(path)
                return
    except (Damaged, FileNotFoundError):  # cut off while it was written, or no dump at all: the old one stands
        pass
    withdraw(path)


def read(path: Path) -> Manifest | None:
    """The manifest of the backup at ``path``, or None when there is none.

    Raises:
        Damaged: it cannot be read.
    """
    try:
        return _held(beside(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _held(path: Path) -> Manifest:
    with archive.opened(path) as file:
        text = file.read(MOST + 1)
    if len(text) > MOST:
        raise Damaged(f"the manifest {path} has more than {MOST >> 20} MiB", CURE)
    return Manifest.from_json(text, path)


def require_same(file: archive.OpenFile, manifest: Manifest, path: Path) -> None:
    """Return if ``file`` is byte for byte what ``manifest`` describes.

    Raises:
        Damaged: its size or SHA-256 differs.
    """
    size = os.fstat(file.fileno()).st_size
    if size != manifest.file_bytes:
        raise Damaged(
            f"{path} has {size} bytes where its manifest says {manifest.file_bytes}: it was cut or replaced",
            "make a new backup and keep this file aside",
        )
    if archive.sha256(file) != manifest.sha256:
        raise Damaged(
            f"{path} has another SHA-256 than its manifest says: it was altered",
            "make a new backup and keep this file aside; look at the disk",
        )

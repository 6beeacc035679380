"""A file that is to be restored, proven before anything is touched: unaltered, a whole dump, of a server that this one can follow."""

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tasks.backups import archive
from tasks.backups import manifest as manifests
from tasks.backups.archive import OpenFile, decompressed
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target, target_of
from tasks.clock import spoken
from tasks.errors import Damaged, FleetError, Refused

ANOTHER = "give another backup (a date, or a file)"
_GZIP = b"\x1f\x8b"
_AGE = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
_FIRST_LINES = b"--\n-- PostgreSQL database dump\n--\n"
_CLUSTER = b"-- PostgreSQL database cluster dump"
_VERSION = re.compile(rb"^-- Dumped from database version (\d+)", re.MULTILINE)
_ELSEWHERE = re.compile(rb"^\\connect ", re.MULTILINE)
_FOREWORD = 1 << 14
"""Bytes in which pg_dump says where to; further on it may be the text of a function."""


@dataclass(frozen=True)
class Proven:
    """A file that can be restored, as far as can be told without restoring it; no secret in it."""

    path: Path
    manifest: Manifest | None
    raw_bytes: int

    @property
    def needed(self) -> int:
        """Bytes that its database may take on a server while it is loaded."""
        return int(1.3 * self.manifest.database_bytes) if self.manifest else 2 * self.raw_bytes

    def words(self, time_zone: str) -> str:
        """As an operator calls it."""
        if self.manifest is None:
            return f"{self.path} (without a manifest)"
        return f"{self.path} (taken {spoken(self.manifest.taken_at, time_zone)} {time_zone})"


def prove(file: OpenFile, path: Path, whose: Target, over: bool, server: int, where: str) -> Proven:
    """Read the open ``file`` and see that it may be restored.

    Args:
        file: open at ``path``.
        path: of the file; its manifest lies beside it, if it has one.
        whose: whose database it is for.
        over: whether it replaces that.
        server: major version of the server that is to take it.
        where: that server, for the sentences.

    Raises:
        Damaged: it is altered, cut short, or no dump at all.
        Refused: it is encrypted, in another form than ours, of a newer server, or of somebody else's database.
    """
    _require_form(file, path)
    try:
        manifest = manifests.read(path)
        if manifest is not None:
            _require_own(manifest, path, whose, over)
            manifests.require_same(file, manifest, path)
        head = _head(file, path)
        _require_dump(head, path)
        held = archive.prove(file, path, manifest.raw_bytes if manifest else None)
    except Damaged as error:
        raise Damaged(f"{error.what}, so nothing was restored", ANOTHER) from None
    said = _VERSION.search(head)
    came_from = manifest.server_major if manifest else int(said[1]) if said else 0
    if came_from > server:
        raise Refused(
            f"{path} came from PostgreSQL {came_from}, and the server {where} is {server}: it cannot take what a newer one wrote",
            f"upgrade that server to {came_from} or newer, or restore on another",
        )
    return Proven(path, manifest, held)


def _require_form(file: OpenFile, path: Path) -> None:
    file.seek(0)
    start = file.read(len(_AGE[1])) or b""
    if start.startswith(_AGE):
        raise Refused(
            f"{path} is encrypted with age, and the key to decrypt it is never on this machine",
            f"decrypt it where the key is (age -d -i KEY -o {path.name.removesuffix('.age')} {path.name}) and give that file",
        )
    other = _other_form(start, path)
    if other is not None:
        raise other
    if not start.startswith(_GZIP):
        raise Damaged(f"{path} is no gzip file, so it is no backup that could be restored", ANOTHER)


def _other_form(start: bytes, path: Path) -> FleetError | None:
    if start.startswith(b"PGDMP"):
        return Refused(
            f"{path} is an archive of pg_dump -Fc, which is not what backups here are",
            f"make it one with: pg_restore --no-owner --no-privileges -f - {path.name} | gzip > {path.stem}.sql.gz",
        )
    if start.startswith(b"--\n--"):
        return Refused(f"{path} is not compressed", f"compress it with: gzip -k {path.name}")
    return None


def _require_own(manifest: Manifest, path: Path, whose: Target, over: bool) -> None:
    if over and manifest.target != whose.key:
        raise Refused(
            f"{path} is a backup of {target_of(manifest.target).spoken}, not of {whose.spoken}",
            "restore it into a new database (into), or give a backup of its own",
        )


def _head(file: OpenFile, path: Path) -> bytes:
    with closing(decompressed(file, path)) as chunks:  # type: ignore[type-var]
        return next(chunks, b"")


def _require_dump(head: bytes, path: Path) -> None:
    first = head[:4096]
    if _CLUSTER in first:
        raise Refused(f"{path} is a dump of a whole server (pg_dumpall), not of one database", ANOTHER)
    if _FIRST_LINES not in first:
        raise Damaged(f"{path} is no dump of a PostgreSQL database", ANOTHER)
    if _ELSEWHERE.search(head[:_FOREWORD]):
        raise Refused(
            f"{path} would connect to a database of its own choice (pg_dump --create made it)",
            "dump without --create, or give another backup",
        )

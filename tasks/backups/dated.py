"""Dated backups: a hard link of each latest backup and of its manifest, in a folder beside it, so that history costs no copying.

The latest is replaced by renaming and never written over, so its links stay what they were. A link shares the disk's blocks: it
guards against a bad newer backup, not against a bad disk.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from tasks.backups import archive
from tasks.backups import manifest as manifests
from tasks.backups.archive import CHUNK, disk_error
from tasks.backups.manifest import Manifest
from tasks.backups.source import APP_DATABASE, Target
from tasks.errors import Damaged, InvalidInput
from tasks.registry.names import require_block_name, require_slug

FOLDER = "dated_backups"
"""No slug has an underscore, so no client's folder is called so."""
SAFETY = "safety"
"""What the manifest of a backup says that was made before a restore went over the database (``taken_for``)."""
_NAME = re.compile(r"[a-z0-9-]+-\d{8}T\d{6}Z-[0-9a-f]{8}\.sql\.gz")
_NO_LINKS = {
    errno.EPERM,  # FAT, and files of somebody else (fs.protected_hardlinks)
    errno.EXDEV,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
}


@dataclass(frozen=True)
class Dated:
    """A dated backup on the disk; both halves are there."""

    path: Path
    manifest: Manifest

    @property
    def safety(self) -> bool:
        """Whether it was made before a restore went over the database."""
        return self.manifest.taken_for == SAFETY

    @property
    def whole(self) -> bool:
        """Whether the file has the size that its manifest says. Its SHA-256 is asked for when it is restored."""
        try:
            return self.path.stat().st_size == self.manifest.file_bytes
        except OSError:
            return False


def folder(latest: Path) -> Path:
    """Where the dated backups lie whose latest one is ``latest``.

    >>> folder(Path("/b/acme/latest_backup.sql.gz")).as_posix()
    '/b/acme/dated_backups'
    """
    return latest.parent / FOLDER


def dated_path(latest: Path, target: Target, manifest: Manifest) -> Path:
    """Where the backup that ``manifest`` describes lies under its date.

    The moment is in UTC and to the second; the start of the SHA-256 tells two of one second apart.
    """
    whose = target.client or target.database
    before = "before-restore-" if manifest.taken_for == SAFETY else ""
    moment = manifest.taken_at.astimezone(UTC)
    return folder(latest) / f"{before}{whose}-{moment:%Y%m%dT%H%M%SZ}-{manifest.sha256[:8]}.sql.gz"


def ensure(latest: Path, target: Target) -> Path:
    """Make the dated twin of the backup at ``latest`` where it is not there yet; its path. The caller holds the target's lock.

    Manifest first: an entry counts only when both halves are there. Where the file system has no hard links it is a copy, hashed
    as it is written.

    Raises:
        Damaged: there is no manifest beside ``latest``, or the file is not what it says.
        Refused: the folder cannot be made or written, or its disk is full; nothing half made stays.
    """
    made = manifests.read(latest)
    if made is None:
        raise Damaged(f"the backup {latest} has no manifest beside it", "make a new backup")
    twin = dated_path(latest, target, made)
    if not Dated(latest, made).whole:
        raise Damaged(
            f"{latest} has not the size that its manifest says: it was cut or replaced",
            "make a new backup and keep this file aside",
        )
    with _told(twin.parent):
        twin.parent.mkdir(mode=0o700, exist_ok=True)
        beside = manifests.beside(latest)
        if not _is_same(beside, manifests.beside(twin)):
            _link(beside, manifests.beside(twin), None)
        if not _is_same(latest, twin):
            _link(latest, twin, made.sha256)
        _to_disk(twin.parent)
    return twin


def settle(latest: Path, target: Target) -> Dated | None:
    """Finish what killed runs left: temporary files and lone manifests go, and the twin of ``latest`` is made if it is missing.

    None: there is no good latest backup to make one of. The caller holds the target's lock and settled ``latest`` itself.

    Raises:
        Refused: the folder cannot be made or written.
    """
    sweep(latest)
    with suppress(Damaged):  # whoever opens the latest says what is wrong with it
        twin = ensure(latest, target)
        manifest = manifests.read(twin)
        return Dated(twin, manifest) if manifest else None
    return None


def sweep(latest: Path) -> list[Path]:
    """Remove what killed runs left in the folder of dated backups: temporary files, and manifests whose dump is not there.

    A dump without its manifest is no such thing (the manifest comes first and goes last): somebody's hand made it, and the dump
    may be good, so it stays. The caller holds the target's lock.

    Raises:
        Refused: the folder cannot be written.
    """
    gone = []
    with _told(folder(latest)):
        for name in _names(latest):
            path = folder(latest) / name
            temporary = name.startswith(".") and name.endswith((".part", ".next.json"))
            dump = path.with_name(name.removesuffix(".json"))
            lone = name.endswith(".json") and _NAME.fullmatch(dump.name) and not dump.exists()
            if temporary or lone:
                path.unlink(missing_ok=True)
                gone.append(path)
    return gone


def listed(latest: Path) -> list[Dated]:
    """The dated backups beside ``latest``, newest first; what has no readable manifest is left out.

    Raises:
        Refused: the folder cannot be read.
    """
    found = []
    for name in _names(latest):
        if _NAME.fullmatch(name):
            path = folder(latest) / name
            with suppress(Damaged):
                manifest = manifests.read(path)
                if manifest is not None:
                    found.append(Dated(path, manifest))
    return sorted(found, key=lambda one: (one.manifest.taken_at, one.path.name), reverse=True)


def unreadable(latest: Path) -> list[Path]:
    """Dumps in the folder of dated backups that have no readable manifest: only somebody's hand makes one.

    Raises:
        Refused: the folder cannot be read.
    """
    readable = {one.path.name for one in listed(latest)}
    dumps = [name for name in _names(latest) if _NAME.fullmatch(name)]
    return [folder(latest) / name for name in sorted(dumps) if name not in readable]


def remove(one: Dated) -> int:
    """Remove a dated backup; the bytes that this gives back to the disk (none while the latest shares them).

    The dump first: a run killed between leaves a lone manifest, which the next sweep removes. Whoever has the file open, to mail
    or restore it, keeps reading it. The caller holds the target's lock.

    Raises:
        Refused: the folder cannot be written.
    """
    with _told(one.path.parent):
        status = one.path.stat()
        one.path.unlink()
        _to_disk(one.path.parent)
        manifests.beside(one.path).unlink(missing_ok=True)
        _to_disk(one.path.parent)
        return status.st_size if status.st_nlink == 1 else 0


def used_bytes(latest: Path) -> int:
    """What ``latest`` and its dated backups take of the disk, in bytes; files that are links of each other count once.

    Raises:
        Refused: the folder cannot be read.
    """
    files = {}
    for path in [latest, *(folder(latest) / name for name in _names(latest) if _NAME.fullmatch(name))]:
        with suppress(FileNotFoundError, NotADirectoryError):
            status = path.stat()
            files[status.st_dev, status.st_ino] = status.st_size
    return sum(files.values())


def targets_in(directory: Path) -> list[Target]:
    """Whose dated backups lie in ``directory``, the folder of all backups; the reverse of ``source.place``.

    Raises:
        Refused: the folder cannot be read.
    """
    found = []
    with _told(directory):
        names = sorted(os.listdir(directory)) if directory.is_dir() else []
    for name in names:
        block = name.removeprefix("database_")
        if name == FOLDER:
            found.append(Target(database=APP_DATABASE))
        elif os.path.isdir(directory / name / FOLDER):
            with suppress(InvalidInput):  # somebody's own folder
                named = (
                    Target(client=require_slug(name)) if block == name else Target(database=require_block_name(block))
                )
                found.append(named)
    return found


def _names(latest: Path) -> list[str]:
    with _told(folder(latest)):
        try:
            return os.listdir(folder(latest))
        except FileNotFoundError:
            return []


@contextmanager
def _told(where: Path) -> Iterator[None]:
    """The file system's refusal, in words."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, where) from None


def _is_same(source: Path, twin: Path) -> bool:
    """Whether ``twin`` is ``source``'s link, or what a copy of it would be (a dump's name holds its SHA-256)."""
    try:
        ours, its = source.stat(), twin.stat()
    except FileNotFoundError:
        return False
    if (ours.st_dev, ours.st_ino) == (its.st_dev, its.st_ino):
        return True
    if source.suffix == ".json":
        return source.read_bytes() == twin.read_bytes()
    return ours.st_size == its.st_size


def _link(source: Path, twin: Path, digest: str | None) -> None:
    """Put a link or a copy of ``source`` at ``twin`` in one step; a copy must have the SHA-256 ``digest``, if one is given."""
    part = twin.with_name(f".{twin.name}.{os.getpid()}.part")
    try:
        try:
            os.link(source, part)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _copy(source, part, digest)
        os.replace(part, twin)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, part: Path, digest: str | None) -> None:
    hashed = hashlib.sha256()
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "wb", buffering=0) as copy, archive.opened(source) as file:
        while chunk := file.read(CHUNK):
            left = memoryview(chunk)
            while left:
                left = left[copy.write(left) :]
            hashed.update(chunk)
        os.fsync(copy.fileno())
    if digest is not None and hashed.hexdigest() != digest:
        raise Damaged(
            f"{source} has another SHA-256 than its manifest says: it was altered",
            "make a new backup and keep this file aside; look at the disk",
        )


def _to_disk(where: Path) -> None:
    handle = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

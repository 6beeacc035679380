"""Whether the disk that backups should go to is there: a folder whose disk is not mounted looks like an empty one of the root disk."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from tasks.errors import Refused

FSTAB = Path("/etc/fstab")
MOUNTINFO = Path("/proc/self/mountinfo")


def require(folder: Path, must_be_mounted: bool) -> None:
    """Return if what should be mounted at or above ``folder`` is; ask before a folder is made there.

    Args:
        folder: of a backup; it need not exist.
        must_be_mounted: whether it has to lie on a mounted file system other than the root's.

    Raises:
        Refused: a disk is not mounted; the sentence names where.
    """
    real = Path(os.path.realpath(folder))
    mounted = _mounted(real)
    named = missing(real, mount_points(_text(FSTAB)), mounted)
    if named is not None:
        raise Refused(
            f"nothing is mounted at {named}, which {FSTAB} names, so {folder} would lie on another disk",
            f"run `mount {named}` and see why it was not mounted, or choose another folder in the block backup-policy",
        )
    if must_be_mounted and not any(place in mounted for place in (real, *real.parents[:-1])):
        raise Refused(
            f"neither {folder} nor a folder above it is a mounted file system, and the block backup-policy asks for one",
            "mount the disk of the backups, or switch off Folder must be mounted in the block backup-policy",
        )


def missing(folder: Path, named: Collection[Path], mounted: Collection[Path]) -> Path | None:
    """The innermost of the mount points ``named`` at or above ``folder`` if it is not among the ``mounted``.

    >>> named = [Path("/"), Path("/mnt/disk"), Path("/srv")]
    >>> missing(Path("/mnt/disk/backups"), named, {Path("/")})
    PosixPath('/mnt/disk')
    >>> missing(Path("/mnt/disk/backups"), named, {Path("/"), Path("/mnt/disk")})
    >>> missing(Path("/mnt/disk2/backups"), named, {Path("/")})
    """
    for place in (folder, *folder.parents[:-1]):
        if place in mounted:
            return None
        if place in named:
            return place
    return None


def mount_points(fstab: str) -> list[Path]:
    r"""Where the lines of an fstab mount something; swap and comments are left out.

    >>> [place.as_posix() for place in mount_points("# a\nUUID=1 / ext4 defaults 0 1\n/dev/b /mnt/my\\040disk ext4\n/dev/c none swap sw")]
    ['/', '/mnt/my disk']
    """
    fields = [line.split() for line in fstab.splitlines() if not line.lstrip().startswith("#")]
    return [Path(_plain(field[1])) for field in fields if len(field) > 1 and field[1].startswith("/")]


def _mounted(folder: Path) -> set[Path]:
    lines = _text(MOUNTINFO).splitlines()
    if lines:
        return {Path(_plain(line.split()[4])) for line in lines}
    return {place for place in (folder, *folder.parents) if os.path.ismount(place)}


def _plain(field: str) -> str:
    """A path as it is, out of a field in which spaces are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""

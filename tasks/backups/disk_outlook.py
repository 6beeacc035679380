"""Whether the disk of the backups' folder will do: for the next night, and at the pace of the last weeks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.backups.records import Kept, Lying
from tasks.backups.source import mib

PACE_DAYS = 28
"""The pace is that of so many days: long enough for the fast growth of the first week, when nothing is pruned yet, to fade."""
LEAST_DAYS = 2
"""From a shorter history no pace is told."""
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Disk:
    """The disk that the backups lie on."""

    folder: str
    free: int
    """Bytes."""


@dataclass(frozen=True)
class Pace:
    """How fast the backups' files grew altogether."""

    bytes_a_day: float
    days: float
    """Over which that was seen."""


def pace(files: Sequence[Lying], at: datetime) -> Pace | None:
    """How fast the files' sum grew, per day, new ones less those pruned or replaced; None: the history is too short.

    While the retention fills up, that is a backup of everything for each day kept; once it is full, only the growth of the
    backups themselves is left.

    Args:
        files: as the registry recorded them.
        at: the moment until which is looked.

    >>> from datetime import UTC
    >>> at = datetime(2026, 1, 31, tzinfo=UTC)
    >>> pace([Lying(100, at - n * DAY, None) for n in range(10)], at)
    Pace(bytes_a_day=111.11111111111111, days=9.0)
    >>> full = [Lying(100, at - n * DAY, None if n < 7 else at - (n - 7) * DAY) for n in range(60)]
    >>> pace(full, at)
    Pace(bytes_a_day=0.0, days=28.0)
    >>> pace([Lying(100, at - DAY, None), Lying(100, at, None)], at) is None
    True
    """
    begun = min((one.since for one in files), default=at)
    start = max(begun, at - PACE_DAYS * DAY)
    days = (at - start) / DAY
    if days < LEAST_DAYS:
        return None
    grown = sum(one.file_bytes for one in files if start < one.since <= at)
    gone = sum(one.file_bytes for one in files if one.until is not None and start < one.until <= at)
    if begun >= start:  # the very first one is growth too
        grown += sum(one.file_bytes for one in files if one.since == start)
    return Pace((grown - gone) / days, days)


def next_night(newest: Sequence[Kept], dated: bool, at_once: int) -> int:
    """Free bytes that the next night needs, if its backups are as large as the newest ones.

    Args:
        newest: good backup of each target.
        dated: whether each new file stays beside the ones before it; else it takes the place of one.
        at_once: dumps that write at the same time.
    """
    from tasks.backups.dump import required_bytes

    asked = sorted((required_bytes(one.file_bytes, one.database_bytes) for one in newest), reverse=True)
    writing = sum(asked[:at_once])  # each dump refuses to begin with less
    return max(writing, sum(one.file_bytes for one in newest)) if dated else writing


def outlook(disk: Disk, needed: int, seen: Pace | None, days: int) -> str:
    """Why the disk is worth an alert, in words; empty: it will do.

    Args:
        disk: as it is now, after the night.
        needed: bytes that the next night needs.
        seen: the pace of the last weeks.
        days: warn when it is full within so many; 0: only where the next night has no room.

    >>> outlook(Disk("/b", 50 * 2**20), 80 * 2**20, None, 14)
    'the disk of /b has 50.0 MiB free and the next night needs about 80.0 MiB'
    >>> outlook(Disk("/b", 2**30), 80 * 2**20, Pace(100 * 2**20, 28.0), 14)
    'the disk of /b is full in about 10 days: 1.0 GiB are free, and the backups grew by 100.0 MiB a day over the last 28 days'
    >>> outlook(Disk("/b", 2**30), 80 * 2**20, Pace(10 * 2**20, 28.0), 14), outlook(Disk("/b", 2**30), 0, Pace(-5, 28.0), 14)
    ('', '')
    """
    if disk.free < needed:
        return f"the disk of {disk.folder} has {mib(disk.free)} free and the next night needs about {mib(needed)}"
    if seen is None or not days or seen.bytes_a_day <= 0 or disk.free >= seen.bytes_a_day * days:
        return ""
    left = int(disk.free / seen.bytes_a_day)
    within = "within a day" if left < 1 else f"in about {left} {'day' if left == 1 else 'days'}"
    return (
        f"the disk of {disk.folder} is full {within}: {mib(disk.free)} are free, and the backups grew by "
        f"{mib(int(seen.bytes_a_day))} a day over the last {seen.days:.0f} days"
    )

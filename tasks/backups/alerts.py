"""What of the backups is worth an alert: too old, unproven for too long, much smaller than before, no room. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tasks.backups.records import Record, window
from tasks.backups.source import Target, many, mib
from tasks.clock import spoken


class Kind(StrEnum):
    """What an alert is about."""

    OLD = "old"
    """The newest good backup is too old, or there is none."""
    UNVERIFIED = "unverified"
    """Too long ago that a trial restore proved one."""
    DAMAGED = "damaged"
    """The newest trial restore found the backup not good."""
    SHRUNK = "shrunk"
    """Much smaller than before, or with far fewer rows."""
    DISK = "disk"
    """The folder's disk is full, or soon."""


@dataclass(frozen=True)
class Alert:
    """One thing that a person has to look at."""

    kind: Kind
    target: Target | None
    """None: about the folder of all."""
    what: str
    """With the target's name in it."""
    cure: str

    @property
    def sentence(self) -> str:
        """What it is and what to do next."""
        return f"{self.what}; {self.cure}."


@dataclass(frozen=True)
class Limits:
    """From when on something is worth an alert; the policy's."""

    max_age_hours: int = 26
    max_unverified_days: int = 8
    shrink_percent: int = 50
    disk_days: int = 14


def about(record: Record, limits: Limits, at: datetime, time_zone: str) -> list[Alert]:
    """The alerts about one target.

    Args:
        record: what the registry knows of it.
        limits: the policy's.
        at: now.
        time_zone: of the moments in the sentences.
    """
    newest, whose = record.newest, record.target
    again = f"run backup-database for {whose.spoken} and mend what it names"
    if newest is None:
        return [Alert(Kind.OLD, whose, f"{whose.spoken} has no good backup at all", again)]
    found = []
    age = at - newest.taken_at
    if age > timedelta(hours=limits.max_age_hours):
        when = spoken(newest.taken_at, time_zone)
        said = (
            f"the newest backup of {whose.spoken} is of {when}, {lasting(age)} ago (allowed: {limits.max_age_hours} h)"
        )
        found.append(Alert(Kind.OLD, whose, said, again))
    if record.damaged:
        reason = record.damaged.rstrip(". ").rpartition("; ")
        said = f"the last trial restore of {whose.spoken} found its backup not good ({reason[0] or reason[2]})"
        found.append(Alert(Kind.DAMAGED, whose, said, f"run verify-backup for {whose.spoken} on its newest backup"))
    return found + _unverified(record, limits, at, time_zone) + _shrunk(record, limits, time_zone)


def _unverified(record: Record, limits: Limits, at: datetime, time_zone: str) -> list[Alert]:
    """Nothing is said of a target whose first backup is not older than what is allowed: its first trial is still to come."""
    seen, whose = record.proven_at or record.first_at, record.target
    if seen is None or at - seen <= timedelta(days=limits.max_unverified_days):
        return []
    allowed = f"(allowed: {many(limits.max_unverified_days, 'day')})"
    if record.proven_at is None:
        said = f"no backup of {whose.spoken} was ever proven by a trial restore, its first is {lasting(at - seen)} old"
    else:
        when = spoken(record.proven_at, time_zone)
        said = f"the newest proven backup of {whose.spoken} is of {when}, {lasting(at - seen)} ago"
    cure = f"run verify-backup for {whose.spoken}, and see whether its schedule is on"
    return [Alert(Kind.UNVERIFIED, whose, f"{said} {allowed}", cure)]


def _shrunk(record: Record, limits: Limits, time_zone: str) -> list[Alert]:
    """The file, or the rows; against the largest of the day before, so that one made by hand in between hides nothing."""
    newest, earlier = record.newest, window(record, limits.max_age_hours)
    if newest is None or not earlier:
        return []
    largest, fullest = max(earlier, key=lambda one: one.file_bytes), max(earlier, key=lambda one: one.rows)
    parts = []
    lost = fell(largest.file_bytes, newest.file_bytes)
    if lost > limits.shrink_percent:
        sizes = f"{mib(largest.file_bytes)}, now {mib(newest.file_bytes)}"
        parts.append(f"is {lost:.0f} % smaller than that of {spoken(largest.taken_at, time_zone)} ({sizes})")
    lost = fell(fullest.rows, newest.rows)
    if lost > limits.shrink_percent:
        counts = f"{fullest.rows}, now {newest.rows}"
        parts.append(f"has {lost:.0f} % fewer rows than that of {spoken(fullest.taken_at, time_zone)} ({counts})")
    if not parts:
        return []
    said = f"the backup of {record.target.spoken} {' and '.join(parts)}"
    return [Alert(Kind.SHRUNK, record.target, said, "see whether that was meant while the older ones are kept")]


def fell(before: int, now: int) -> float:
    """By how many percent a number fell; negative where it grew.

    >>> fell(200, 50), fell(50, 100), fell(0, 7)
    (75.0, -100.0, 0.0)
    """
    return 100 * (before - now) / before if before else 0.0


def lasting(time: timedelta) -> str:
    """A length of time as a person says it, not more exact than is of use.

    >>> [lasting(timedelta(hours=h)) for h in (0.01, 0.5, 26, 49, 24 * 9)]
    ['0 min', '30 min', '26 h', '2 days', '9 days']
    """
    seconds = max(0.0, time.total_seconds())
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h"
    return many(int(seconds // 86_400), "day")


def disk(what: str) -> list[Alert]:
    """The alert about the folder's disk; none where there is nothing to say."""
    cure = "free space there, enlarge it, or keep fewer (Days, Weeks and Months kept in the block backup-policy)"
    return [Alert(Kind.DISK, None, what, cure)] if what else []

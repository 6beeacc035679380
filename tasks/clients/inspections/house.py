"""Looking around the client: disk space, operations under way or cut off, clocks."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tasks.clients.diagnosis import Check, Line, bad, good, size, span, unknown
from tasks.clock import spoken
from tasks.registry.models import StepJournal

LEAST = 1 << 30
"""Bytes that should be free: a new image and a dump need about so much."""
DRIFT = 5.0
"""Seconds that two clocks may differ."""


DEPLOYMENTS = {
    "provision": "provision-client",
    "rotate": "rotate-client-secrets",
    "deprovision": "deprovision-client",
    "clean restart": "restart-zero with clean=true",
    "restore": "restore-database",
}
"""What an operation is started by, where that is not its name and -zero."""


def deployment(operation: str) -> str:
    """The deployment that an operation of the journal is started by.

    >>> deployment("provision"), deployment("restart")
    ('provision-client', 'restart-zero')
    """
    return DEPLOYMENTS.get(operation, f"{operation}-zero")


def disk_line(places: Mapping[str, Path]) -> Line:
    """Free space where Docker and we keep things.

    Args:
        places: what a folder is for, and the folder; those that are not on this machine are left out by the caller.
    """
    said, short = [], []
    for what, folder in places.items():
        try:
            seen = os.statvfs(_existing(folder))
        except OSError as error:
            said.append(f"{what} cannot be looked at ({error.strerror})")
            continue
        free, total = seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize
        text = f"{what} {size(free)} of {size(total)} free"
        said.append(text)
        if free < LEAST:
            short.append(text)
    if short:
        return bad(Check.DISK, "; ".join(short), "free some (docker system df, prune-backups), or give more")
    if not said:
        return unknown(Check.DISK, "Docker's host is another machine")
    return good(Check.DISK, "; ".join(said))


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that there is."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def operation_line(
    holder: str | None,
    pending: Mapping[str, object] | None,
    steps: Sequence[StepJournal],
    slug: str,
    time_zone: str,
) -> Line:
    """Whether an operation is under way, or one was cut off and waits to be finished.

    Args:
        holder: who holds the client right now; None: nobody.
        pending: what the registry says is under way.
        steps: the journal's last, newest first.
    """
    check = Check.OPERATION
    if holder is not None:
        return unknown(
            check, f"{holder} is at work on it, so that what was seen may change", "run again when it has ended"
        )
    if pending:
        name, phase = pending.get("operation", "an operation"), pending.get("phase", "an unknown phase")
        return bad(
            check,
            f"{name} was cut off in its phase {phase}",
            f"run {deployment(str(name))} for {slug} again, which ends or undoes it",
        )
    last = steps[0] if steps else None
    if last is not None and last.ended_at is None:
        began = spoken(last.started_at, time_zone, seconds=True)
        return bad(
            check,
            f"{last.operation} was cut off in its step {last.step!r}, begun {began}",
            f"run {deployment(last.operation)} for {slug} again, which finishes it",
        )
    if last is None:
        return good(check, "nobody works on it")
    ended = spoken(last.ended_at or last.started_at, time_zone, seconds=True)
    return good(check, f"nobody works on it; last was {last.operation}, ended {ended} ({last.outcome})")


def clock_line(drifts: Mapping[str, float | None]) -> Line:
    """Whether the machines agree on the time: tokens and certificates are refused where they do not.

    Args:
        drifts: seconds that each machine's clock is ahead of ours; None: not seen.
    """
    seen = {whose: drift for whose, drift in drifts.items() if drift is not None}
    if not seen:
        return unknown(Check.CLOCK, "no other clock could be read")
    off = {whose: drift for whose, drift in seen.items() if abs(drift) > DRIFT}
    if off:
        said = ", ".join(
            f"that of {whose} is {span(abs(drift))} {'ahead of' if drift > 0 else 'behind'} ours"
            for whose, drift in off.items()
        )
        return bad(Check.CLOCK, said, "let both machines set their clocks by NTP (timedatectl set-ntp true)")
    return good(Check.CLOCK, f"ours and that of {' and '.join(seen)} agree within {DRIFT:.0f} s")


def ahead(theirs: datetime, ours: datetime) -> float:
    """Seconds that ``theirs`` is ahead of ``ours``."""
    return (theirs - ours).total_seconds()

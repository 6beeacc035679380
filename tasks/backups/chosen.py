"""Which backup a restore means: what is asked for, judged before anything is looked at, and then the file on the disk."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path

from tasks.backups import dated
from tasks.backups import manifest as manifests
from tasks.backups.source import Target, target
from tasks.clock import spoken, zone
from tasks.errors import Damaged, InvalidInput, NotFound, Refused
from tasks.registry.names import PREFIX

LATEST = "latest"
REGISTRY = "registry"
"""The block that puts the registry on PostgreSQL."""
LONGEST_NAME = 255
"""Bytes of one name in a path that Linux takes (NAME_MAX)."""
NAMED = 5
"""Backups that are named where none fits."""
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}))?")
_NEW_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_OURS = (PREFIX, "zero_scratch_", "zero_restore_")


@dataclass(frozen=True)
class Day:
    """A backup by its date: the newest of that day, or the newest not later than a time of it."""

    day: date
    until: time | None = None


Meant = Day | Path | str
"""A day, an absolute path, ``latest``, or the name of a file in the target's own folders."""


@dataclass(frozen=True)
class Restoration:
    """What is to be restored where; no secret in it."""

    whose: Target
    backup: str
    into: str = ""
    """Name of the new database; empty: over the old one."""
    safety_backup: bool = True
    """Whether what is there is saved before it is replaced."""


def restoration(
    client: str | None, database: str | None, backup: str, into: str, confirm: str, safety_backup: bool = True
) -> Restoration:
    """What a flow's parameters ask for.

    Raises:
        InvalidInput: one of them is malformed, or does not fit the others.
        Refused: what is never restored over.

    >>> restoration("acme", None, "latest", "", "acme")
    Restoration(whose=Target(client='acme', database=None), backup='latest', into='', safety_backup=True)
    >>> restoration("acme", None, "latest", "", "")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: the database of client acme would be replaced by its backup 'latest', and confirm is ''; repeat acme in confirm, or name a new database in into.
    >>> restoration("acme", None, "latest", "look_at_it", "acme")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: into 'look_at_it' asks for a new database and confirm 'acme' to replace the old one; leave one of them out.
    """
    whose = target(client, database)
    meaning(backup)
    if into:
        require_new_name(into)
        if confirm:
            raise InvalidInput(
                f"into {into!r} asks for a new database and confirm {confirm[:60]!r} to replace the old one",
                "leave one of them out",
            )
        return Restoration(whose, backup, into)
    called = whose.client or whose.database
    if whose.database == REGISTRY:
        raise registry_in_use(whose)
    if confirm != called:
        raise InvalidInput(
            f"the database of {whose.spoken} would be replaced by its backup {backup[:80]!r}, and confirm is {confirm[:60]!r}",
            f"repeat {called} in confirm, or name a new database in into",
        )
    return Restoration(whose, backup, safety_backup=safety_backup)


def registry_in_use(whose: Target) -> Refused:
    """The error where a run would take its own registry away."""
    return Refused(
        f"the database of {whose.spoken} holds the registry, which this very run uses, so it is not replaced",
        "restore it into a new database (into), stop everything, and let the block registry name the new one",
    )


def require_new_name(name: str) -> str:
    """``name`` if a new database may be called so.

    Raises:
        InvalidInput: it may not.

    >>> require_new_name("acme_before_march")
    'acme_before_march'
    >>> require_new_name("zero_client_beta")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: into 'zero_client_beta' is the name of a client's database, or one that is made and dropped here; choose another name, like restored_acme.
    >>> require_new_name("pg_acme")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: into 'pg_acme' begins like what PostgreSQL keeps for itself; choose another name, like restored_acme.
    """
    if not _NEW_NAME.fullmatch(name):
        raise InvalidInput(
            f"into {name[:80]!r} is no name for a database here",
            "use small letters, digits and underscores, starting with a letter, at most 63, like restored_acme",
        )
    if name in ("public", "none"):
        raise InvalidInput(
            f"into {name!r} is a name that PostgreSQL keeps for itself", "choose another name, like restored_acme"
        )
    if name.startswith("pg_"):
        raise InvalidInput(
            f"into {name!r} begins like what PostgreSQL keeps for itself", "choose another name, like restored_acme"
        )
    if name.startswith(_OURS):
        raise InvalidInput(
            f"into {name!r} is the name of a client's database, or one that is made and dropped here",
            "choose another name, like restored_acme",
        )
    return name


def meaning(backup: str) -> Meant:
    """What the parameter ``backup`` means.

    Raises:
        InvalidInput: nothing that there can be.

    >>> meaning("2026-11-20 02:00")
    Day(day=datetime.date(2026, 11, 20), until=datetime.time(2, 0))
    >>> meaning("/mnt/usb/acme.sql.gz"), meaning("acme-20261120T020000Z-0a1b2c3d.sql.gz")
    (PosixPath('/mnt/usb/acme.sql.gz'), 'acme-20261120T020000Z-0a1b2c3d.sql.gz')
    >>> meaning("2026-13-01")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: backup '2026-13-01' is no date that there is; write it like 2026-11-20 or 2026-11-20 02:00.
    """
    if backup == LATEST:
        return LATEST
    found = _DATE.fullmatch(backup)
    if found:
        try:
            return Day(date.fromisoformat(found[1]), time.fromisoformat(found[2]) if found[2] else None)
        except ValueError:
            raise InvalidInput(
                f"backup {backup!r} is no date that there is", "write it like 2026-11-20 or 2026-11-20 02:00"
            ) from None
    if max(len(part.encode(errors="replace")) for part in backup.split("/")) > LONGEST_NAME:
        raise InvalidInput(
            f"backup {backup[:80]!r} is longer than a file's name may be",
            "write latest, a date, or a file's name or path",
        )
    plain = backup.isprintable() and backup not in ("", ".", "..")
    if plain and backup.startswith("/"):
        return Path(backup)
    if not plain or "/" in backup:
        raise InvalidInput(
            f"backup {backup[:80]!r} is neither latest, nor a date, nor a file",
            "write latest, a date like 2026-11-20 or 2026-11-20 02:00, a file's absolute path, or the name of a dated file",
        )
    return backup


def newest(of: Day, taken: Iterable[tuple[datetime, Path]], time_zone: str) -> Path | None:
    """The newest backup that ``of`` means, on the clock of ``time_zone``; times count to the minute, as people read them.

    >>> from datetime import UTC
    >>> taken = [(datetime(2026, 11, 20, at, 0, 9, tzinfo=UTC), Path(f"/b/{at}")) for at in (1, 2, 3)]
    >>> newest(Day(date(2026, 11, 20)), taken, "UTC"), newest(Day(date(2026, 11, 20), time(2, 0)), taken, "UTC")
    (PosixPath('/b/3'), PosixPath('/b/2'))
    """
    fitting = []
    for moment, path in taken:
        local = moment.astimezone(zone(time_zone))
        early_enough = of.until is None or (local.hour, local.minute) <= (of.until.hour, of.until.minute)
        if local.date() == of.day and early_enough:
            fitting.append((moment, path))
    return max(fitting)[1] if fitting else None


def find(wanted: Restoration, latest: Path, time_zone: str) -> Path:
    """The file that ``wanted`` means. The caller holds the target's lock.

    Args:
        latest: where the target's latest backup lies.
        time_zone: of the dates.

    Raises:
        NotFound: there is no such file; the sentence names what there is.
        Refused: a folder cannot be read.
    """
    meant = meaning(wanted.backup)
    if meant == LATEST or isinstance(meant, Path):
        path = meant if isinstance(meant, Path) else latest
        if not path.is_file():
            run_first = f"run backup-database for {wanted.whose.spoken} first, or give a file"
            cure = "correct the path (as the worker's machine sees it)" if path is meant else run_first
            kind = " (it is a folder)" if path.is_dir() else " (it is no regular file)" if path.exists() else ""
            raise NotFound(f"there is no backup of {wanted.whose.spoken} at {path}{kind}", cure)
        return path
    if isinstance(meant, Day):
        found = newest(meant, _taken(latest), time_zone)
        if found is not None:
            return found
    else:
        for folder in (latest.parent, dated.folder(latest)):
            if (folder / meant).is_file():
                return folder / meant
    raise NotFound(
        f"there is no backup of {wanted.whose.spoken} called or taken {wanted.backup!r} ({time_zone})",
        f"choose one that there is: {_there(latest, time_zone)}",
    )


def _taken(latest: Path) -> list[tuple[datetime, Path]]:
    """When each backup was taken, of those that may be meant by a date: one made before a restore is not."""
    found = [(one.manifest.taken_at, one.path) for one in dated.listed(latest) if not one.safety]
    try:
        made = manifests.read(latest) if latest.is_file() else None
    except Damaged:
        made = None
    return [*found, *([(made.taken_at, latest)] if made else [])]


def _there(latest: Path, time_zone: str) -> str:
    taken = sorted({spoken(moment, time_zone) for moment, _ in _taken(latest)}, reverse=True)
    more = f" and {len(taken) - NAMED} more" if len(taken) > NAMED else ""
    return ", ".join(taken[:NAMED]) + more if taken else "none yet; run backup-database"

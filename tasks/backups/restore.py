"""Restore a backup into a scratch database and compare what is found there with the manifest."""

import itertools
import os
import re
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks import children
from tasks.backups import outline, programs, schema, scratch, survey
from tasks.backups.archive import OpenFile, decompressed, prove
from tasks.backups.manifest import Manifest, require_same
from tasks.backups.source import Database, many
from tasks.errors import Damaged, FleetError, Refused, Unreachable
from tasks.sqlstate import first_line

ROOM = 1.3
"""Disk that a restored database may take, times its size when it was dumped (write-ahead log while loading)."""
_HEAD = 1 << 16
_RESTRICT = re.compile(rb"(?:--[^\n]*\n|[ \t\r]*\n)*(\\restrict [A-Za-z0-9]+\n)")
_STDERR = 16_384


@dataclass(frozen=True)
class Trial:
    """Everything that one trial restore needs to know."""

    server: Database
    """The clients' server: its maintenance database as the provisioner. Never the operator's own server."""
    fleet: str
    seconds: float = 1800
    pg_bin: Path | None = None
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)


@dataclass(frozen=True)
class Verified:
    """What a trial restore found equal."""

    tables: int
    rows: int
    large_objects: int
    seconds: float
    room: str
    objects: int = 0
    """Objects of the schema that were compared."""
    uncompared: str = ""
    """Why the schema was not compared; empty: it was."""

    @property
    def sentence(self) -> str:
        """As an operator reads it.

        >>> Verified(3, 9, 0, 0.2, "9.0 GiB free", 12).sentence
        "3 tables with 9 rows and the schema's 12 objects restored and compared equal in 0.2 s, 9.0 GiB free"
        >>> Verified(1, 0, 2, 0.2, "9.0 GiB free", 0, "its manifest has none").sentence[53:]
        'compared equal in 0.2 s, 9.0 GiB free, but the schema was not compared (its manifest has none)'
        """
        parts = [f"{many(self.tables, 'table')} with {many(self.rows, 'row')}"]
        parts += [many(self.large_objects, "large object")] if self.large_objects else []
        parts += [] if self.uncompared else [schema.spoken(self.objects)]
        found = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        but = f", but the schema was not compared ({self.uncompared})" if self.uncompared else ""
        return f"{found} restored and compared equal in {self.seconds:.1f} s, {self.room}{but}"


def verify(file: OpenFile, path: Path, manifest: Manifest, trial: Trial) -> Verified:
    """Prove that the backup ``file`` restores to what ``manifest`` says; the caller holds the target's verify lock.

    Args:
        file: the open backup (a newer one may replace it on the disk meanwhile).
        path: where it was opened, for the sentences.
        manifest: what must be found in it.
        trial: where and how.

    Raises:
        Damaged: the file is not what its manifest says, or its restored copy is not.
        Refused, Unreachable, Conflict, NotConfigured: the trial could not be made.
    """
    started = time.monotonic()
    deadline = started + trial.seconds
    require_same(file, manifest, path)
    prove(file, path, manifest.raw_bytes)
    with survey.connected(trial.server, min(60.0, trial.seconds)) as connection:
        server = connection.info.server_version // 10_000
        room = scratch.require_room(connection, trial.server, int(manifest.database_bytes * ROOM))
    if manifest.server_major > server:
        raise Refused(
            f"{path} came from PostgreSQL {manifest.server_major}, and the trial server {trial.server.server} is {server}: "
            "it cannot take what a newer one wrote",
            f"upgrade the server of the block postgres-server to {manifest.server_major} or newer",
        )
    fit = programs.choose(programs.installed(trial.pg_bin), server, trial.server.server)
    versions = (manifest.server_major, int(manifest.pg_dump_version.split(".")[0])), (server, fit.version[0])
    uncompared = schema.why_not_compared(manifest.schema, *versions)
    limits = Limits(trial.seconds, deadline, trial.cancelled)
    with scratch.made(trial.server, scratch.scratch_of(trial.fleet, manifest.target), manifest.encoding, 60.0) as it:
        load(file, path, it, fit, server, limits)
        with survey.connected(it, max(1.0, deadline - time.monotonic())) as connection:
            seen = survey.look(connection, it)
            rows = survey.count(connection, seen.tables)
        objects = {} if uncompared else schema.digests(outline.text(fit, it, lambda: watch(path, limits)))
    differences = compare(manifest, rows, seen.large_objects)
    if not uncompared:  # a table that is missing is missing in both
        differences = list(dict.fromkeys(differences + schema.differences(manifest.schema, objects)))
    if differences:
        raise Damaged(
            f"the restored copy of {path} differs from what was dumped: {', '.join(differences[:5])}"
            + (f" and {len(differences) - 5} more" if len(differences) > 5 else ""),
            "make a new backup, keep this file aside and look at the disk",
        )
    seconds = time.monotonic() - started
    return Verified(len(rows), sum(rows.values()), seen.large_objects, seconds, room, len(objects), uncompared)


def compare(manifest: Manifest, rows: dict[str, int], large_objects: int) -> list[str]:
    """What differs between the manifest and a restored database, one phrase each; empty when they are equal."""
    found = [f"table {name} is missing" for name in manifest.rows if name not in rows]
    found += [f"table {name} is too much" for name in rows if name not in manifest.rows]
    found += [
        f"table {name} has {many(rows[name], 'row')} instead of {expected}"
        for name, expected in manifest.rows.items()
        if name in rows and rows[name] != expected
    ]
    if large_objects != manifest.large_objects:
        found.append(f"{many(large_objects, 'large object')} instead of {manifest.large_objects}")
    return found


def fitted(chunks: Iterator[bytes], server: int, restricts: bool) -> Iterator[bytes]:
    r"""The dump as psql may be given it.

    Without the one setting in its head that a server before 17 does not know (pg_dump 17 and newer write it), and with psql kept from
    commands of its own (``\!`` starts a program of this machine): the key of the dump's ``\restrict`` is replaced by one that
    nobody knows who wrote the dump, and a dump without it gets one (CVE-2025-8714).

    Args:
        restricts: whether psql knows ``\restrict``.

    >>> b"".join(fitted(iter([b"SET lock_timeout = 0;\nSET transaction_timeout = 0;\nSELECT 1;"]), 16, False))
    b'SET lock_timeout = 0;\nSELECT 1;'
    """
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    if server < 17:
        head = head.replace(b"\nSET transaction_timeout = 0;\n", b"\n", 1)
    if not restricts:
        yield head
        yield from chunks
        return
    key = secrets.token_hex(24).encode()
    own = _RESTRICT.match(head)
    yield b"\\restrict " + key + b"\n"
    held = b""
    for chunk in itertools.chain([head[: own.start(1)] + head[own.end(1) :] if own else head], chunks):
        held += chunk
        yield held[:-_HEAD]
        held = held[-_HEAD:]
    # Only at the very end, where pg_dump writes it; anywhere else psql refuses it, not knowing the key.
    yield re.sub(rb"\n\\unrestrict [A-Za-z0-9]+\s*\Z", b"\n", held) if own else held
    yield b"\n\\unrestrict " + key + b"\n"


@dataclass(frozen=True)
class Limits:
    """When a load is given up, and what it is called then."""

    seconds: float
    """As the policy says, for the sentence."""
    deadline: float
    """On the monotonic clock."""
    cancelled: threading.Event
    what: str = "trial restore"


def watch(path: Path, limits: Limits) -> None:
    """Return while what ``limits`` are for may go on with the backup ``path``.

    Raises:
        Refused: it was cancelled.
        Unreachable: its time is over.
    """
    if limits.cancelled.is_set():
        raise Refused(f"the {limits.what} was cancelled", "run it again when you want it")
    if time.monotonic() >= limits.deadline:
        raise Unreachable(
            f"the {limits.what} of {path} was ended after {limits.seconds:g} s",
            "raise the restore timeout in the block backup-policy, or run it when the server has less load",
        )


def load(file: OpenFile, path: Path, database: Database, fit: programs.Programs, server: int, limits: Limits) -> None:
    """Feed the dump to psql; it stops at the first error, and we stop it at the deadline.

    Args:
        file: the open backup; ``path`` is its name in the sentences.
        database: empty, as the role that is to own what comes into it.
        fit: whose psql.
        server: the server's major version.
        limits: when to give up.

    Raises:
        Damaged: it does not restore, or is cut short or altered.
        Refused: it was cancelled, the disk is full, an extension is missing.
        Unreachable: the server went away, or it took too long.
    """
    arguments: list[str | Path] = [
        fit.psql,
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    ]
    with programs.pgpass(database.password) as passfile, tempfile.TemporaryFile() as said:
        env = programs.environment(database, passfile, "-c synchronous_commit=off -c statement_timeout=0")
        child = children.start(arguments, env, stdin=subprocess.PIPE, stderr=said.fileno())
        ended = threading.Event()
        late = threading.Thread(
            target=_end_in_time, args=(child, ended, limits.cancelled, limits.deadline), daemon=True
        )
        late.start()
        try:
            assert child.stdin is not None
            try:
                for chunk in fitted(decompressed(file, path), server, fit.restricts):
                    left = memoryview(chunk)
                    while left:
                        left = left[child.stdin.write(left) :]
                child.stdin.close()
            except BrokenPipeError:  # psql ended; its own words say why
                pass
            code = child.wait()
        finally:
            ended.set()
            late.join()
            children.stop(child)
        said.seek(max(0, os.fstat(said.fileno()).st_size - _STDERR))
        words = said.read().decode(errors="replace")
    if limits.cancelled.is_set() or code != 0:
        watch(path, limits)
    if code != 0:
        raise psql_error(words, code, path, database, limits.what)


def _end_in_time(
    child: subprocess.Popen[bytes], ended: threading.Event, cancelled: threading.Event, deadline: float
) -> None:
    while not ended.wait(0.3):
        if cancelled.is_set() or time.monotonic() >= deadline:
            child.terminate()
            if not ended.wait(10):
                child.kill()
            return


def psql_error(said: str, code: int, path: Path, database: Database, what: str = "trial restore") -> FleetError:
    """What psql's end with ``code`` means, by what it ``said`` on stderr; ``what`` is what it was started for.

    >>> d = Database("db", 5432, "s", "s", "")
    >>> print(psql_error("ERROR:  relation \\"t\\" does not exist", 3, Path("/b/f"), d))
    /b/f does not restore (relation "t" does not exist); look at the source database, make a new backup and verify again.
    """
    low = said.lower()
    errors = [line for line in said.splitlines() if "ERROR:" in line or "FATAL:" in line or "error:" in line]
    line = first_line(errors[0] if errors else said).removeprefix("psql: error: ")
    if "no space left" in low or "disk full" in low:
        return Refused(
            f"PostgreSQL at {database.server} has no disk space left for the {what} of {path}",
            "free disk space on the server and run again",
        )
    if "server closed the connection" in low or "connection to server" in low or "terminating connection" in low:
        return Unreachable(
            f"PostgreSQL at {database.server} went away during the {what} of {path} ({line})",
            "see the server's log, start it and run again",
        )
    if "create extension" in low or "to create this extension" in low or "extension" in line:
        return Refused(
            f"{path} needs an extension that the server {database.server} does not give to {database.user} ({line})",
            "install it there, or make it trusted, and run again",
        )
    if "role" in low and "does not exist" in low:
        return Damaged(
            f"{path} names a role that the server {database.server} does not have ({line})",
            "make that role there and run again",
        )
    if "permission denied" in low or "must be superuser" in low or "must be owner" in low:
        return Refused(
            f"{path} needs a right that {database.user} does not have at {database.server} ({line})",
            "restore it by hand as a superuser, or take what needs that right out of the source",
        )
    return Damaged(
        f"{path} does not restore ({line or f'psql ended with {code}'})",
        "look at the source database, make a new backup and verify again",
    )

"""Dump a database into its backup file: check, stream, prove, and only then replace the previous one."""

import fcntl
import io
import os
import re
import selectors
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tasks import children
from tasks.backups import manifest as manifests
from tasks.backups import programs, survey
from tasks.backups.archive import CHUNK, Archive, disk_error, is_complete, prove, publish, temporary
from tasks.backups.manifest import Manifest
from tasks.backups.source import Database, Target, mib
from tasks.clock import now
from tasks.errors import Damaged, FleetError, Refused, Unreachable
from tasks.sqlstate import explain, first_line

NEEDED_OF_LAST = 1.2
NEEDED_OF_DATABASE = 0.5
"""Free disk that a dump asks for: 1.2 x the last file or half the database, whichever is more (measured: 0.37)."""
_STDERR = 16_384
_TICK = 0.5


@dataclass
class Progress:
    """How far a dump is; written by the thread that dumps, read by whoever shows it."""

    total: int = 0
    done: int = 0

    @property
    def percent(self) -> float:
        """Of the database's size; the dump is somewhat smaller or larger, so never over 99."""
        return min(99.0, 100 * self.done / self.total) if self.total else 0.0


@dataclass(frozen=True)
class Job:
    """Everything that one dump needs to know."""

    target: Target
    database: Database
    path: Path
    run_id: str
    timeout_seconds: float = 300
    stall_seconds: float = 60
    pg_bin: Path | None = None
    restorer: str = ""
    """Role that may make databases on the server, for the commands that restore by hand."""
    progress: Progress = field(default_factory=Progress, compare=False)
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)


def dump(job: Job, published: Callable[[], None] = lambda: None) -> Manifest:
    """Back up ``job.database`` to ``job.path``; the caller holds the target's lock.

    Whatever goes wrong before the last rename leaves the previous backup as it was and no temporary file.

    Args:
        job: what to do.
        published: called between the dump's rename and its manifest's (tests kill us there).

    Raises:
        Refused, Unreachable, NotConfigured, Damaged: the cause in words.
    """
    started = time.monotonic()
    deadline = started + job.timeout_seconds
    manifests.settle(job.path)
    chosen = programs.installed(job.pg_bin)
    taken_at = now()
    # A little more than the dump's deadline, so that the watchdog of the stream speaks first.
    with survey.connected(job.database, job.timeout_seconds + 5) as connection, temporary(job.path) as (file, part):
        seen = survey.look(connection, job.database)
        fit = programs.choose(chosen, seen.version, job.database.server)
        _require_space(job.path, seen.bytes)
        job.progress.total = seen.bytes
        archive, file_bytes, digest, rows = _stream(job, connection, fit, seen, file, deadline)
        connection.close()
        if not is_complete(archive.tail):
            raise Damaged(
                f"the dump of {job.database.name} ended without the mark of a complete one", "run again; see the log"
            )
        prove(file, part, archive.raw_bytes)
        made = Manifest(
            target=job.target.key,
            run_id=job.run_id,
            database=job.database.name,
            server=job.database.server,
            taken_at=taken_at,
            seconds=round(time.monotonic() - started, 3),
            server_version=seen.version_text,
            pg_dump_version=".".join(map(str, fit.version)),
            database_bytes=seen.bytes,
            raw_bytes=archive.raw_bytes,
            file_bytes=file_bytes,
            sha256=digest,
            encoding=seen.encoding,
            rows=rows,
            large_objects=seen.large_objects,
            extensions=seen.extensions,
        )
        _replace(part, job.path, made, published)
    job.progress.done = job.progress.total
    return made


def _stream(
    job: Job,
    connection: psycopg.Connection,
    fit: programs.Programs,
    seen: survey.Survey,
    file: io.FileIO,
    deadline: float,
) -> tuple[Archive, int, str, dict[str, int]]:
    """Dump into ``file`` and count rows beside it in the same snapshot; the archive, its size, SHA-256 and the counts."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    try:
        archive = Archive(file)
    except OSError as error:
        raise disk_error(error, job.path.parent) from None
    counting = None
    try:
        with programs.pgpass(job.database.password) as passfile:
            options = "-c client_connection_check_interval=2s" if seen.version >= 14 else ""
            env = programs.environment(job.database, passfile, options)
            child = children.start(_arguments(fit, row[0], job), env, stdout=subprocess.PIPE)
            try:
                counting = survey.Counting(connection, seen.tables, job.database)
                _pump(child, archive, job, deadline)
            finally:
                children.stop(child)
        file_bytes, digest = archive.close()
        rows = counting.result(deadline)
    except OSError as error:  # ours wins over what pg_dump says of a reader that went away
        archive.abandon()
        raise disk_error(error, job.path.parent) from None
    except BaseException:
        archive.abandon()
        raise
    finally:
        if counting:
            counting.end()
    return archive, file_bytes, digest, rows


def _arguments(fit: programs.Programs, snapshot: str, job: Job) -> list[str | Path]:
    wait = max(1, int(min(job.stall_seconds, job.timeout_seconds) * 800))
    return [
        fit.pg_dump,
        "--format=plain",
        "--no-owner",
        "--no-privileges",
        "--no-password",
        f"--snapshot={snapshot}",
        # A bit less than our own deadlines, so that its message names the table.
        f"--lock-wait-timeout={wait}",
    ]


def _require_space(path: Path, database_bytes: int) -> None:
    last = path.stat().st_size if path.is_file() else 0
    needed = required_bytes(last, database_bytes)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise Refused(
            f"the disk of {path.parent} has {mib(free)} free where the backup may need {mib(needed)}, "
            "the previous backup is untouched",
            "free space there, or choose another folder in the block backup-policy",
        )


def required_bytes(last: int, database: int) -> int:
    """Free disk to ask for, in bytes, by the size of the last file and of the database.

    >>> required_bytes(100, 1_000), required_bytes(1_000, 1_000)
    (500, 1200)
    """
    return int(max(NEEDED_OF_LAST * last, NEEDED_OF_DATABASE * database))


def _pump(child: subprocess.Popen[bytes], archive: Archive, job: Job, deadline: float) -> None:
    """Move the dump from pg_dump to the archive under our own watchdog; raises OSError when the disk refuses."""
    assert child.stdout is not None and child.stderr is not None
    _widen(child.stdout.fileno())
    said = b""
    last_byte = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_TICK)
            moment = time.monotonic()
            for key, _ in ready:
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    archive.write(data)
                    job.progress.done += len(data)
                    last_byte = time.monotonic()
                else:
                    said = (said + data)[-_STDERR:]
            _watch(job, moment, last_byte, deadline)
    try:
        code = child.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        raise pg_dump_error(said.decode(errors="replace"), code, job.database)


def _widen(pipe: int) -> None:
    """Let the pipe hold 1 MiB instead of 64 KiB, so that we wake seldom; only Linux can, and it may refuse."""
    with suppress(AttributeError, OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)


def _watch(job: Job, moment: float, last_byte: float, deadline: float) -> None:
    if job.cancelled.is_set():
        raise Refused("the backup was cancelled, the previous one is untouched", "run it again when you want it")
    if moment > deadline:
        raise Unreachable(
            f"the dump of {job.database.name} at {job.database.server} was ended after {job.timeout_seconds:g} s with "
            f"{mib(job.progress.done)} of about {mib(job.progress.total)} done, the previous backup is untouched",
            "raise DB_BACKUP_TIMEOUT (Timeout in the block backup-policy), or run it when the server has less load",
        )
    if moment - last_byte > job.stall_seconds:
        raise Unreachable(
            f"the dump of {job.database.name} at {job.database.server} gave no byte for {job.stall_seconds:g} s after "
            f"{mib(job.progress.done)}, the previous backup is untouched",
            "see what the server is busy with (locks in pg_stat_activity), or raise the stall timeout in the block "
            "backup-policy",
        )


def pg_dump_error(said: str, code: int | None, database: Database) -> FleetError:
    """What pg_dump's end with ``code`` means, by what it ``said`` on stderr.

    >>> d = Database("db", 5432, "app", "app", "")
    >>> print(pg_dump_error("pg_dump: error: query failed: ERROR:  permission denied for table t", 1, d))
    role app lacks a right in app at db:5432 (permission denied for table t); grant the right named, or use a role that has it.
    """
    low = said.lower()
    lines = [line for line in said.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
    line = re.sub(r"^pg_dump: (error: )?", "", lines[0] if lines else said.strip())
    # --lock-wait-timeout is a statement_timeout around its LOCK TABLE.
    if "lock timeout" in low or ("statement timeout" in low and "lock table" in low):
        return Unreachable(
            f"the dump of {database.name} at {database.server} waited too long for a lock ({first_line(line)})",
            "see who holds it (pg_locks, pg_stat_activity) and run again",
        )
    if "server closed the connection" in low or "terminating connection" in low or "no connection to the server" in low:
        return Unreachable(
            f"PostgreSQL at {database.server} went away while {database.name} was dumped, the previous backup is untouched",
            "see the server's log, start it and run again",
        )
    if "row-level security" in low:
        return Refused(
            f"role {database.user} sees not all rows of {database.name} at {database.server} ({first_line(line)})",
            "grant it BYPASSRLS, or use a role that has it",
        )
    if not said.strip():
        return Refused(
            f"pg_dump of {database.name} at {database.server} ended with code {code} and without a word, "
            "the previous backup is untouched",
            "see whether something kills it (memory), and run again",
        )
    if "connection to " in low or "no space left" in low:
        return explain(line, None, database.server, database.user, database.name, database.block)
    if "permission denied" in low:
        return explain(line, "42501", database.server, database.user, database.name, database.block)
    if "statement timeout" in low:
        return explain(line, "57014", database.server, database.user, database.name, database.block)
    return Refused(
        f"pg_dump of {database.name} at {database.server} failed ({first_line(line)}), the previous backup is untouched",
        "mend what it names and run again",
    )


def _replace(part: Path, path: Path, made: Manifest, published: Callable[[], None]) -> None:
    try:
        manifests.announce(path, made)
        publish(part, path)
        published()
        manifests.confirm(path)
    except OSError as error:
        manifests.settle(path)
        raise disk_error(error, path.parent) from None

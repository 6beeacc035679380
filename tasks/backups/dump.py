"""Dump a database into its backup file: check, stream, prove, and only then replace the previous one."""

import fcntl
import io
import os
import selectors
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tasks import children
from tasks.backups import dated, dumped, inventory, mounts, programs, schema, survey
from tasks.backups import manifest as manifests
from tasks.backups.archive import (
    Archive,
    decompressed,
    disk_error,
    existing,
    is_complete,
    prove,
    publish,
    temporary,
)
from tasks.backups.manifest import Manifest
from tasks.backups.source import Database, Target, mib
from tasks.clock import now
from tasks.errors import Damaged, Refused, Unreachable

NEEDED_OF_LAST = 1.2
NEEDED_OF_DATABASE = 0.5
"""Free disk that a dump asks for: 1.2 x the last file or half the database, whichever is more (measured: 0.37)."""
LOOK_SECONDS = 30.0
"""For the checks alone, without a dump after them."""
_STDERR = 16_384
_TICK = 0.5
_PIPE = 1 << 20
_PIECE = 512 << 10
_GATHER = 0.005
"""Seconds to let the pipe fill again: pg_dump writes row by row, and to be woken for each cost a fifth of our CPU time. At
200 MB/s it is full after 5 ms (measured: 1.07 x `pg_dump > /dev/null`; pieces of 256 KiB and 2 ms: 1.10 x).
"""


@dataclass
class Progress:
    """How far a dump is; written by the thread that dumps, read by whoever shows it."""

    total: int = 0
    done: int = 0
    written_seconds: float = 0.0
    """From the start until the file was compressed, hashed and on the disk; what comes after is its proof."""

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
    taken_for: str = "regular"
    """``safety``: it becomes a dated file of its own, and the latest backup at ``path`` stays."""
    must_be_mounted: bool = False
    """Whether ``path`` has to lie on a mounted disk other than the root's."""
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
    mounts.require(job.path.parent, job.must_be_mounted)
    manifests.settle(job.path)
    chosen = programs.installed(job.pg_bin)
    taken_at = now()
    apart = job.taken_for == dated.SAFETY
    within = dated.folder(job.path) / dated.SAFETY if apart else job.path
    # A little more than the dump's deadline, so that the watchdog of the stream speaks first.
    with (
        survey.connected(job.database, job.timeout_seconds + 5) as connection,
        closing(connection),  # without a word: a server that hangs would not answer a rollback
        temporary(within) as (file, part),
    ):
        snapshot = survey.snapshot(connection)
        seen, fit = _checked(job, connection, chosen)
        job.progress.total = seen.bytes
        archive, file_bytes, digest = _stream(job, fit, seen, snapshot, file, deadline)
        job.progress.written_seconds = time.monotonic() - started
        if not is_complete(archive.tail):
            raise Damaged(
                f"the dump of {job.database.name} ended without the mark of a complete one", "run again; see the log"
            )
        asked = inventory.Asked(job.database, seen.tables, fit, snapshot, _lock_seconds(job), deadline, job.cancelled)
        with inventory.beside(asked, connection) as answered:
            reader = dumped.Reader()
            prove(file, part, archive.raw_bytes, reader.feed, archive.seams)
            found = answered()
        connection.close()
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
            rows=found.rows | _rows_in(file, part, found.uncounted),
            large_objects=seen.large_objects,
            extensions=seen.extensions,
            taken_for=job.taken_for,
            schema=schema.digests(reader.schema()),
            roles=found.roles,
            grants=found.grants,
        )
        if apart:
            _add(part, dated.dated_path(job.path, job.target, made), made)
        else:
            _replace(part, job.path, made, published)
    job.progress.done = job.progress.total
    return made


def look_ahead(job: Job) -> None:
    """Refuse now what ``dump`` would be refused for before it begins, while the service still runs. Nothing is made.

    Raises:
        Refused, Unreachable, NotConfigured: as ``dump``'s own checks.
    """
    mounts.require(job.path.parent, job.must_be_mounted)
    chosen = programs.installed(job.pg_bin)
    with survey.connected(job.database, LOOK_SECONDS) as connection, closing(connection):
        _checked(job, connection, chosen)


def _checked(
    job: Job, connection: psycopg.Connection, chosen: list[programs.Programs]
) -> tuple[survey.Survey, programs.Programs]:
    """What the database is, and the programs that fit it, where the role may read all of it and the disk has room."""
    seen = survey.look(connection, job.database)
    fit = programs.choose(chosen, seen.version, job.database.server)
    _require_space(job.path, seen.bytes)
    return seen, fit


def _stream(
    job: Job, fit: programs.Programs, seen: survey.Survey, snapshot: str, file: io.FileIO, deadline: float
) -> tuple[Archive, int, str]:
    """Dump into ``file``: the archive, its size and SHA-256."""
    archive = Archive(file)
    try:
        with programs.pgpass(job.database.password) as passfile:
            # A role's own limit would hold for pg_dump's first statements, before it switches it off itself.
            alive = " -c client_connection_check_interval=2s" if seen.version >= 14 else ""
            env = programs.environment(job.database, passfile, programs.WRITTEN_ALIKE + alive)
            child = children.start(_arguments(fit, snapshot, job), env, stdout=subprocess.PIPE)
            try:
                _pump(child, archive, job, deadline)
            finally:
                children.stop(child)
        file_bytes, digest = archive.close()
    except OSError as error:  # ours wins over what pg_dump says of a reader that went away
        raise disk_error(error, job.path.parent) from None
    return archive, file_bytes, digest


def _arguments(fit: programs.Programs, snapshot: str, job: Job) -> list[str | Path]:
    return [
        fit.pg_dump,
        "--format=plain",
        "--no-owner",
        "--no-privileges",
        "--no-password",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={max(1, int(_lock_seconds(job) * 1000))}",
    ]


def _lock_seconds(job: Job) -> float:
    """A bit less than our own deadlines, so that pg_dump's message names the table."""
    return min(job.stall_seconds, job.timeout_seconds) * 0.8


def _rows_in(file: io.FileIO, part: Path, uncounted: list[tuple[str, str]]) -> dict[str, int]:
    """Rows of the tables that could not be counted any more on the server."""
    if not uncounted:
        return {}
    reader = dumped.Reader(uncounted)
    for chunk in decompressed(file, part):
        reader.feed(chunk)
    return {f"{survey.quoted(where)}.{survey.quoted(name)}": count for (where, name), count in reader.rows.items()}


def _require_space(path: Path, database_bytes: int) -> None:
    last = path.stat().st_size if path.is_file() else 0
    needed = required_bytes(last, database_bytes)
    free = shutil.disk_usage(existing(path.parent)).free
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
    wide = _widen(child.stdout.fileno())
    said, piece = b"", memoryview(bytearray(_PIECE))
    last_byte = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_TICK)
            moment = time.monotonic()
            for key, _ in ready:
                count = os.readv(key.fd, [piece])
                if not count:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    archive.write(piece[:count])
                    job.progress.done += count
                    last_byte = time.monotonic()
                    if wide and count < _PIECE:
                        time.sleep(_GATHER)
                else:
                    said = (said + piece[:count])[-_STDERR:]
            _watch(job, moment, last_byte, deadline)
    try:
        code = child.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        raise programs.pg_dump_error(said.decode(errors="replace"), code, job.database)


def _widen(pipe: int) -> bool:
    """Let the pipe hold 1 MiB instead of 64 KiB, so that we wake seldom; whether it does: only Linux can, and it may refuse."""
    with suppress(AttributeError, OSError):
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE) >= _PIPE
    return False


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


def _replace(part: Path, path: Path, made: Manifest, published: Callable[[], None]) -> None:
    try:
        manifests.announce(path, made)
        publish(part, path)
        published()
        manifests.confirm(path)
    except OSError as error:
        manifests.settle(path)
        raise disk_error(error, path.parent) from None


def _add(part: Path, path: Path, made: Manifest) -> None:
    """Put a backup that replaces nothing at ``path``; its manifest first, so that a dump that is there is known."""
    try:
        manifests.announce(path, made)
        manifests.confirm(path)
        publish(part, path)
    except OSError as error:
        manifests.withdraw(path)
        manifests.beside(path).unlink(missing_ok=True)
        raise disk_error(error, path.parent) from None

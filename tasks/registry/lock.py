"""One writer per name (a client, a backup's target), across processes and hosts; a killed holder lets go by itself.

With SQLite the lock is a ``flock`` on a file of the state folder, with PostgreSQL a session advisory lock on a connection
of its own: both fall with their holder. The table ``hold`` only says who it is.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from tasks.clock import now, spoken
from tasks.errors import Conflict
from tasks.registry.models import Hold

POLL_SECONDS = 0.1


@contextmanager
def hold(
    engine: Engine, name: str, holder: str, locks: Path, wait: float = 30.0, time_zone: str = "UTC"
) -> Iterator[None]:
    """Hold ``name`` alone for the length of the ``with`` block.

    Args:
        engine: the registry's.
        name: what is held, as the operator calls it: a client's slug.
        holder: who holds it, in words: ``run gentle-owl (upgrade acme)``.
        locks: folder of the lock files (SQLite only), made when missing.
        wait: seconds to wait for another holder.
        time_zone: of the moment in the refusal.

    Raises:
        Conflict: another holder kept it for ``wait`` seconds; the sentence names it.
    """
    take = _advisory if engine.dialect.name == "postgresql" else _flock
    deadline = time.monotonic() + wait
    with take(engine, name, locks) as attempt:
        while not attempt():
            if time.monotonic() >= deadline:
                raise Conflict(f"{name} is held by {_holder(engine, name, time_zone)}", "wait or cancel it")
            time.sleep(POLL_SECONDS)
        _write_holder(engine, name, holder)
        try:
            yield
        finally:
            with engine.begin() as connection:
                connection.execute(delete(Hold).where(col(Hold.name) == name))


def _write_holder(engine: Engine, name: str, holder: str) -> None:
    """In one statement: what a killed holder sent before its lock fell may still be on its way in PostgreSQL."""
    insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    row = {"holder": holder, "since": now()}
    with engine.begin() as connection:
        connection.execute(
            insert(Hold).values(name=name, **row).on_conflict_do_update(index_elements=["name"], set_=row)
        )


def holder_now(engine: Engine, name: str, locks: Path, time_zone: str = "UTC") -> str | None:
    """Who holds ``name`` at this moment, in words; None: nobody, whatever a killed holder left in the table."""
    if engine.dialect.name == "postgresql":
        key = advisory_key(name)
        with engine.connect() as connection:
            held = connection.execute(
                text(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
                    "AND classid::bigint = :high AND objid::bigint = :low "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
                ),
                {"high": (key >> 32) & 0xFFFFFFFF, "low": key & 0xFFFFFFFF},
            ).scalar()
        return _holder(engine, name, time_zone) if held else None
    try:
        handle = os.open(locks / f"{name}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # Shared, and let go of at once: whoever wants it alone asks again after a tenth of a second.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(engine, name, time_zone)
    finally:
        os.close(handle)
    return None


def _holder(engine: Engine, name: str, time_zone: str) -> str:
    with Session(engine) as session:
        row = session.get(Hold, name)
        return f"{row.holder} since {spoken(row.since, time_zone, seconds=True)}" if row else "another run"


@contextmanager
def _flock(engine: Engine, name: str, locks: Path) -> Iterator[Callable[[], bool]]:
    locks.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Python opens it close-on-exec, so a child (pg_dump) that outlives us does not keep the lock.
    handle = os.open(locks / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def attempt() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        yield attempt
    finally:
        os.close(handle)


@contextmanager
def _advisory(engine: Engine, name: str, locks: Path) -> Iterator[Callable[[], bool]]:
    connection: Connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def attempt() -> bool:
        return bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": advisory_key(name)}).scalar())

    try:
        yield attempt
    finally:
        # Closed for good, not given back to the pool: the lock must fall with it.
        connection.invalidate()
        connection.close()


def advisory_key(name: str) -> int:
    """The 64-bit key of ``name`` for PostgreSQL's advisory locks.

    >>> advisory_key("acme") == advisory_key("acme") != advisory_key("beta")
    True
    """
    return int.from_bytes(hashlib.sha256(f"zero-fleet:{name}".encode()).digest()[:8], "big", signed=True)

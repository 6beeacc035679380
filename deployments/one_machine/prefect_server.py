"""Prefect's server on SQLite: ``python -m deployments.one_machine.prefect_server PORT``.

What ``prefect server start`` does in the foreground, with transactions begun as writers: where one reads first and writes
then, SQLite refuses that at once when anybody wrote in between ("database is locked", an ERROR in the log, and the
heartbeat of a worker or the mark of a late run is lost; about one in a hundred here with two workers). Prefect itself
mends such places by ``BEGIN IMMEDIATE`` one by one (PrefectHQ/prefect#22967); here every transaction that it begins by name
waits for the write lock first, which SQLite gives to one at a time anyway. Not so a session that is opened while another
transaction of the same request is open, as for the event of a paused queue: it would wait a minute for the lock of that
one, which waits for it.

An event that its sender sends again, as one does after a lost connection, is taken as the one that it is. Prefect 3.8's
own way with SQLite inserts "no row" where all that it was given stands already, and two rows of one key where an event
comes twice at once: five refusals, an ERROR, and what waited beside them is dropped.

A cursor whose statement failed is closed at once. SQLAlchemy 2.0 leaves it in the exception; when the garbage collector
meets it there, in the thread of the event loop, while the cursor's connection waits in its own for the write lock, then
the loop waits for that connection, and with it whoever holds the lock: the server stood still until SQLite's busy timeout
of 60 s ended it.
"""

import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import aiosqlite
import prefect.server.events.services.event_persister as event_persister
import prefect.server.events.storage.database as database
import prefect.server.utilities.worker_channel as worker_channel
import sqlalchemy as sa
import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database import PrefectDBInterface, provide_database_interface
from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.events.schemas.events import ReceivedEvent
from sqlalchemy.ext.asyncio import AsyncSession

_persist = worker_channel._persist_worker_channel_heartbeat
_write_events = database.write_events
_IDS_AT_ONCE = 500
"""A statement of SQLite takes 999 parameters where it was built long ago."""
_session = PrefectDBInterface.session_context
_begin = AioSqliteConfiguration.begin_transaction
_execute: Any = aiosqlite.Cursor._execute


@contextmanager
def _beginning(mode: str | None) -> Iterator[None]:
    """Within it, a session's first statement begins its transaction so; None: begins none."""
    token = SQLITE_BEGIN_MODE.set(mode)
    try:
        yield
    finally:
        SQLITE_BEGIN_MODE.reset(token)


def _begin_as_writer(self: AioSqliteConfiguration, session: Any, with_for_update: bool = False) -> Any:
    """Prefect's own with ``BEGIN IMMEDIATE``, but for a transaction within another one."""
    return _begin(self, session, with_for_update=with_for_update or SQLITE_BEGIN_MODE.get() is None)


@asynccontextmanager
async def _session_context(
    self: PrefectDBInterface, begin_transaction: bool = False, **other: Any
) -> AsyncIterator[Any]:
    """Prefect's own; one that only reads begins no transaction, also where one is open around it."""
    with nullcontext() if begin_transaction else _beginning(None):
        async with _session(self, begin_transaction, **other) as session:
            yield session


async def _close_what_fails(self: Any, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """aiosqlite's own; the connection's thread closes the cursor before it does anything else, and nobody waits for it."""
    try:
        return await _execute(self, what, *args, **kwargs)
    except BaseException:
        self._conn._tx.put_nowait((None, self._cursor.close))
        raise


async def _persist_as_writer(*args: Any, **kwargs: Any) -> Any:
    """Prefect's own, in a transaction that waits for the write lock first; BEGIN is sent with the first statement."""
    with _beginning("IMMEDIATE"):
        return await _persist(*args, **kwargs)


async def _write_new_events(session: AsyncSession, events: list[ReceivedEvent]) -> None:
    """Prefect's own, for those events alone that are not written yet, each once."""
    new = {event.id: event for event in events}
    ids = list(new)
    stored = provide_database_interface().Event
    with _beginning("IMMEDIATE"):
        for first in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[first : first + _IDS_AT_ONCE]
            for known in await session.scalars(sa.select(stored.id).where(stored.id.in_(some))):
                del new[known]
        if new:
            await _write_events(session, list(new.values()))


def mend() -> None:
    """Put the ways of this file in the place of Prefect's, SQLAlchemy's and aiosqlite's own, for the whole process."""
    for owner, name, way in (
        (worker_channel, "_persist_worker_channel_heartbeat", _persist_as_writer),
        (event_persister, "write_events", _write_new_events),
        (PrefectDBInterface, "session_context", _session_context),
        (AioSqliteConfiguration, "begin_transaction", _begin_as_writer),
        (aiosqlite.Cursor, "_execute", _close_what_fails),
    ):
        setattr(owner, name, way)


def main() -> None:
    """Serve on 127.0.0.1 until TERM."""
    mend()
    app = create_app(final=True)
    # What is imported stays; looking through it again and again took a twentieth of the server's time, 0.3 s at once.
    gc.freeze()
    gc.set_threshold(7_000, 10, 10)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        timeout_keep_alive=5,
        log_level="warning",
    )


if __name__ == "__main__":
    main()

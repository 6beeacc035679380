"""What a database holds, asked over a connection of our own: version, size, missing rights, rows per table in one snapshot."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from tasks.backups.programs import CONNECT_SECONDS
from tasks.backups.source import Database
from tasks.errors import FleetError, Refused, Unreachable
from tasks.sqlstate import explain

# What pg_dump reads: not the system's, not what belongs to an extension.
_OWN: LiteralString = """
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
_GONE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.WrongObjectType,
    psycopg.errors.InsufficientPrivilege,  # it was there when the rights were looked at, so this is another table
)


@dataclass(frozen=True)
class Survey:
    """What a database is, before its rows are counted."""

    version: int
    """Major version of its server."""
    version_text: str
    bytes: int
    """pg_database_size."""
    encoding: str
    extensions: list[str]
    large_objects: int
    tables: list[tuple[str, str]] = field(default_factory=list)
    """Schema and name of each table with rows of its own (a partitioned table's partitions, not itself)."""


@contextmanager
def connected(database: Database, seconds: float) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode that is cut ``seconds`` after it was opened, so that a hung server cannot hold us.

    Raises:
        Refused, Unreachable: what the server or libpq said, in words; also for statements inside the ``with`` block.
    """
    cut = threading.Event()
    timer: threading.Timer | None = None
    try:
        with psycopg.connect(
            host=database.host,
            port=database.port,
            dbname=database.name,
            user=database.user,
            password=database.password,
            sslmode=database.sslmode,
            connect_timeout=max(1, min(CONNECT_SECONDS, int(seconds))),
            application_name="zero-fleet backup",
            passfile="/dev/null",
            client_encoding="UTF8",
            autocommit=True,
        ) as connection:
            timer = threading.Timer(seconds, _cut, (connection, cut))
            timer.daemon = True
            timer.start()
            try:
                # A role's own limits are for its service, not for its backup.
                connection.execute("SET idle_in_transaction_session_timeout = 0")
                connection.execute("SET statement_timeout = 0")
                connection.execute("SET lock_timeout = 0")
                if connection.info.server_version >= 170_000:
                    connection.execute("SET transaction_timeout = 0")
                if connection.info.server_version >= 140_000:  # a session whose client was killed ends, also in a lock
                    connection.execute("SET client_connection_check_interval = '2s'")
                yield connection
            finally:
                timer.cancel()
    except psycopg.Error as error:
        if cut.is_set():
            raise Unreachable(
                f"PostgreSQL at {database.server} did not answer within {seconds:.0f} s on {database.name}",
                "see what the server is busy with, or raise the timeout in the block backup-policy",
            ) from None
        raise explained(error, database) from None


def _cut(connection: psycopg.Connection, cut: threading.Event) -> None:
    if not connection.closed:
        cut.set()
        with suppress(OSError, psycopg.Error), socket.fromfd(connection.fileno(), socket.AF_INET, 0) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def explained(error: psycopg.Error, database: Database) -> FleetError:
    """Our error for psycopg's."""
    return explain(str(error), error.sqlstate, database.server, database.user, database.name, database.block)


def snapshot(connection: psycopg.Connection) -> str:
    """Begin the transaction in which all of a backup is read; the name under which pg_dump shares its snapshot."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])


def look(connection: psycopg.Connection, database: Database) -> Survey:
    """What ``database`` is, seen over ``connection``.

    Raises:
        Refused: the role may not read all of it; the sentence names what.
    """
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'),"
        " pg_database_size(current_database()), pg_encoding_to_char(encoding),"
        " (SELECT count(*) FROM pg_largeobject_metadata)"
        " FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    version, text, size, encoding, large_objects = row
    extensions = [name for (name,) in connection.execute("SELECT extname FROM pg_extension ORDER BY 1")]
    _require_rights(connection, database)
    tables = connection.execute("SELECT n.nspname, c.relname" + _OWN + "AND c.relkind = 'r' ORDER BY 1, 2").fetchall()
    return Survey(version, text, size, encoding, extensions, large_objects, [(schema, name) for schema, name in tables])


def _require_rights(connection: psycopg.Connection, database: Database) -> None:
    row = connection.execute(
        "SELECT n.nspname, c.relname, has_schema_privilege(n.oid, 'USAGE'), row_security_active(c.oid)"
        + _OWN
        + """AND c.relkind IN ('r', 'p', 'S') AND (
                 NOT has_schema_privilege(n.oid, 'USAGE') OR row_security_active(c.oid)
                 OR NOT has_table_privilege(c.oid, 'SELECT'))
             ORDER BY 1, 2 LIMIT 1"""
    ).fetchone()
    if row is None:
        return
    schema, name, usage, hidden = row
    what = (
        f"has no right to use schema {quoted(schema)}"
        if not usage
        else f"sees not all rows of {quoted(schema)}.{quoted(name)} (row-level security)"
        if hidden
        else f"has no right to read {quoted(schema)}.{quoted(name)}"
    )
    raise Refused(
        f"role {database.user} {what} in {database.name} at {database.server}, so a dump would not be whole",
        "grant the right named (or BYPASSRLS), or use a role that has it",
    )


def count(connection: psycopg.Connection, tables: list[tuple[str, str]]) -> dict[str, int]:
    """Rows of each table, as ``connection``'s transaction sees them; an error instead of a part where a policy hides rows."""
    connection.execute("SET row_security = off")
    counts = {}
    for schema, name in tables:
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, name))
        ).fetchone()
        counts[f"{quoted(schema)}.{quoted(name)}"] = int(row[0]) if row else 0
    return counts


def count_of_snapshot(
    connection: psycopg.Connection, tables: list[tuple[str, str]]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Rows of each table in the snapshot of ``connection``'s open transaction, and the tables of which it cannot know them.

    A snapshot hides what others insert and delete, but not that they truncate, rewrite, rename or drop: such a table seems empty
    or is gone, though a dump that was begun before has all of it.
    """
    counts: dict[str, int] = {}
    uncounted = []
    for table in tables:
        try:
            with connection.transaction():  # a savepoint
                counts |= count(connection, [table])
        except _GONE:
            uncounted.append(table)
    # Both sides of <> are asked at once: the table of the snapshot has one file, and what bears its name now another.
    changed = connection.execute(
        "SELECT n.nspname, c.relname"
        + _OWN
        + """AND c.relkind = 'r' AND (
                 c.oid <> coalesce(to_regclass(format('%I.%I', n.nspname, c.relname))::oid, 0)
                 OR c.relfilenode <> coalesce(pg_relation_filenode(c.oid), 0))"""
    ).fetchall()
    for schema, name in changed:
        if (schema, name) in tables and (schema, name) not in uncounted:
            counts.pop(f"{quoted(schema)}.{quoted(name)}", None)
            uncounted.append((schema, name))
    return counts, uncounted


def quoted(name: str) -> str:
    """A name as psql takes it; quoted only where it has to be, so that the same name reads the same on every version.

    >>> quoted("mail0_user"), quoted("Größe"), quoted('a"b')
    ('mail0_user', '"Größe"', '"a""b"')
    """
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def interrupt(connection: psycopg.Connection, ended: Callable[[], bool]) -> None:
    """End the statement that another thread has under way on ``connection``: nobody may use or close it before.

    Args:
        ended: waits a little and says whether that thread is done.
    """
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=5)
    if not ended():
        _cut(connection, threading.Event())

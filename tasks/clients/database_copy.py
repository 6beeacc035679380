"""A copy of a client's database, made on the server while nobody is connected, so that going back to it is exact.

It is called like the database with ``__before`` behind (no client's name has two underscores beside each other), lets nobody in, and
takes the database's place by being renamed. Both are told apart by their oid, so that each function may be cut off at any
statement and run again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import errors, sql

from tasks.clients import postgres
from tasks.clients.postgres import CONNECTIONS, Server, alone, maintenance, statement
from tasks.database_settings import carry_grants, carry_settings
from tasks.errors import Conflict

if TYPE_CHECKING:
    import psycopg

BEFORE = "__before"
COPY_SECONDS = 6 * 3600
"""A copy of a large database may take this long; so may waiting for the one of a run that was killed meanwhile."""


@dataclass(frozen=True)
class Copied:
    """A database and its copy, by oid."""

    original: int
    copy: int


def copy_name(name: str) -> str:
    """What the copy of database ``name`` is called.

    >>> copy_name("zero_client_acme")
    'zero_client_acme__before'
    """
    return name + BEFORE


def refuse_existing(server: Server, name: str) -> int:
    """The size of database ``name`` in bytes, when the copy's name is free.

    Raises:
        Conflict: it is not; nobody here knows of such a copy, so it is left alone.
    """
    with maintenance(server) as connection:
        if copy_name(name) in _oids(connection, name):
            raise Conflict(
                f"there is a database {copy_name(name)} at {server.name} that no operation under way knows of",
                "see what it holds, and drop or rename it",
            )
        row = connection.execute("SELECT pg_database_size(%s)", (name,)).fetchone()
        return int(row[0]) if row else 0


def make(server: Server, name: str, owner: str) -> Copied:
    """Copy database ``name``, which nobody uses now; whoever is connected all the same is disconnected.

    Args:
        owner: who manages it, as its comment says.

    Raises:
        Conflict: somebody whom the provisioner may not disconnect uses it.
        Refused: no disk space left, a right is missing.
        Unreachable: the server went away.
    """
    with patient(server, name) as connection:
        with closed(connection, name):
            try:
                connection.execute(
                    sql.SQL("CREATE DATABASE {copy} TEMPLATE {name} CONNECTION LIMIT 0").format(
                        copy=sql.Identifier(copy_name(name)), name=sql.Identifier(name)
                    )
                )
            except errors.ObjectInUse:
                raise in_use(server, connection, name) from None
        connection.execute(statement("COMMENT ON DATABASE {name} IS {owner}", copy_name(name), owner=owner))
        connection.execute(statement("REVOKE ALL ON DATABASE {name} FROM PUBLIC", copy_name(name)))
        carry_settings(connection, name, copy_name(name))
        carry_grants(connection, name, copy_name(name))
        found = _oids(connection, name)
        return Copied(found[name], found[copy_name(name)])


def put_back(server: Server, name: str, copied: Copied) -> str:
    """Drop database ``name`` and let its copy take its place; its grants are ``postgres.ensure``'s.

    Returns:
        Why the database stays as it is, in words; empty: the copy is in its place.

    Raises:
        Conflict, Refused, Unreachable: as in ``make``; the copy is untouched then.
    """
    with patient(server, name) as connection:
        found = _oids(connection, name)
        if found.get(name) == copied.copy:
            return ""
        if found.get(copy_name(name)) != copied.copy:
            return (
                f"the copy of database {name} is gone, so it stays as the new image left it (restore the backup made before, if "
                "the old image does not fit it)"
            )
        if found.get(name, copied.original) != copied.original:
            return f"database {name} was replaced meanwhile and stays; its old state is kept as {copy_name(name)}"
        if name in found:
            try:
                with closed(connection, name):
                    connection.execute(statement("DROP DATABASE {name}", name))
            except errors.ObjectInUse:
                raise in_use(server, connection, name) from None
        _take_place(connection, name)
    return ""


def drop(server: Server, name: str, owner: str, copied: Copied | None = None) -> None:
    """Drop the copy of database ``name``; one that is gone is fine.

    Args:
        owner: who must manage it.
        copied: the very one; without it, any of the name that is ours, since its making was cut off.
    """
    with patient(server, name) as connection:
        _, database = postgres.facts(connection, copy_name(name))
        if database is None or not database.mine or database.comment not in (None, owner):
            return
        if copied is None or _oids(connection, name)[copy_name(name)] == copied.copy:
            connection.execute(statement("DROP DATABASE IF EXISTS {name}", copy_name(name)))


@contextmanager
def patient(server: Server, name: str) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    """The provisioner, alone with the database; waits for what a killed run had begun."""
    with maintenance(server) as connection:
        connection.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{COPY_SECONDS}s")))
        with alone(connection, name):
            yield connection


@contextmanager
def closed(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, role: str = "") -> Iterator[None]:
    """Nobody is connected to ``name`` and nobody new gets in; open again afterwards, when it is still there.

    Args:
        role: whose sessions are ended, and the provisioner's own; the one called like the database, unless given.
    """
    limit(connection, name, 0)
    role = role or name
    row = connection.execute(
        "SELECT NOT pg_has_role(current_user, oid, 'USAGE') FROM pg_roles WHERE rolname = %s", (role,)
    ).fetchone()
    borrowed = bool(row and row[0])
    try:
        if borrowed:  # whoever is not a member of a role may not end its connections
            connection.execute(statement("GRANT {name} TO CURRENT_USER", role))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename IN (%s, current_user)",
            (name, role),
        )
        yield
    finally:
        if not connection.closed:
            if borrowed:
                connection.execute(statement("REVOKE {name} FROM CURRENT_USER", role))
            if name in _oids(connection, name):
                limit(connection, name, CONNECTIONS + 10)


def _take_place(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {copy} RENAME TO {name}").format(
            copy=sql.Identifier(copy_name(name)), name=sql.Identifier(name)
        )
    )
    limit(connection, name, CONNECTIONS + 10)


def limit(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, most: int) -> None:
    """Let at most so many sessions into database ``name`` (a superuser's are not counted)."""
    connection.execute(statement("ALTER DATABASE {name} CONNECTION LIMIT {limit}", name, limit=most))


def _oids(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> dict[str, int]:
    """The oid of database ``name`` and of its copy, of those that there are."""
    rows = connection.execute(
        "SELECT datname, oid::bigint FROM pg_database WHERE datname IN (%s, %s)", (name, copy_name(name))
    )
    return {found: int(oid) for found, oid in rows}


def in_use(server: Server, connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> Conflict:
    """The error where somebody who may not be disconnected uses database ``name``."""
    rows = connection.execute("SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = %s LIMIT 5", (name,))
    users = ", ".join(str(row[0]) for row in rows) or "somebody"
    return Conflict(
        f"database {name} at {server.name} is in use by {users}, and cannot be copied or replaced meanwhile",
        "end that connection (pg_stat_activity shows it) and run again",
    )

"""Another database in the place of a client's own: made beside it, filled by somebody else, and swapped in one transaction.

Until then it is called like the client's with ``__restored`` behind; the old one has ``__before`` behind afterwards, lets nobody in, and
is kept until the service was seen to serve (no client's name has two underscores beside each other). The two are told apart by
their oid, so that each function may be cut off at any statement and run again.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import errors, sql

from tasks.clients import postgres
from tasks.clients.database_copy import closed, copy_name, in_use, limit, patient
from tasks.clients.postgres import Server, maintenance, open_public_schema, statement
from tasks.database_settings import carry_grants, carry_settings
from tasks.errors import Conflict

if TYPE_CHECKING:
    import psycopg

RESTORED = "__restored"
FILLING = 10
"""Connections that the client's role may hold to the new database until it takes its place."""


@dataclass(frozen=True)
class Pair:
    """A client's database and the one that is to take its place, by oid."""

    old: int
    new: int


def coming_name(name: str) -> str:
    """What the one that is to take the place of database ``name`` is called.

    >>> coming_name("zero_client_acme")
    'zero_client_acme__restored'
    """
    return name + RESTORED


def refuse_existing(server: Server, name: str) -> None:
    """Return if both names that are needed meanwhile are free.

    Raises:
        Conflict: one is not; nobody here knows of such a database, so it is left alone.
    """
    with maintenance(server) as connection:
        taken = sorted({copy_name(name), coming_name(name)} & set(_oids(connection, name)))
    if taken:
        raise Conflict(
            f"there is a database {taken[0]} at {server.name} that no operation under way knows of",
            "see what it holds, and drop or rename it",
        )


def make(server: Server, name: str, owner: str) -> Pair:
    """Make an empty database beside ``name``, with its owner, rights and settings; only the client's role gets in, to fill it.

    Args:
        owner: who manages it, as its comment says.

    Raises:
        Refused: no disk space left, a right is missing.
        Unreachable: the server went away.
    """
    coming = coming_name(name)
    with patient(server, name) as connection:
        connection.execute(
            statement("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' CONNECTION LIMIT 0", coming)
        )
        connection.execute(statement("COMMENT ON DATABASE {name} IS {owner}", coming, owner=owner))
        connection.execute(statement("REVOKE ALL ON DATABASE {name} FROM PUBLIC", coming))
        carry_settings(connection, name, coming)
        carry_grants(connection, name, coming)
        connection.execute(
            sql.SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {coming} TO {role}").format(
                coming=sql.Identifier(coming), role=sql.Identifier(name)
            )
        )
        limit(connection, coming, FILLING)  # the provisioner is let in by it, too
        open_public_schema(server, coming, name)
        found = _oids(connection, name)
        return Pair(found[name], found[coming])


def swap(server: Server, name: str, pair: Pair) -> None:
    """Let the new database take the place of the old one, in one transaction: there is one called ``name`` at every moment.

    Who is connected to either is disconnected. ``postgres.ensure`` has to see to its rights afterwards.

    Raises:
        Conflict: somebody whom the provisioner may not disconnect uses one of them, or one is not there any more.
        Refused, Unreachable: what the server answered.
    """
    with patient(server, name) as connection:
        found = _oids(connection, name)
        if found.get(name) == pair.new:
            return
        if (found.get(name), found.get(coming_name(name))) != (pair.old, pair.new):
            raise Conflict(
                f"database {name} at {server.name}, or the one that is to take its place, was replaced meanwhile",
                "see who works on them, and run again",
            )
        try:
            with closed(connection, name), closed(connection, coming_name(name), name), connection.transaction():
                _rename(connection, name, copy_name(name))
                _rename(connection, coming_name(name), name)
        except errors.ObjectInUse:
            raise in_use(server, connection, name) from None


def swapped(server: Server, name: str, pair: Pair) -> bool:
    """Whether the new database has the place of the old one."""
    with maintenance(server) as connection:
        return _oids(connection, name).get(name) == pair.new


def put_back(server: Server, name: str, pair: Pair) -> str:
    """Give the old database its name again and drop the new one; its rights are ``postgres.ensure``'s.

    Returns:
        Why the database stays as it is, in words; empty: the old one is in its place.

    Raises:
        Conflict, Refused, Unreachable: as in ``swap``; the old one is untouched then.
    """
    with patient(server, name) as connection:
        found = _oids(connection, name)
        if found.get(name) != pair.old:
            if found.get(copy_name(name)) != pair.old:
                return f"the old state of database {name} is gone, so it stays as restored"
            if found.get(name) != pair.new:
                return f"database {name} was replaced meanwhile and stays; its old state is kept as {copy_name(name)}"
            try:
                with closed(connection, name), connection.transaction():
                    _rename(connection, name, coming_name(name))
                    _rename(connection, copy_name(name), name)
            except errors.ObjectInUse:
                raise in_use(server, connection, name) from None
        _drop(server, connection, name, coming_name(name), pair.new)
    return ""


def drop_new(server: Server, name: str, owner: str, pair: Pair | None = None) -> None:
    """Drop the new database, which did not take its place; one that is gone is fine.

    Args:
        owner: who must manage it.
        pair: which; without it, any of the name that is ours, since its making was cut off.
    """
    with patient(server, name) as connection:
        _, database = postgres.facts(connection, coming_name(name))
        if database is None or not database.mine or database.comment not in (None, owner):
            return
        _drop(server, connection, name, coming_name(name), pair.new if pair else None)


def drop_old(server: Server, name: str, pair: Pair) -> None:
    """Drop the old database, whose place the new one has; one that is gone is fine."""
    with patient(server, name) as connection:
        _drop(server, connection, name, copy_name(name), pair.old)


def _drop(
    server: Server, connection: "psycopg.Connection[tuple[Any, ...]]", name: str, which: str, oid: int | None
) -> None:
    found = _oids(connection, name)
    if which not in found or (oid is not None and found[which] != oid):
        return
    try:
        with closed(connection, which, name):
            connection.execute(statement("DROP DATABASE IF EXISTS {name}", which))
    except errors.ObjectInUse:
        limit(connection, which, 0)
        raise in_use(server, connection, which) from None


def _rename(connection: "psycopg.Connection[tuple[Any, ...]]", old: str, new: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {old} RENAME TO {new}").format(old=sql.Identifier(old), new=sql.Identifier(new))
    )


def _oids(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> dict[str, int]:
    """The oid of database ``name``, of its old state and of the one that is to come, of those that there are."""
    rows = connection.execute(
        "SELECT datname, oid::bigint FROM pg_database WHERE datname IN (%s, %s, %s)",
        (name, copy_name(name), coming_name(name)),
    )
    return {found: int(oid) for found, oid in rows}

"""Taking a client's database and role off the server: only what is ours, only where nothing else hangs on it.

Idempotent; may be killed at any statement and run again. What stands in the way is refused before anything is dropped.
"""

from dataclasses import dataclass
from typing import Any

import psycopg

from tasks import database_drop
from tasks.clients import postgres
from tasks.clients.database_swap import coming_name
from tasks.clients.postgres import Server, statement
from tasks.errors import Conflict, Refused

ADMIN_OPTION = 160000
"""From this version on CREATEROLE alone does not let a provisioner drop a role that it did not make."""


def kept_aside(name: str) -> str:
    """What an upgrade or a restore under way calls the state of database ``name`` from before it.

    >>> kept_aside("zero_client_acme")
    'zero_client_acme__before'
    """
    return name + "__before"


@dataclass(frozen=True)
class Found:
    """What there is of a client on the server."""

    role: bool
    closed: bool
    """Its role may not log in: a removal that was cut off closed it."""
    database: bool
    beside: tuple[str, ...]
    """What an operation under way has beside it: an upgrade the database of before, a restore the one to come."""

    @property
    def anything(self) -> bool:
        """Whether something is to be removed."""
        return bool(self.role or self.database or self.beside)


def look(server: Server, name: str, owner: str) -> Found:
    """What there is of database and role ``name``; nothing is changed.

    Args:
        owner: who manages them, as their comments say.

    Raises:
        Unreachable, Refused: what the server answered, or that the provisioner may not drop the role.
        Conflict: the name belongs to somebody else, or the role has things elsewhere.
    """
    with postgres.maintenance(server) as connection:
        postgres.require_rights(server, connection)
        return _found(connection, server, name, owner)


def remove(server: Server, name: str, owner: str) -> None:
    """Let nobody in any more, drop the database (and what an operation has beside it), then the role; see them gone.

    Raises:
        Unreachable, Refused, Conflict: as in ``look``.
    """
    with postgres.maintenance(server) as connection:
        postgres.require_rights(server, connection)
        with postgres.alone(connection, name):
            found = _found(connection, server, name, owner)
            if found.role:
                _close(connection, name)
            if found.database:
                _drop_database(connection, name)
            for one in found.beside:
                _drop_database(connection, one)
            if found.role:
                _drop_role(connection, name)
            left = _found(connection, server, name, owner)
    if left.anything:
        raise Refused(f"something of {name} at {server.name} is there again", "see who makes it, and run again")


def _found(connection: "psycopg.Connection[tuple[Any, ...]]", server: Server, name: str, owner: str) -> Found:
    role, database = postgres.facts(connection, name)
    postgres.refuse_foreign(server, name, owner, role, database)
    beside = []
    for one in (kept_aside(name), coming_name(name)):
        _, kept = postgres.facts(connection, one)
        # A restore that was killed in the moment after it made the one to come had not labelled it yet.
        fitting = {owner, None} if one == coming_name(name) else {owner}
        if kept is not None and kept.mine and (kept.comment in fitting or (kept.comment or "").startswith(owner + " ")):
            beside.append(one)
    if role is not None:
        _refuse_ties(connection, server, name, {name, *beside})
        require_admin(connection, server, name)
    return Found(role is not None, role is not None and not role.login, database is not None, tuple(beside))


# What a superuser's DROP OWNED in the maintenance database takes along is no tie for one: rights there, and on databases as such.
_TIES = """
    SELECT DISTINCT d.datname FROM pg_roles me, pg_shdepend s
    JOIN pg_database d ON d.oid = CASE WHEN s.dbid = 0 THEN s.objid ELSE s.dbid END
    WHERE me.rolname = current_user AND s.refclassid = 'pg_authid'::regclass
      AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = %s)
      AND CASE WHEN s.dbid = 0
               THEN s.classid = 'pg_database'::regclass AND (s.deptype = 'o' OR NOT (me.rolsuper OR d.datdba = me.oid))
               ELSE d.datname <> current_database() OR s.deptype = 'o' OR NOT me.rolsuper END
    ORDER BY 1"""


def _refuse_ties(connection: "psycopg.Connection[tuple[Any, ...]]", server: Server, name: str, going: set[str]) -> None:
    tied = [row[0] for row in connection.execute(_TIES, (name,)) if row[0] not in going]
    if tied:
        raise Conflict(
            f"role {name} at {server.name} owns or may use things in {', '.join(tied[:5])} too, which is not touched",
            f"drop such a database if it is not wanted any more, or as a superuser run there REASSIGN OWNED BY {name} TO "
            f"{server.username} and DROP OWNED BY {name}, and run again",
        )


def require_admin(connection: "psycopg.Connection[tuple[Any, ...]]", server: Server, name: str) -> None:
    """Refuse a role that the provisioner may not change.

    Raises:
        Refused: with the statement that lets it.
    """
    if connection.info.server_version < ADMIN_OPTION:
        return
    row = connection.execute(
        "SELECT rolsuper OR pg_has_role(current_user, %s, 'MEMBER WITH ADMIN OPTION') FROM pg_roles "
        "WHERE rolname = current_user",
        (name,),
    ).fetchone()
    if not row or not row[0]:
        raise Refused(
            f"role {server.username} at {server.name} may not change role {name}, which it did not make",
            f"as a superuser run GRANT {name} TO {server.username} WITH ADMIN OPTION, and run again",
        )


def _close(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> None:
    """No new session of the client, and the right to end those there are."""
    connection.execute(statement("ALTER ROLE {name} NOLOGIN", name))
    row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    if not (row and row[0]):
        connection.execute(statement("GRANT {name} TO CURRENT_USER", name))


def _drop_database(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> None:
    database_drop.drop(connection, name)


def _drop_role(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> None:
    # It owns nothing here, or it had been refused: only rights fall.
    connection.execute(statement("DROP OWNED BY {name}", name))
    connection.execute(statement("DROP ROLE IF EXISTS {name}", name))

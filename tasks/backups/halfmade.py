"""A new database under a name of its own until it is whole: filled, compared, and only then given the name that was asked for.

Its name is the same for every restore of a target: the lock ``restore-<target>`` says whether somebody still works on it, so what a
killed run left is known and dropped. Its comment tells whose it is; one that was killed before it could be written has none.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors, sql

from tasks import database_drop
from tasks.backups import survey
from tasks.backups.source import Database
from tasks.errors import Conflict, NotFound, Refused

PREFIX = "zero_restore_"
_LABEL = "zero-fleet restore"
SECONDS = 60.0
"""Each of the server's answers may take, but for loading."""
_MAINTENANCE = ("postgres", "template1")


@dataclass(frozen=True)
class HalfMade:
    """Name of the database, and the comment that makes it ours."""

    name: str
    label: str


def of(fleet: str, target: str) -> HalfMade:
    """The half-made database of ``target`` (``client:acme``) in ``fleet``.

    >>> of("f1", "client:acme-2").name[:-8], of("f1", "client:acme").label
    ('zero_restore_client_acme_2_', 'zero-fleet restore f1 client:acme')
    """
    short = re.sub(r"[^a-z0-9]", "_", target)[:38]
    mark = hashlib.sha256(f"{fleet}/{target}".encode()).hexdigest()[:8]
    return HalfMade(f"{PREFIX}{short}_{mark}", f"{_LABEL} {fleet} {target}")


def left(connection: psycopg.Connection, fleet: str) -> dict[str, str]:
    """The half-made databases of ``fleet`` on the server, and the target of each."""
    rows = connection.execute(
        "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database WHERE starts_with(datname, %s)",
        (PREFIX,),
    ).fetchall()
    start = f"{_LABEL} {fleet} "
    return {str(name): label.removeprefix(start) for name, label in rows if label and label.startswith(start)}


@contextmanager
def connected(server: Database) -> Iterator[psycopg.Connection]:
    """A connection to another database of the server, as its role."""
    with survey.connected(server, SECONDS) as connection:
        yield connection


def maintenance(database: Database) -> Database:
    """A database of the same server that ``database``'s role may work from while that one is renamed.

    Raises:
        Refused: it may connect to none.
        Unreachable: the server does not answer.
    """
    last: Refused | None = None
    for name in _MAINTENANCE:
        other = replace(database, name=name)
        try:
            with connected(other):
                return other
        except Refused as error:
            last = error
    raise Refused(
        f"role {database.user} may connect neither to {' nor to '.join(_MAINTENANCE)} at {database.server}, which a restore "
        f"needs ({last.what if last else 'no answer'})",
        f"as a superuser run GRANT CONNECT ON DATABASE postgres TO {survey.quoted(database.user)}, and run again",
    )


def refuse(connection: psycopg.Connection, server: Database, into: str) -> None:
    """Refuse what could not be finished: no right to make a database, or the name is taken.

    Args:
        into: name of the new database; empty: it is to take the place of another.

    Raises:
        Refused: the role lacks CREATEDB.
        Conflict: there is a database ``into``.
    """
    row = connection.execute("SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
    if not (row and row[0]):
        raise Refused(
            f"role {server.user} at {server.server} may not make databases",
            f"as a superuser run ALTER ROLE {survey.quoted(server.user)} CREATEDB, and run again",
        )
    if into and connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (into,)).fetchone():
        raise Conflict(
            f"there is a database {into} at {server.server} already, which is left alone",
            "choose another name, or drop or rename that one",
        )


def refuse_role(connection: psycopg.Connection, server: Database, into: str) -> None:
    """Refuse a name that the role of a client's new database cannot have.

    Raises:
        Conflict: there is a role of that name.
    """
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (into,)).fetchone():
        raise Conflict(
            f"there is a role {into} at {server.server} already, and the new database would belong to one of its own of that name",
            "choose another name, or drop that role",
        )


def make(connection: psycopg.Connection, half: HalfMade, encoding: str, like: str, password: str = "") -> None:
    """Make it empty; what a killed run left of that name goes first. The caller holds the target's restore lock.

    Args:
        password: of a role of its name, which is made and owns it; empty: it is the connected role's. What a dump holds runs as
            whoever loads it (a check, a default), so a client's is never loaded by the provisioner.
        encoding: of the database that the dump came from; empty: UTF8.
        like: a database whose encoding and locale it gets, if there is one of that name.

    Raises:
        Conflict: a database of its name is not ours.
    """
    drop(connection, half)
    found = connection.execute(
        "SELECT pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d) FROM pg_database d WHERE datname = %s",
        (like,),
    ).fetchone()
    options = sql.SQL(" ENCODING {}").format(sql.Literal(found[0] if found else encoding or "UTF8"))
    if found:
        options += sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(found[1]), sql.Literal(found[2]))
        options += _provider(found[3])
    elif encoding not in ("", "UTF8"):
        options += sql.SQL(" LC_COLLATE 'C' LC_CTYPE 'C'")
    name = sql.Identifier(half.name)
    if password:
        _make_role(connection, half, password)
        options += sql.SQL(" OWNER {}").format(name)
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0{} CONNECTION LIMIT 0").format(name, options)
    try:
        connection.execute(create)
    except (
        errors.DuplicateDatabase,
        errors.UniqueViolation,
    ):  # a killed run's own statement went on, and was through just now
        _drop_database(connection, half)
        connection.execute(create)
    connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(half.label)))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 4").format(name))


def _make_role(connection: psycopg.Connection, half: HalfMade, password: str) -> None:
    name = sql.Identifier(half.name)
    verifier = connection.pgconn.encrypt_password(password.encode(), half.name.encode(), b"scram-sha-256").decode()
    with connection.transaction():
        options = sql.SQL("LOGIN NOCREATEDB NOCREATEROLE CONNECTION LIMIT 4 PASSWORD {}").format(sql.Literal(verifier))
        connection.execute(sql.SQL("CREATE ROLE {} {}").format(name, options))
        connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(half.label)))
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(name))


def _role_of(connection: psycopg.Connection, half: HalfMade) -> str | None:
    """The comment on the role of its name; None: there is no such role."""
    row = connection.execute(
        "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = %s", (half.name,)
    ).fetchone()
    return str(row[0]) if row else None


def _provider(row: dict[str, object]) -> sql.Composable:
    """ICU's and the built-in locales, which servers from 15 and 17 on know; their column was renamed in 17."""
    locale = row.get("datlocale") or row.get("daticulocale")
    words = {"i": ("icu", "ICU_LOCALE"), "b": ("builtin", "BUILTIN_LOCALE")}.get(str(row.get("datlocprovider")))
    if words is None or not locale:
        return sql.SQL("")
    provider, option = words
    return sql.SQL(" LOCALE_PROVIDER {} {} {}").format(
        sql.SQL(provider),
        sql.SQL(option),
        sql.Literal(locale),
    )


def give_name(connection: psycopg.Connection, half: HalfMade, name: str, comment: str, public: bool) -> None:
    """It is whole: give it the ``name`` that was asked for, and take the half-made mark away, in one transaction.

    Args:
        public: whether every role may connect to it, as PostgreSQL has it where nobody says otherwise.

    Raises:
        NotFound: it is not there any more.
        Conflict: somebody took the name meanwhile, or uses it.
    """
    try:
        with connection.transaction():
            rename(connection, half.name, name)
            new = sql.Identifier(name)
            if _role_of(connection, half) is not None:
                connection.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(half.name), new))
                connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(new, sql.Literal(comment)))
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(new, sql.Literal(comment)))
            connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(new))
            if public:
                connection.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(new))
    except errors.InvalidCatalogName:
        raise NotFound(f"the database {half.name} was dropped while it was filled", "run again") from None
    except (errors.DuplicateDatabase, errors.DuplicateObject):
        raise Conflict(
            f"somebody made a database or role {name} meanwhile", "choose another name, or drop or rename that one"
        ) from None
    except errors.ObjectInUse:
        raise Conflict(
            f"somebody is connected to {half.name}", "see who it is (pg_stat_activity), and run again"
        ) from None


def drop(connection: psycopg.Connection, half: HalfMade) -> bool:
    """Drop it, and the role of its name, if it is there. True if it was.

    Raises:
        Conflict: a database or role of that name is not ours.
    """
    there = _drop_database(connection, half)
    label = _role_of(connection, half)
    if label is None:
        return there
    if label != half.label:
        raise Conflict(f"there is a role {half.name} that no restore of ours made", "rename or drop it by hand")
    connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(half.name)))
    return True


def _drop_database(connection: psycopg.Connection, half: HalfMade) -> bool:
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database'), pg_has_role(current_user, datdba, 'USAGE') FROM pg_database "
        "WHERE datname = %s",
        (half.name,),
    ).fetchone()
    if row is None:
        return False
    if row[0] not in (None, half.label) or not row[1]:
        raise Conflict(f"there is a database {half.name} that no restore of ours made", "rename or drop it by hand")
    database_drop.drop(connection, half.name)
    return True


def rename(connection: psycopg.Connection, old: str, new: str) -> None:
    """Rename a database."""
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)))

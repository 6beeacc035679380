"""A client's database and role: made, put right and verified. Idempotent; may be killed at any statement and run again.

The provisioner owns the database, not the client (an owner could open it to others, or drop it). Passwords go to the server as
SCRAM verifiers made here, so that no log of the server ever holds one. One connection to the maintenance database holds
an advisory lock keyed by the name for the whole of it; concurrent GRANTs would fail with "tuple concurrently updated".
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from tasks.clients import table_rights
from tasks.errors import Conflict, FleetError, Refused, Unreachable
from tasks.registry.lock import advisory_key
from tasks.sqlstate import explain

CONNECT_TIMEOUT = 5
"""Seconds until a server that does not answer is given up."""
STATEMENT_TIMEOUT = 60
"""Seconds that a statement of ours may take; CREATE DATABASE is the longest."""
CONNECTIONS = 50
"""Connections that one client may hold."""
CLIENT_SETTINGS = {"statement_timeout": "5min", "idle_in_transaction_session_timeout": "5min"}


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server and the role that provisions on it."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    maintenance_database: str = "postgres"
    sslmode: str = "prefer"
    harden: bool = False
    block: str = "postgres-server"
    """Where all that comes from, for the sentences about it."""

    @property
    def name(self) -> str:
        """As the operator reads it."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class DatabaseState:
    """What is there of a client's database, and what is wrong with it in words (nothing: it is ready)."""

    role: bool
    database: bool
    faults: tuple[str, ...]
    open_to_all: tuple[str, ...] = ()
    """Databases of the server that every role may connect to, the client's too."""

    @property
    def ready(self) -> bool:
        """Whether nothing has to be done."""
        return not self.faults


def look(server: Server, name: str, password: str, owner: str) -> DatabaseState:
    """What there is of database and role ``name`` (they share it); nothing is changed.

    Args:
        password: the client's, empty when none is saved (not made yet, or its block was deleted): a fault, never tried.
        owner: who manages it, as written into its comment: ``zero-fleet f1 for client acme``.

    Raises:
        Unreachable: the server does not answer.
        Refused: it refuses the provisioner, or the provisioner lacks rights.
        Conflict: the name belongs to somebody else.
    """
    with maintenance(server) as connection:
        require_rights(server, connection)
        role, database = facts(connection, name)
        refuse_foreign(server, name, owner, role, database)
        faults = _faults(connection, name, role, database)
        opened = tuple(row[0] for row in connection.execute(_OPEN_TO_ALL))
    if not faults and not password:
        faults = ["no password of its role is saved"]
    elif not faults:
        try:
            check_client(server, name, password)
        except Unreachable:
            raise
        except FleetError as error:
            faults = [error.what]
    if server.harden and {"postgres", "template1"} & set(opened):
        faults.append("postgres and template1 are open to every role")
    return DatabaseState(role is not None, database is not None, tuple(faults), opened)


def ensure(server: Server, name: str, password: str, owner: str) -> DatabaseState:
    """Make or put right the role and database ``name``, then verify; ends with the state seen, or fails closed.

    Raises:
        Unreachable, Refused, Conflict: as in ``look``.
        Refused: isolation could not be seen to hold; nothing lets the client in then.
    """
    with maintenance(server) as connection:
        require_rights(server, connection)
        with alone(connection, name):
            role, database = facts(connection, name)
            refuse_foreign(server, name, owner, role, database)
            _ensure_role(connection, name, password, owner)
            _ensure_database(connection, name, owner)
            _grant(connection, name)
            open_public_schema(server, name, name)
            role, database = facts(connection, name)
            faults = _faults(connection, name, role, database)
            if faults:
                connection.execute(statement("ALTER DATABASE {name} CONNECTION LIMIT 0", name))
                raise Refused(
                    f"database {name} at {server.name} is not isolated ({'; '.join(faults)}), so it was closed again",
                    "take the rights named from PUBLIC or the role, and run again",
                )
        if server.harden:
            _harden(server, connection)
        opened = tuple(row[0] for row in connection.execute(_OPEN_TO_ALL))
    with connected(server, name, password, name) as own:
        table_rights.give_back(own)
    check_client(server, name, password)
    return DatabaseState(True, True, (), opened)


def check_client(server: Server, name: str, password: str) -> None:
    """Connect as the client's role and see that it may do what Zero does at every start.

    Raises:
        Unreachable, Refused: it cannot connect.
        Refused: it lacks CREATE on the database or on schema public, or rights on Zero's tables.
    """
    with connected(server, name, password, name) as connection:
        row = connection.execute(
            "SELECT has_database_privilege(current_database(), 'CREATE'), has_schema_privilege('public', 'CREATE')"
        ).fetchone()
        if row != (True, True):
            raise Refused(f"role {name} may not create tables in its database", ownership_cure(name))
        table_rights.require(connection, name, ownership_cure(name))


def ownership_cure(role: str) -> str:
    """What to do when ``role`` may not make or use what is in its database; granting anew does not help then.

    >>> ownership_cure("zero_client_acme")[:53]
    'let role zero_client_acme own what is in its database'
    """
    return (
        f"let role {role} own what is in its database (REASSIGN OWNED BY … TO {role}, or ALTER … OWNER TO {role}; or restore "
        "as that role) and run again"
    )


def can_connect(server: Server, name: str, password: str) -> bool:
    """Whether the client's role gets into its database with ``password``."""
    try:
        check_client(server, name, password)
    except FleetError:
        return False
    return True


@contextmanager
def connected(
    server: Server, user: str, password: str, database: str
) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    """An autocommit connection with deadlines; what the server answers inside becomes a FleetError.

    Raises:
        FleetError: see ``tasks.sqlstate``.
    """
    try:
        with psycopg.connect(
            host=server.host,
            port=server.port,
            user=user,
            password=password,
            dbname=database,
            sslmode=server.sslmode,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="zero-fleet",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT}s",
            autocommit=True,
        ) as connection:
            yield connection
    except psycopg.Error as error:
        block = server.block if user == server.username else ""
        raise explain(str(error), error.sqlstate, server.name, user, database, block) from None


@contextmanager
def maintenance(server: Server) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    """A connection of the provisioner to the maintenance database."""
    with connected(server, server.username, server.password, server.maintenance_database) as connection:
        yield connection


def statement(text: LiteralString, name: str, **values: Any) -> sql.Composed:
    """``text`` with ``{name}`` as an identifier and ``values`` as literals."""
    literals = {key: sql.Literal(value) for key, value in values.items()}
    return sql.SQL(text).format(name=sql.Identifier(name), **literals)


def require_rights(server: Server, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
    """Refuse a provisioner that cannot provision.

    Raises:
        Refused: with the statement that gives it the rights.
    """
    row = connection.execute(
        "SELECT rolsuper OR (rolcreaterole AND rolcreatedb) FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if not row or not row[0]:
        raise Refused(
            f"role {server.username} at {server.name} may not make roles and databases",
            f"as a superuser run ALTER ROLE {server.username} CREATEROLE CREATEDB, and run again",
        )


@contextmanager
def alone(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> Iterator[None]:
    """Hold the server's advisory lock of ``name``; it falls with the connection."""
    key = advisory_key(f"database {name}")
    connection.execute("SELECT pg_advisory_lock(%s)", (key,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (key,))


_ROLE = """
    SELECT rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
           EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid), shobj_description(oid, 'pg_authid')
    FROM pg_roles r WHERE rolname = %s"""
_DATABASE = """
    SELECT datdba = (SELECT oid FROM pg_roles WHERE rolname = current_user), datconnlimit,
           has_database_privilege('public', oid, 'CONNECT'), shobj_description(oid, 'pg_database'),
           pg_get_userbyid(datdba)
    FROM pg_database WHERE datname = %s"""
# A limit of 0 is a database that another provisioning has just made and not yet closed: nobody gets in.
_OTHERS = r"""
    SELECT datname FROM pg_database
    WHERE datallowconn AND datconnlimit <> 0 AND datname <> %(name)s AND datname LIKE 'zero\_client\_%%'
      AND has_database_privilege(%(name)s, oid, 'CONNECT') AND NOT has_database_privilege('public', oid, 'CONNECT')"""
# One that PUBLIC may connect to is that one's fault, found and mended where its own client is looked at; it keeps nobody else
# from being made or put right.
_OPEN_TO_ALL = """
    SELECT datname FROM pg_database
    WHERE datallowconn AND datconnlimit <> 0 AND has_database_privilege('public', oid, 'CONNECT') ORDER BY datname"""


@dataclass(frozen=True)
class Role:
    """A role as the catalogue shows it."""

    login: bool
    powerful: bool
    member: bool
    comment: str | None


@dataclass(frozen=True)
class Database:
    """A database as the catalogue shows it."""

    mine: bool
    limit: int
    public: bool
    comment: str | None
    owner: str


def facts(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> tuple[Role | None, Database | None]:
    """Role and database ``name`` as the catalogue shows them."""
    role = connection.execute(_ROLE, (name,)).fetchone()
    database = connection.execute(_DATABASE, (name,)).fetchone()
    return (Role(*role) if role else None), (Database(*database) if database else None)


def refuse_foreign(server: Server, name: str, owner: str, role: Role | None, database: Database | None) -> None:
    """A name that somebody else manages, or that the provisioner does not own, is left alone.

    Raises:
        Conflict: saying whose it is.
    """
    for kind, found in (("role", role), ("database", database)):
        if found is not None and found.comment and found.comment != owner:
            raise Conflict(
                f"{kind} {name} at {server.name} is not ours (its comment says: {found.comment[:120]})",
                "give the client another slug, or use another server",
            )
    if database is not None and not database.mine:
        raise Conflict(
            f"database {name} at {server.name} belongs to role {database.owner}, not to {server.username}",
            f"give the client another slug, or hand the database over (ALTER DATABASE {name} OWNER TO {server.username})",
        )


def _faults(
    connection: "psycopg.Connection[tuple[Any, ...]]", name: str, role: Role | None, database: Database | None
) -> list[str]:
    faults = []
    if role is None:
        return ["there is no role"]
    if not role.login:
        faults.append("the role may not log in")
    if role.powerful:
        faults.append("the role has rights over the whole server")
    if role.member:
        faults.append("the role is a member of other roles")
    if database is None:
        return [*faults, "there is no database"]
    if database.public:
        faults.append("PUBLIC may connect to it")
    if database.limit == 0:
        faults.append("it takes no connections")
    others = [row[0] for row in connection.execute(_OTHERS, {"name": name})]
    if others:
        faults.append(f"its role may connect to {', '.join(others[:5])}")
    return faults


def _ensure_role(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, password: str, owner: str) -> None:
    with suppress(errors.DuplicateObject, errors.UniqueViolation):  # two at once give the second
        connection.execute(statement("CREATE ROLE {name} NOLOGIN", name))
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    connection.execute(statement("COMMENT ON ROLE {name} IS {owner}", name, owner=owner))
    connection.execute(
        statement(
            "ALTER ROLE {name} LOGIN NOCREATEDB NOCREATEROLE CONNECTION LIMIT {limit} PASSWORD {verifier}",
            name,
            limit=CONNECTIONS,
            verifier=verifier,
        )
    )
    for setting, value in CLIENT_SETTINGS.items():
        connection.execute(
            sql.SQL("ALTER ROLE {name} SET {setting} = {value}").format(
                name=sql.Identifier(name), setting=sql.Identifier(setting), value=sql.Literal(value)
            )
        )


def _ensure_database(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, owner: str) -> None:
    with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
        connection.execute(
            statement("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' CONNECTION LIMIT 0", name)
        )
    connection.execute(statement("COMMENT ON DATABASE {name} IS {owner}", name, owner=owner))


def _grant(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> None:
    connection.execute(statement("REVOKE ALL ON DATABASE {name} FROM PUBLIC", name))
    connection.execute(statement("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {name} TO {name}", name))
    # Only now, when nobody but the role and its owner gets in; some more than the role's, for dumps and for us.
    connection.execute(statement("ALTER DATABASE {name} CONNECTION LIMIT {limit}", name, limit=CONNECTIONS + 10))


def open_public_schema(server: Server, database: str, role: str) -> None:
    """Let ``role`` make tables in the schema public of ``database``, and nobody else."""
    with connected(server, server.username, server.password, database) as inside:
        inside.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        inside.execute(statement("GRANT USAGE, CREATE ON SCHEMA public TO {name}", role))


def _harden(server: Server, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
    """Close postgres and template1 to PUBLIC on a server that is ours alone; alone, because two would collide.

    Raises:
        Refused: they stay open, because the provisioner does not own them.
    """
    with alone(connection, "of the whole server"):
        opened = {row[0] for row in connection.execute(_OPEN_TO_ALL)}
        for name in sorted({"postgres", "template1"} & opened):
            # The provisioner itself must still get in.
            connection.execute(statement("GRANT CONNECT ON DATABASE {name} TO CURRENT_USER", name))
            connection.execute(statement("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC", name))
        stay = sorted({"postgres", "template1"} & {row[0] for row in connection.execute(_OPEN_TO_ALL)})
    if stay:  # to revoke what somebody else granted is no error to PostgreSQL
        raise Refused(
            f"{' and '.join(stay)} at {server.name} stay open to every role, because {server.username} does not own them",
            f"as a superuser run GRANT CONNECT ON DATABASE {server.maintenance_database} TO {server.username} and REVOKE CONNECT ON "
            f"DATABASE {', '.join(stay)} FROM PUBLIC, or take harden (Ours alone) out of the block postgres-server",
        )

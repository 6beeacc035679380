"""A restored database in the place of the one that a block names, which an application uses: swapped in one transaction.

There is a database of that name at every moment. The old one has ``__before`` behind it then, and a comment that says whose it is and
how much had been written to it when its safety backup was begun. It is dropped when that backup is known to hold all of it. So
what a killed run left can be told, and finished, by the server alone.
"""

import threading
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors, sql

from tasks import database_drop
from tasks.backups.halfmade import HalfMade, connected, rename
from tasks.backups.source import Database, Target
from tasks.database_settings import carry_grants, carry_settings
from tasks.errors import Conflict, NotFound, Refused

BEFORE = "__before"
_LABEL = "zero-fleet before-restore"
_LONGEST = 63
_COUNTED_AT_ONCE = 150_000
"""From this version on what a session wrote is counted before it is gone."""
_SECONDS = 0.1
"""Between two rounds of ending sessions."""
# Sessions, with whose they are, and whether the connected role may end them: pg_terminate_backend's own rule. What kind another's
# session is may not be shown.
_SESSIONS = """
    SELECT a.pid, coalesce(a.usename, 'somebody'), me.rolsuper OR (NOT coalesce(r.rolsuper, true) AND (
               pg_has_role(me.oid, r.oid, 'USAGE') OR pg_has_role(me.oid, 'pg_signal_backend', 'USAGE')))
    FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid, pg_roles me
    WHERE a.datname = ANY(%s) AND me.rolname = current_user AND a.usesysid IS NOT NULL
      AND coalesce(a.backend_type, 'client backend') = 'client backend'"""


@dataclass(frozen=True)
class Place:
    """The database that is replaced, and where that is done from."""

    database: Database
    """As the block's role."""
    server: Database
    """Another database of its server, as the same role."""
    fleet: str
    target: Target

    @property
    def old(self) -> str:
        """What the old database is called after the swap.

        >>> here = Database("db", 5432, "app", "app", "")
        >>> Place(here, here, "f1", Target(database="crm")).old
        'app__before'
        """
        name = self.database.name
        while len((name + BEFORE).encode()) > _LONGEST:
            name = name[:-1]
        return name + BEFORE

    @property
    def label(self) -> str:
        """How the old database's comment begins."""
        return f"{_LABEL} {self.fleet} {self.target.key} "

    @property
    def set_aside(self) -> Database:
        """The old database after the swap."""
        return replace(self.database, name=self.old)


def refuse(connection: psycopg.Connection, place: Place) -> None:
    """Refuse what could not be finished, before anything is touched.

    Raises:
        NotFound: there is no such database.
        Refused: the role does not own it.
        Conflict: somebody uses it whom the role may not disconnect, or the name that is needed meanwhile is taken.
    """
    name, role, where = place.database.name, place.database.user, place.database.server
    row = connection.execute(
        "SELECT pg_has_role(current_user, datdba, 'USAGE'), pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s",
        (name,),
    ).fetchone()
    if row is None:
        raise NotFound(
            f"there is no database {name} at {where} to restore over",
            f"give into={name}, which makes it anew, or correct the block {place.database.block}",
        )
    if not row[0]:
        raise Refused(
            f"database {name} at {where} belongs to role {row[1]}, so {role} may not replace it",
            f"as a superuser run ALTER DATABASE {name} OWNER TO {role}, use a role that owns it, or restore into a new database (into)",
        )
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (place.old,)).fetchone():
        raise Conflict(
            f"there is a database {place.old} at {where} that no restore of ours left",
            "see what it holds, and drop or rename it",
        )
    _refuse_lasting_sessions(connection, place)


def _refuse_lasting_sessions(connection: psycopg.Connection, place: Place) -> None:
    """Raises Conflict where a session cannot be ended."""
    sessions = connection.execute(_SESSIONS, ([place.database.name],)).fetchall()
    lasting = {str(role) for _, role, endable in sessions if not endable}
    if lasting:
        raise _in_use(place, lasting)


def _in_use(place: Place, users: set[str]) -> Conflict:
    named = ", ".join(sorted(users)[:5]) or "somebody"
    return Conflict(
        f"database {place.database.name} at {place.database.server} is in use by {named}, whom {place.database.user} may not "
        "disconnect, so nothing was changed",
        "end those sessions (stop what uses it; pg_stat_activity shows them), and run again",
    )


def written(connection: psycopg.Connection, name: str) -> int | None:
    """How many rows were ever written to database ``name``, as the server counts them; None: it does not tell in time."""
    if connection.info.server_version < _COUNTED_AT_ONCE:
        return None
    row = connection.execute(
        "SELECT tup_inserted + tup_updated + tup_deleted FROM pg_stat_database WHERE datname = %s", (name,)
    ).fetchone()
    return int(row[0]) if row else None


def swap(place: Place, half: HalfMade, saved_at: int | None) -> None:
    """Let the half-made database take the place of the old one, with its settings, owner and comment.

    Sessions on the old one are ended; none can begin between that and the swap.

    Args:
        half: whole by now.
        saved_at: what ``written`` said of the old one before its safety backup was begun.

    Raises:
        Conflict: a session does not end; nothing was changed then.
        Refused, Unreachable: what the server answered; nothing was changed then.
    """
    name = place.database.name
    with connected(place.server) as connection, connected(place.server) as ender:
        _refuse_lasting_sessions(connection, place)
        row = connection.execute(
            "SELECT pg_get_userbyid(datdba), datdba <> (SELECT datdba FROM pg_database WHERE datname = %s), datconnlimit,"
            " shobj_description(oid, 'pg_database'), has_database_privilege('public', oid, 'CONNECT'),"
            " has_database_privilege('public', oid, 'TEMPORARY') FROM pg_database WHERE datname = %s",
            (half.name, name),
        ).fetchone()
        if row is None:
            raise NotFound(f"database {name} at {place.database.server} is gone", "run again")
        owner, others, limit, comment, connect, temporary = row
        carry_settings(connection, name, half.name)
        carry_grants(connection, name, half.name)
        opened = [word for word, given in (("CONNECT", connect), ("TEMPORARY", temporary)) if given]
        ended = threading.Event()
        thread = threading.Thread(target=_end_sessions, args=(ender, (name, half.name), ended), daemon=True)
        thread.start()
        try:
            with connection.transaction():
                rename(connection, name, place.old)  # from here on nobody gets in; it waits for those who are there
                rename(connection, half.name, name)
                new = sql.Identifier(name)
                for word in opened:
                    connection.execute(sql.SQL("GRANT {} ON DATABASE {} TO PUBLIC").format(sql.SQL(word), new))
                connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(new, sql.Literal(limit)))
                connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(new, sql.Literal(comment)))
                connection.execute(
                    sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                        sql.Identifier(place.old), sql.Literal(place.label + str(saved_at))
                    )
                )
                if others:
                    connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(new, sql.Identifier(owner)))
        except errors.ObjectInUse:
            sessions = connection.execute(_SESSIONS, ([name],)).fetchall()
            raise _in_use(place, {str(role) for _, role, _ in sessions}) from None
        finally:
            ended.set()
            thread.join()


def _end_sessions(connection: psycopg.Connection, names: tuple[str, ...], ended: threading.Event) -> None:
    """End whoever is connected until the swap is through; who may not be ended is left alone, and it fails then."""
    while not ended.wait(_SECONDS):
        try:
            sessions = connection.execute(_SESSIONS, (list(names),)).fetchall()
            for pid in (pid for pid, _, endable in sessions if endable):
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        except psycopg.Error:  # the server went away; who swaps says so
            return


def left(connection: psycopg.Connection, place: Place) -> int | None:
    """Whether an old database is still there, and what had been written to it when its safety backup was begun.

    Returns:
        None: there is none. -1: it was not known.
    """
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (place.old,)
    ).fetchone()
    if row is None or not str(row[0] or "").startswith(place.label):
        return None
    said = str(row[0]).removeprefix(place.label)
    return int(said) if said.isdigit() else -1


def unsaved(connection: psycopg.Connection, place: Place) -> bool:
    """Whether the old database may hold something that its safety backup does not."""
    known = left(connection, place)
    return known is not None and (known < 0 or written(connection, place.old) != known)


def put_back(connection: psycopg.Connection, place: Place) -> bool:
    """Give the old database its name again where nothing has it: somebody dropped the restored one. Whether it was so."""
    if left(connection, place) is None:
        return False
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (place.database.name,)).fetchone():
        return False
    with connection.transaction():
        rename(connection, place.old, place.database.name)
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(sql.Identifier(place.database.name)))
    return True


def drop_old(connection: psycopg.Connection, place: Place) -> None:
    """Drop the old database, which is saved; one that is not ours is left alone."""
    if left(connection, place) is not None:
        database_drop.drop(connection, place.old)


def holds_registry(place: Place, session: tuple[int, str, str]) -> bool:
    """Whether the database is the one that the registry's own session is on, whatever its host is called.

    Args:
        session: process id on the server, database and role of a session that is open now.
    """
    pid, database, role = session
    with connected(place.server) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND datname = %s AND usename = %s AND datname = %s",
            (pid, database, role, place.database.name),
        ).fetchone()
    return found is not None

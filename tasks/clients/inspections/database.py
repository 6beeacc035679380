"""Looking at the client's database from here, as the client's own role: what it may do, what is in it, how it grows."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.clients import postgres, table_rights
from tasks.clients.diagnosis import Check, Line, attempt, bad, good, quantity, size, span, unknown
from tasks.clock import now
from tasks.errors import FleetError, Unreachable

if TYPE_CHECKING:
    import psycopg

COUNTED = 256 << 20
"""Bytes: the rows of a table above this are estimated, since counting would take long."""


@dataclass
class Found:
    """What was seen inside."""

    lines: list[Line] = field(default_factory=list)
    rows: dict[str, int] | None = None
    """Rows per table of Zero's; None: not seen."""
    drift: float | None = None
    """Seconds that the server's clock is ahead of ours."""


def inside(
    server: postgres.Server, name: str, password: str, looked: Mapping[str, Any] | None, slug: str, enabled: bool = True
) -> Found:
    """Connect as the client, and look at rights, tables, accounts and size, each for itself.

    Args:
        enabled: one that is not enabled may never have migrated.
        looked: what the last diagnosis saw: ``at`` and ``rows``.
    """
    found = Found()
    rest = (Check.RIGHTS, Check.TABLES, Check.ACCOUNTS, Check.SIZE)
    if not password:
        found.lines = [unknown(check, f"no password of role {name} is saved") for check in (Check.FROM_HERE, *rest)]
        return found
    began = time.monotonic()
    try:
        with postgres.connected(server, name, password, name) as connection:
            took = (time.monotonic() - began) * 1000
            found.lines.append(good(Check.FROM_HERE, f"role {name} gets into {name} at {server.name} ({took:.0f} ms)"))
            _look(connection, found, name, looked, slug, enabled)
    except FleetError as error:
        if not found.lines:
            found.lines.append(bad(Check.FROM_HERE, error.what, _cure(error, slug)))
        else:
            found.lines.append(unknown(Check.SIZE, error.what, error.cure))
    seen = {line.check for line in found.lines}
    found.lines += [unknown(check, "the database could not be entered") for check in rest if check not in seen]
    return found


def _cure(error: FleetError, slug: str) -> str:
    """Provisioning again puts a role, its password and its database right; a server that is down it does not."""
    return error.cure if isinstance(error, Unreachable) else f"run provision-client for {slug}, which puts it right"


def _look(
    connection: "psycopg.Connection[tuple[Any, ...]]",
    found: Found,
    name: str,
    looked: Mapping[str, Any] | None,
    slug: str,
    enabled: bool,
) -> None:
    asked = now()
    moment = connection.execute("SELECT clock_timestamp()").fetchone()
    if moment:
        found.drift = (moment[0] - asked).total_seconds()
    found.lines.append(attempt(Check.RIGHTS, lambda: rights_line(connection, name)))

    def tables() -> Line:
        found.rows = counted(connection)
        if not found.rows and not enabled:
            return good(Check.TABLES, "none yet: Zero makes them at its first start, and it is not enabled")
        return tables_line(found.rows, looked, now(), slug)

    found.lines.append(attempt(Check.TABLES, tables))
    found.lines.append(attempt(Check.ACCOUNTS, lambda: accounts_line(connection, slug)))
    found.lines.append(attempt(Check.SIZE, lambda: size_line(connection)))


def rights_line(connection: "psycopg.Connection[tuple[Any, ...]]", name: str) -> Line:
    """Whether the role may make tables, in the schemas that Zero uses, and use every one of Zero's."""
    cure = postgres.ownership_cure(name)
    rows = connection.execute(
        """
        SELECT 'database ' || current_database(), 'CREATE', has_database_privilege(current_database(), 'CREATE')
        UNION ALL
        SELECT 'schema ' || nspname, right_, has_schema_privilege(oid, right_)
        FROM pg_namespace, unnest(ARRAY['USAGE', 'CREATE']) right_ WHERE nspname IN ('public', 'drizzle')"""
    ).fetchall()
    missing = [f"{right} on {what}" for what, right, has in rows if not has]
    if missing:
        return bad(
            Check.RIGHTS, f"role {name} lacks {', '.join(missing)}", "run provision-client, which grants it; or " + cure
        )
    try:
        table_rights.require(connection, name, cure)
    except FleetError as error:
        return bad(Check.RIGHTS, error.what, error.cure)
    return good(Check.RIGHTS, f"{', '.join(f'{right} on {what}' for what, right, _ in rows)}, and every table")


def counted(connection: "psycopg.Connection[tuple[Any, ...]]") -> dict[str, int]:
    """Rows of each of Zero's tables that the role may read; of a very big one as estimated by the server."""
    from psycopg import sql

    rows = connection.execute(
        r"""
        SELECT n.nspname, relname, pg_total_relation_size(c.oid), greatest(reltuples, 0)::bigint
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p') AND relname LIKE 'mail0\_%' AND has_schema_privilege(n.oid, 'USAGE')
          AND has_table_privilege(c.oid, 'SELECT') ORDER BY relname"""
    ).fetchall()
    found = {}
    for schema, table, taken, estimate in rows:
        if taken > COUNTED:
            found[table] = int(estimate)
            continue
        counted_ = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
        ).fetchone()
        found[table] = int(counted_[0]) if counted_ else 0
    return found


def tables_line(rows: Mapping[str, int], looked: Mapping[str, Any] | None, at: datetime, slug: str) -> Line:
    """The tables with their rows, and what was added since the last look."""
    if not rows:
        return bad(
            Check.TABLES,
            "there is no table mail0_* that it may read: Zero's migrations did not run here",
            f"run restart-zero for {slug}, and read zero-logs when it does not come up",
        )
    before = (looked or {}).get("rows") or {}
    shown = [
        f"{table.removeprefix('mail0_')} {count}{_change(count - before[table]) if table in before else ''}"
        for table, count in rows.items()
    ]
    since = ""
    if looked:
        added = sum(rows.values()) - sum(before.values())
        ago = (at - datetime.fromisoformat(str(looked["at"]))).total_seconds()
        since = f"; {_change(added).strip(' ()') or 'no change'} since the last look {span(ago)} ago"
    said = f"{quantity(len(rows), 'table')}, {quantity(sum(rows.values()), 'row')}{since}: {', '.join(shown)}"
    gone = sorted(set(before) - set(rows))
    if gone:
        return bad(
            Check.TABLES,
            f"{', '.join(gone)} is gone since the last look; {said}",
            "restore a backup if that was not meant",
        )
    return good(Check.TABLES, said)


def _change(count: int) -> str:
    """What came or went, in brackets; nothing when nothing did.

    >>> _change(3), _change(-1), _change(0)
    (' (+3)', ' (-1)', '')
    """
    return f" ({count:+d})" if count else ""


def accounts_line(connection: "psycopg.Connection[tuple[Any, ...]]", slug: str) -> Line:
    """How many mail accounts are connected in Zero, by provider; no address is read."""
    columns = {
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('mail0_connection') AND attnum > 0"
        )
    }
    if not columns:
        return unknown(Check.ACCOUNTS, "there is no table mail0_connection yet")
    provider = "provider_id" if "provider_id" in columns else "'mail'"
    rows = connection.execute(
        f"SELECT coalesce({provider}, 'unnamed'), count(*) FROM mail0_connection GROUP BY 1 ORDER BY 1"  # noqa: S608
    ).fetchall()
    if not rows:
        return good(Check.ACCOUNTS, "none is connected yet", "log in at its address and connect one")
    named = ", ".join(f"{provider_} {count}" for provider_, count in rows)
    return good(Check.ACCOUNTS, f"{quantity(sum(count for _, count in rows), 'account')} connected: {named}")


def size_line(connection: "psycopg.Connection[tuple[Any, ...]]") -> Line:
    """How big the database is."""
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return good(Check.SIZE, size(row[0] if row else 0))


def isolation_line(server: postgres.Server, name: str, owner: str, slug: str) -> Line:
    """Whether nobody else gets into the database, and its role into no other; and which databases are open to all."""
    try:
        state = postgres.look(server, name, "", owner)
    except FleetError as error:
        return unknown(Check.ISOLATION, error.what, error.cure)
    faults = [fault for fault in state.faults if not fault.startswith("no password")]
    if not (state.role and state.database) and len(faults) == 1:
        return unknown(Check.ISOLATION, faults[0], f"run provision-client for {slug}, which makes it")
    if faults:
        return bad(Check.ISOLATION, "; ".join(faults), f"run provision-client for {slug}, which puts it right")
    if state.open_to_all:
        return good(
            Check.ISOLATION,
            f"its own is closed to others; every role of the server may connect to {', '.join(state.open_to_all[:10])}",
            "REVOKE CONNECT ON DATABASE … FROM PUBLIC closes them, where no other application needs it",
        )
    return good(Check.ISOLATION, "nobody else gets in, its role gets nowhere else, no database is open to all")

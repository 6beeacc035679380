"""What a client's role may do with the tables in its database, seen as that role: rights on single tables can be taken away too."""

from typing import TYPE_CHECKING, Any

from tasks.errors import Refused

if TYPE_CHECKING:
    import psycopg

SHOWN = 5
# Tables of its own, and Zero's whoever owns them; an extension's are the extension's.
_BARRED = r"""
    SELECT c.oid::regclass::text, pg_get_userbyid(relowner) = current_user
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
      AND (pg_get_userbyid(relowner) = current_user OR nspname = 'drizzle' OR relname LIKE 'mail0\_%')
      AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
               AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
               AND has_table_privilege(c.oid, 'DELETE'))
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1"""


def require(connection: "psycopg.Connection[tuple[Any, ...]]", role: str, ownership_cure: str) -> None:
    """See that the connected ``role`` may read and write its tables.

    Args:
        ownership_cure: what to do where it does not own them.

    Raises:
        Refused: naming the tables.
    """
    barred = connection.execute(_BARRED).fetchall()
    if not barred:
        return
    others = [table for table, own in barred if not own]
    named = others or [table for table, _ in barred]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    raise Refused(
        f"role {role} may not read and write {', '.join(named[:SHOWN])}{more} in its database",
        ownership_cure
        if others
        else f"as {role} run GRANT ALL ON TABLE … TO {role}, or run provision-client, which does",
    )


def give_back(connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
    """Give the connected role back what it lost on tables of its own: an owner may always grant that."""
    from psycopg import sql

    for table, own in connection.execute(_BARRED).fetchall():
        if own:  # the server quoted the name itself
            connection.execute(sql.SQL("GRANT ALL ON TABLE {} TO CURRENT_USER").format(sql.SQL(table)))

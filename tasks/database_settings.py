"""Settings and rights of a database as a whole, which neither a copy on the server nor a dump brings along."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg


def carry_settings(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, copy: str) -> None:
    """Give database ``copy`` the settings of database ``name``; those that only a superuser may set are left out.

    Args:
        connection: to another database of their server, in autocommit mode, as the owner of both.
    """
    from psycopg import errors, sql

    rows = connection.execute(
        "SELECT pg_get_userbyid(nullif(setrole, 0)), split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1) "
        "FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) entry "
        "WHERE d.datname = %s",
        (name,),
    ).fetchall()
    for role, setting, value in rows:
        whose = sql.SQL("DATABASE {copy}")
        if role:
            whose = sql.SQL("ROLE {role} IN DATABASE {copy}")
        change = sql.SQL("ALTER " + "{} SET {} FROM CURRENT").format(
            whose.format(role=sql.Identifier(role or ""), copy=sql.Identifier(copy)), sql.Identifier(setting)
        )
        try:
            with connection.transaction():
                # Its text may be a list; given back this way it is read as it was stored.
                connection.execute("SELECT set_config(%s, %s, true)", (setting, value))
                connection.execute(change)
        except errors.InsufficientPrivilege:
            continue


def carry_grants(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, copy: str) -> None:
    """Let others than the owner do with database ``copy`` what they may do with ``name``: a role for reports, say.

    What PUBLIC may do is left alone.

    Args:
        connection: to another database of their server, in autocommit mode, as the owner of both.
    """
    from psycopg import sql

    rows = connection.execute(
        "SELECT pg_get_userbyid(a.grantee), a.privilege_type FROM pg_database d, aclexplode(d.datacl) a "
        "WHERE d.datname = %s AND a.grantee NOT IN (0, d.datdba)",
        (name,),
    ).fetchall()
    for grantee, privilege in rows:
        connection.execute(
            sql.SQL("GRANT {privilege} ON DATABASE {copy} TO {grantee}").format(
                privilege=sql.SQL(privilege), copy=sql.Identifier(copy), grantee=sql.Identifier(grantee)
            )
        )

"""Drop a database with whoever is on it, as its owner; on the ground floor, because every trade that makes databases drops them."""

import psycopg
from psycopg import errors, sql


def drop(connection: "psycopg.Connection[object]", name: str) -> None:
    """Drop the database ``name``, if there is one, and end the sessions on it.

    FORCE is refused where a worker of autovacuum is at work there and we are no superuser ("permission denied to terminate
    process", PostgreSQL 16). So the sessions that we may end are ended one by one then; and without FORCE PostgreSQL ends that
    worker itself and waits for it (``CountOtherDBBackends``).

    Args:
        connection: to another database, in autocommit mode.

    Raises:
        psycopg.errors.InsufficientPrivilege: it is not ours, or somebody is on it whom we may not end.
    """
    try:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    except errors.InsufficientPrivilege as refused:
        try:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
                (name,),
            )
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        except (errors.InsufficientPrivilege, errors.ObjectInUse):
            raise refused from None

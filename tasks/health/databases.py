"""Whether the clients' databases are there: Zero's own health paths stay 200 with the database down.

One query on the server tells of all of them; a connection per client would take the server's connections from clients.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.errors import FleetError
from tasks.registry.names import ClientNames
from tasks.sqlstate import explain

CONNECT_SECONDS = 5
STATEMENT_MILLISECONDS = 5000


@dataclass(frozen=True)
class DatabaseServer:
    """How to reach the clients' PostgreSQL server as its provisioner."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    database: str
    sslmode: str = "prefer"
    block: str = "postgres-server"
    """Where all that comes from, for the sentences about it."""


def look(server: DatabaseServer, clients: Iterable[str]) -> dict[str, str]:
    """What is wrong with the clients' databases, in words, by client; a sound one is not in it.

    Args:
        server: where they are; asked with 5 s to connect and 5 s to answer.
        clients: slugs.
    """
    try:
        open_for_clients = _connectable(server)
    except FleetError as error:
        return dict.fromkeys(clients, str(error).rstrip("."))
    return {
        slug: f"its database {ClientNames(slug).database} does not exist; run provision-client for {slug}"
        for slug in clients
        if ClientNames(slug).database not in open_for_clients
    }


def _connectable(server: DatabaseServer) -> frozenset[str]:
    import psycopg

    try:
        with contextlib.closing(
            psycopg.connect(
                host=server.host,
                port=server.port,
                user=server.username,
                password=server.password,
                dbname=server.database,
                sslmode=server.sslmode,
                connect_timeout=CONNECT_SECONDS,
                options=f"-c statement_timeout={STATEMENT_MILLISECONDS}",
                application_name="zero-fleet health",
                autocommit=True,
            )
        ) as connection:
            rows = connection.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
    except psycopg.Error as error:
        # The cause may hold the connection string; the sentence does not.
        name = f"{server.host}:{server.port}"
        raise explain(str(error), error.sqlstate, name, server.username, server.database, server.block) from None
    return frozenset(row[0] for row in rows)

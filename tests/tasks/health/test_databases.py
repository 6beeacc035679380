"""The clients' databases, on a real server."""

import secrets

from tasks.health.databases import DatabaseServer, look
from tasks.registry.names import ClientNames


def server_of(postgres_server, **other) -> DatabaseServer:  # type: ignore[no-untyped-def]
    given = {
        "host": postgres_server.host,
        "port": postgres_server.port,
        "username": postgres_server.username,
        "password": postgres_server.password,
        "database": "postgres",
    }
    return DatabaseServer(**{**given, **other})


def test_one_query_tells_whose_database_is_there_and_whose_is_not(postgres_server) -> None:  # type: ignore[no-untyped-def]
    slug = f"t{secrets.token_hex(4)}"
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {ClientNames(slug).database}")
        try:
            assert look(server_of(postgres_server), [slug, "absent"]) == {
                "absent": "its database zero_client_absent does not exist; run provision-client for absent"
            }
        finally:
            connection.execute(f"DROP DATABASE {ClientNames(slug).database}")


def test_a_server_that_refuses_or_is_silent_is_said_of_every_client_without_the_password(postgres_server) -> None:  # type: ignore[no-untyped-def]
    wrong = look(server_of(postgres_server, password="hunter2-" + "x" * 8), ["a", "b"])
    assert set(wrong) == {"a", "b"} and wrong["a"] == wrong["b"]
    assert "refused the password of role postgres" in wrong["a"] and "hunter2" not in wrong["a"]
    assert "does not answer" in look(server_of(postgres_server, port=1), ["a"])["a"]

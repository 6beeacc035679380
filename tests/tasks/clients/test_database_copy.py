"""Copying a client's database and going back to the copy, as a restricted provisioner on a real PostgreSQL."""

import contextlib

import psycopg
import pytest

from tasks.clients import database_copy, postgres
from tasks.clients.database_copy import copy_name
from tasks.errors import Conflict
from tests.tasks.clients import test_postgres
from tests.tasks.clients.test_postgres import OWNER, make

provisioner, name = test_postgres.provisioner, test_postgres.name


def words(server, database: str, password: str) -> list[str]:
    """What the client sees in its table."""
    with server.connect(database, user=database, password=password) as connection:
        return [row[0] for row in connection.execute("SELECT word FROM kept ORDER BY word")]


def test_the_copy_lets_nobody_in_and_takes_the_databases_place_with_its_rights_and_settings(
    provisioner,
    name,
    postgres_server,
):
    password, owner = make(provisioner, name), OWNER.format(name)
    with postgres_server.connect(name, user=name, password=password) as client:
        client.execute("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
        with postgres_server.connect() as admin:
            admin.execute(f"ALTER DATABASE {name} SET search_path = public, elsewhere")
            admin.execute(f"ALTER ROLE {name} IN DATABASE {name} SET work_mem = '5MB'")
            admin.execute(f"GRANT CONNECT ON DATABASE {name} TO pg_monitor")
        assert database_copy.refuse_existing(provisioner, name) > 1_000_000
        copied = database_copy.make(provisioner, name, owner)
        with pytest.raises(psycopg.OperationalError):  # it was disconnected
            client.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match=r"permission denied|too many connections"):
        postgres_server.connect(copy_name(name), user=name, password=password)
    assert postgres.look(provisioner, name, password, owner).ready
    with pytest.raises(Conflict, match="no operation under way knows of"):
        database_copy.refuse_existing(provisioner, name)
    with postgres_server.connect(name, user=name, password=password) as client:
        client.execute("INSERT INTO kept VALUES ('too much')")
    for _ in range(2):
        assert database_copy.put_back(provisioner, name, copied) == ""
    assert postgres.ensure(provisioner, name, password, owner).ready
    assert words(postgres_server, name, password) == ["here"]
    with postgres_server.connect(name, user=name, password=password) as client:
        assert client.execute("SHOW search_path").fetchone() == ("public, elsewhere",)
        assert client.execute("SHOW work_mem").fetchone() == ("5MB",)
        client.execute("CREATE TABLE more ()")
    with postgres_server.connect() as admin:
        assert admin.execute("SELECT has_database_privilege('pg_monitor', %s, 'CONNECT')", (name,)).fetchone() == (
            True,
        )
        assert admin.execute("SELECT pg_has_role(%s, %s, 'USAGE')", (provisioner.username, name)).fetchone() == (False,)
        assert admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (copy_name(name),)).fetchone() is None


def test_a_copy_that_is_gone_or_a_database_that_was_replaced_is_said_and_nothing_is_dropped(
    provisioner,
    name,
    postgres_server,
):
    password, owner = make(provisioner, name), OWNER.format(name)
    copied = database_copy.make(provisioner, name, owner)
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres.ensure(provisioner, name, password, owner)
    assert "was replaced meanwhile and stays" in database_copy.put_back(provisioner, name, copied)
    database_copy.drop(provisioner, name, owner, copied)
    assert "is gone" in database_copy.put_back(provisioner, name, copied)
    assert postgres.look(provisioner, name, password, owner).ready


def test_somebody_whom_the_provisioner_may_not_disconnect_is_named(provisioner, name, postgres_server):
    make(provisioner, name)
    with (
        contextlib.closing(postgres_server.connect(name)),
        pytest.raises(Conflict, match=rf"database {name} at .* is in use by {postgres_server.username}"),
    ):
        database_copy.make(provisioner, name, OWNER.format(name))
    assert postgres.look(provisioner, name, "", OWNER.format(name)).faults == ("no password of its role is saved",)

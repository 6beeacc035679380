"""Databases and roles taken off a real PostgreSQL: what is ours goes, with sessions open; nothing else is touched."""

import secrets

import psycopg
import pytest

from tasks.clients import database_removal, postgres
from tasks.errors import Conflict, Refused
from tests.tasks.clients.test_postgres import OWNER, make, name, provisioner

__all__ = ["name", "provisioner"]


def there(postgres_server, name: str) -> tuple[bool, bool]:
    """Whether there are a role and a database ``name``."""
    with postgres_server.connect() as admin:
        role = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
        database = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
    return role is not None, database is not None


def test_database_and_role_go_although_the_client_is_connected_and_another_clients_stay(
    provisioner, name, postgres_server
):
    password, other = make(provisioner, name), make(provisioner, name + "_b")
    with postgres_server.connect(name, user=name, password=password) as session:
        session.execute("CREATE TABLE mail0_user (id int)")
        database_removal.remove(provisioner, name, OWNER.format(name))
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert there(postgres_server, name) == (False, False)
    assert postgres.can_connect(provisioner, name + "_b", other)
    database_removal.remove(provisioner, name, OWNER.format(name))
    assert not database_removal.look(provisioner, name, OWNER.format(name)).anything


def test_what_an_upgrade_kept_aside_goes_and_a_foreign_one_of_that_name_stays(provisioner, name, postgres_server):
    aside = database_removal.kept_aside(name)
    make(provisioner, name)
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE DATABASE {aside}")
        database_removal.remove(provisioner, name, OWNER.format(name))
        assert there(postgres_server, aside) == (False, True)
        admin.execute(f"DROP DATABASE {aside}")
        make(provisioner, name)
        admin.execute(f"ALTER DATABASE {name} RENAME TO {aside}")
    assert database_removal.look(provisioner, name, OWNER.format(name)).beside == (aside,)
    database_removal.remove(provisioner, name, OWNER.format(name))
    assert there(postgres_server, name) == there(postgres_server, aside) == (False, False)


def test_a_foreign_database_role_or_comment_is_left_alone(provisioner, name, postgres_server):
    make(provisioner, name)
    for act in (database_removal.look, database_removal.remove):
        with pytest.raises(Conflict, match="is not ours"):
            act(provisioner, name, "zero-fleet other: client x")
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER DATABASE {name} OWNER TO postgres")
    with pytest.raises(
        Conflict, match=f"hand the database over .ALTER DATABASE {name} OWNER TO {provisioner.username}"
    ):
        database_removal.remove(provisioner, name, OWNER.format(name))
    assert there(postgres_server, name) == (True, True)
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER DATABASE {name} OWNER TO {provisioner.username}")


def test_a_role_with_things_in_another_database_is_refused_before_anything_is_dropped(
    provisioner, name, postgres_server
):
    password, elsewhere = make(provisioner, name), f"crm_{secrets.token_hex(3)}"
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE DATABASE {elsewhere}")
        with postgres_server.connect(elsewhere) as inside:
            inside.execute(f"CREATE SCHEMA shared AUTHORIZATION {name}")
        admin.execute(f"GRANT CONNECT ON DATABASE template1 TO {name}")
        try:
            with pytest.raises(Conflict, match=f"things in {elsewhere}, template1 too, which is not touched"):
                database_removal.remove(provisioner, name, OWNER.format(name))
            assert postgres.can_connect(provisioner, name, password)
        finally:
            admin.execute(f"DROP DATABASE {elsewhere}")
            admin.execute(f"REVOKE CONNECT ON DATABASE template1 FROM {name}")
    database_removal.remove(provisioner, name, OWNER.format(name))


def test_a_role_that_the_provisioner_may_not_change_is_said_with_the_statement(provisioner, name, postgres_server):
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN")
        with pytest.raises(Refused, match=f"GRANT {name} TO {provisioner.username} WITH ADMIN OPTION"):
            database_removal.remove(provisioner, name, OWNER.format(name))
        admin.execute(f"GRANT {name} TO {provisioner.username} WITH ADMIN OPTION")
    database_removal.remove(provisioner, name, OWNER.format(name))
    assert there(postgres_server, name) == (False, False)

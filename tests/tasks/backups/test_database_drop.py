"""A database is dropped with whoever is on it, also while autovacuum works there and its owner is no superuser."""

import time

import psycopg
import pytest

from tasks import database_drop

PATIENCE = 60.0


@pytest.fixture
def database(provisioner, postgres_server):
    """A database of the provisioner's; gone afterwards."""
    name = f"dropped_{provisioner.user}"
    with _connected(provisioner) as owner:
        owner.execute(f"CREATE DATABASE {name}")
    yield name
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _connected(provisioner, name: str = "postgres") -> psycopg.Connection:
    return psycopg.connect(
        host=provisioner.host, port=provisioner.port, dbname=name, user=provisioner.user, password=provisioner.password,
        autocommit=True,
    )  # fmt: skip


@pytest.fixture
def eager(postgres_server):
    """Autovacuum looks every second."""
    with postgres_server.connect() as admin:
        admin.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        admin.execute("SELECT pg_reload_conf()")
        yield
        admin.execute("ALTER SYSTEM RESET autovacuum_naptime")
        admin.execute("SELECT pg_reload_conf()")


def test_autovacuum_at_work_and_an_own_session_do_not_hinder_it(provisioner, postgres_server, database, eager):
    with _connected(provisioner, database) as inside:
        inside.execute(
            "CREATE TABLE slow (id int) WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,"
            " autovacuum_vacuum_insert_threshold = 1, autovacuum_vacuum_threshold = 1)"
        )
        inside.execute("INSERT INTO slow SELECT generate_series(1, 200000)")
        inside.execute("DELETE FROM slow WHERE id % 2 = 0")
        deadline = time.monotonic() + PATIENCE
        with postgres_server.connect() as admin:
            working = "SELECT FROM pg_stat_activity WHERE datname = %s AND backend_type = 'autovacuum worker'"
            while admin.execute(working, (database,)).fetchone() is None:
                assert time.monotonic() < deadline, "autovacuum never came"
                time.sleep(0.1)
        with _connected(provisioner) as owner:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(f"DROP DATABASE {database} WITH (FORCE)")
            database_drop.drop(owner, database)
            assert owner.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone() is None


def test_another_roles_session_is_not_ended_and_the_database_stays(provisioner, postgres_server, database):
    with postgres_server.connect(database), _connected(provisioner) as owner:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied to terminate process"):
            database_drop.drop(owner, database)
        assert owner.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone() is not None
    with _connected(provisioner) as owner:
        database_drop.drop(owner, database)
        database_drop.drop(owner, database)

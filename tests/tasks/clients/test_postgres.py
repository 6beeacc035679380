"""Databases and roles on a real PostgreSQL: isolation, a restricted provisioner, faults put right, nothing foreign touched."""

import secrets
import threading

import psycopg
import pytest

from tasks.clients import postgres
from tasks.errors import Conflict, Refused, Unreachable

OWNER = "zero-fleet t: client {}"


@pytest.fixture
def provisioner(postgres_server):
    """A role with LOGIN CREATEROLE CREATEDB and no more, on a hardened server."""
    name, password = f"prov_{secrets.token_hex(3)}", secrets.token_hex(8)
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB PASSWORD '{password}'")
        connection.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
        connection.execute(f"GRANT CONNECT ON DATABASE postgres TO {name}")
    yield postgres.Server(postgres_server.host, postgres_server.port, name, password)
    with postgres_server.connect() as connection:
        for (database,) in connection.execute(
            "SELECT datname FROM pg_database WHERE datdba = %s::regrole", (name,)
        ).fetchall():
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {database}")
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


def superuser(server) -> postgres.Server:
    return postgres.Server(server.host, server.port, server.username, server.password)


@pytest.fixture
def name() -> str:
    return f"zero_client_p{secrets.token_hex(3)}"


def make(server: postgres.Server, name: str) -> str:
    password = secrets.token_urlsafe(8) + "@/:%'\""
    assert postgres.ensure(server, name, password, OWNER.format(name)).ready
    return password


def test_a_restricted_provisioner_makes_an_isolated_database(provisioner, name, postgres_server):
    password = make(provisioner, name)
    assert postgres.can_connect(provisioner, name, password)
    assert postgres.look(provisioner, name, password, OWNER.format(name)).ready
    with postgres_server.connect() as connection:
        owner, public = connection.execute(
            "SELECT pg_get_userbyid(datdba), has_database_privilege('public', oid, 'CONNECT') FROM pg_database "
            "WHERE datname = %s",
            (name,),
        ).fetchone()
    assert owner == provisioner.username and not public


def test_no_client_gets_into_the_database_of_another(provisioner, name, postgres_server):
    other = name + "_b"
    password, other_password = make(provisioner, name), make(provisioner, other)
    for role, secret, database in (
        (name, password, other),
        (other, other_password, name),
        (name, password, "postgres"),
    ):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            postgres_server.connect(database, user=role, password=secret)


def test_the_client_can_do_what_zero_does_and_cannot_open_or_drop_its_database(provisioner, name, postgres_server):
    password = make(provisioner, name)
    with postgres_server.connect(name, user=name, password=password) as connection:
        connection.execute("CREATE SCHEMA drizzle")
        connection.execute("CREATE TABLE mail0_x (id int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"DROP DATABASE {name}")
        # Without a grant option this grants nothing; what counts is what holds afterwards.
        connection.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
    assert postgres.look(provisioner, name, password, OWNER.format(name)).ready


def test_a_password_that_differs_is_put_right(provisioner, name):
    old = make(provisioner, name)
    state = postgres.look(provisioner, name, "new-password", OWNER.format(name))
    assert not state.ready and "password" in state.faults[0]
    assert postgres.ensure(provisioner, name, "new-password", OWNER.format(name)).ready
    assert postgres.can_connect(provisioner, name, "new-password")
    assert not postgres.can_connect(provisioner, name, old)


def test_a_password_that_is_not_saved_any_more_is_a_fault_and_a_new_one_is_set(provisioner, name):
    make(provisioner, name)
    state = postgres.look(provisioner, name, "", OWNER.format(name))
    assert state.faults == ("no password of its role is saved",)
    with pytest.raises(Refused, match=f"refused role {name}: no password given"):
        postgres.check_client(provisioner, name, "")
    assert postgres.ensure(provisioner, name, "new-password", OWNER.format(name)).ready


def test_a_role_that_may_not_make_tables_is_to_own_what_is_there(provisioner, name, postgres_server):
    password = make(provisioner, name)
    with postgres_server.connect(name) as connection:
        connection.execute(f"REVOKE ALL ON SCHEMA public FROM {name}")
    with pytest.raises(Refused, match=f"ALTER … OWNER TO {name}"):
        postgres.check_client(provisioner, name, password)


def test_a_database_that_somebody_opened_is_seen_and_closed(provisioner, name, postgres_server):
    password = make(provisioner, name)
    with postgres_server.connect() as connection:
        connection.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
    assert postgres.look(provisioner, name, password, OWNER.format(name)).faults == ("PUBLIC may connect to it",)
    assert postgres.ensure(provisioner, name, password, OWNER.format(name)).ready


def test_another_client_s_open_database_keeps_nobody_from_being_made(provisioner, name, postgres_server):
    make(provisioner, name)
    with postgres_server.connect() as connection:
        connection.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
        other = name + "_b"
        try:
            password = make(provisioner, other)
            seen = postgres.look(provisioner, other, password, OWNER.format(other))
            assert seen.ready and name in seen.open_to_all
        finally:
            connection.execute(f"DROP DATABASE IF EXISTS {other} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {other}")


def test_a_role_with_too_many_rights_fails_closed(postgres_server, name):
    server = superuser(postgres_server)
    password = make(server, name)
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER ROLE {name} SUPERUSER")
    with pytest.raises(Refused, match=r"not isolated .the role has rights over the whole server"):
        postgres.ensure(server, name, password, OWNER.format(name))
    with postgres_server.connect() as connection:
        (limit,) = connection.execute("SELECT datconnlimit FROM pg_database WHERE datname = %s", (name,)).fetchone()
        assert limit == 0
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")


def test_a_foreign_database_of_that_name_is_left_alone(provisioner, name, postgres_server):
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        for act in (postgres.look, postgres.ensure):
            with pytest.raises(Conflict, match=f"database {name} .* belongs to role postgres"):
                act(provisioner, name, "x", OWNER.format(name))
        with postgres_server.connect() as connection:
            assert not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    finally:
        with postgres_server.connect() as connection:
            connection.execute(f"DROP DATABASE {name}")


def test_another_fleets_database_is_left_alone(provisioner, name):
    make(provisioner, name)
    with pytest.raises(Conflict, match="is not ours"):
        postgres.ensure(provisioner, name, "x", "zero-fleet other: client x")


def test_no_log_of_the_server_holds_a_password(provisioner, name, postgres_server):
    with postgres_server.connect() as connection:
        connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        connection.execute("SELECT pg_reload_conf()")
    try:
        password = make(provisioner, name)
    finally:
        with postgres_server.connect() as connection:
            connection.execute("ALTER SYSTEM RESET log_statement")
            connection.execute("SELECT pg_reload_conf()")
    logged = b"".join(
        path.read_bytes() for path in postgres_server.home.rglob("*") if "log" in path.name and path.is_file()
    )
    assert f'ALTER ROLE "{name}" LOGIN'.encode() in logged
    assert password.encode() not in logged


def test_a_server_of_our_own_is_hardened_and_a_foreign_one_only_reported(postgres_server, name):
    with postgres_server.connect() as connection:
        connection.execute("GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC")
    foreign = superuser(postgres_server)
    password = make(foreign, name)
    state = postgres.look(foreign, name, password, OWNER.format(name))
    assert state.ready and {"postgres", "template1"} <= set(state.open_to_all)
    ours = postgres.Server(foreign.host, foreign.port, foreign.username, foreign.password, harden=True)
    assert not postgres.look(ours, name, password, OWNER.format(name)).ready
    assert not {"postgres", "template1"} & set(postgres.ensure(ours, name, password, OWNER.format(name)).open_to_all)
    with postgres_server.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")


def test_hardening_that_the_provisioner_cannot_do_is_said_with_the_statements(provisioner, name, postgres_server):
    ours = postgres.Server(provisioner.host, provisioner.port, provisioner.username, provisioner.password, harden=True)
    with postgres_server.connect() as connection:
        connection.execute("GRANT CONNECT ON DATABASE template1 TO PUBLIC")
        with pytest.raises(Refused, match="REVOKE CONNECT ON DATABASE template1 FROM PUBLIC"):
            make(ours, name)
        connection.execute("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC")
    assert make(ours, name)


def test_many_at_once_for_one_client_end_in_one_database(provisioner, name, soak):
    faults: list[BaseException] = []

    def act() -> None:
        try:
            postgres.ensure(provisioner, name, "the-password", OWNER.format(name))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=act) for _ in range(12 if soak else 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert postgres.can_connect(provisioner, name, "the-password")


def test_a_wrong_password_of_the_provisioner_says_so_without_it(postgres_server, name):
    server = postgres.Server(postgres_server.host, postgres_server.port, "postgres", "wrong-hunter22")
    with pytest.raises(Refused, match="refused the password of role postgres") as caught:
        postgres.look(server, name, "", "x")
    assert "hunter22" not in str(caught.value) and caught.value.__suppress_context__


def test_a_role_without_rights_is_told_which(provisioner, name, postgres_server):
    password = make(provisioner, name)
    weak = postgres.Server(postgres_server.host, postgres_server.port, name, password, maintenance_database=name)
    with pytest.raises(Refused, match="CREATEROLE CREATEDB"):
        postgres.look(weak, name + "_x", "", "x")


def test_a_server_that_is_down_is_unreachable(name):
    with pytest.raises(Unreachable, match=r"127.0.0.1:1 does not answer .connection refused"):
        postgres.look(postgres.Server("127.0.0.1", 1, "postgres", "x"), name, "", "x")

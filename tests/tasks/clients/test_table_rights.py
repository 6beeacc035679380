"""Rights on single tables: seen as the client's own role, given back where it owns the table, else said with the cure."""

import secrets

import pytest

from tasks.clients import postgres
from tasks.errors import Refused

OWNER = "zero-fleet t: client {}"


@pytest.fixture
def made(postgres_server):
    """A client's database with a table of its own: server, name, password."""
    name, password = f"zero_client_p{secrets.token_hex(3)}", secrets.token_urlsafe(8)
    server = postgres.Server(
        postgres_server.host, postgres_server.port, postgres_server.username, postgres_server.password
    )
    postgres.ensure(server, name, password, OWNER.format(name))
    with postgres_server.connect(name, user=name, password=password) as own:
        own.execute("CREATE TABLE mail0_user (id int)")
        own.execute('CREATE TABLE "Odd name" (id int)')
    yield server, name, password
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.execute(f"DROP ROLE {name}")


def test_rights_taken_from_single_tables_are_seen_and_given_back(made, postgres_server):
    server, name, password = made
    with postgres_server.connect(name) as admin:
        admin.execute(f'REVOKE ALL ON mail0_user, "Odd name" FROM {name}')
    (fault,) = postgres.look(server, name, password, OWNER.format(name)).faults
    assert fault == f'role {name} may not read and write "Odd name", mail0_user in its database'
    assert postgres.ensure(server, name, password, OWNER.format(name)).ready
    with postgres_server.connect(name, user=name, password=password) as own:
        own.execute('INSERT INTO "Odd name" VALUES (1)')


def test_a_table_of_zero_that_somebody_else_owns_is_said_with_the_cure(made, postgres_server):
    server, name, password = made
    with postgres_server.connect(name) as admin:
        admin.execute("CREATE TABLE mail0_note (id int)")
        admin.execute("CREATE TABLE monitoring (id int)")  # somebody's, and none of Zero's
    with pytest.raises(Refused, match=rf"may not read and write mail0_note in its .* OWNER TO {name}"):
        postgres.ensure(server, name, password, OWNER.format(name))

"""Another database in the place of a client's own, as a restricted provisioner on a real PostgreSQL."""

import contextlib

import psycopg
import pytest

from tasks.clients import database_removal, database_swap, postgres
from tasks.clients.database_copy import copy_name
from tasks.clients.database_swap import Pair, coming_name
from tasks.errors import Conflict
from tests.tasks.clients import test_postgres
from tests.tasks.clients.test_database_copy import words
from tests.tasks.clients.test_postgres import OWNER, make

provisioner, name = test_postgres.provisioner, test_postgres.name


def fill(server, database: str, role: str, password: str, word: str) -> None:
    """A table with one word in it, made as the client's role."""
    with server.connect(database, user=role, password=password) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (word,))


def there(server, name: str) -> dict[str, int]:
    """The client's databases and their connection limits."""
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT datname, datconnlimit FROM pg_database WHERE starts_with(datname, %s)", (name,)
        )
        return dict(rows.fetchall())


def test_the_new_one_takes_the_place_with_rights_and_settings_and_goes_back_again(provisioner, name, postgres_server):
    password, owner = make(provisioner, name), OWNER.format(name)
    fill(postgres_server, name, name, password, "old")
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER DATABASE {name} SET search_path = public, elsewhere")
        admin.execute(f"GRANT CONNECT ON DATABASE {name} TO pg_monitor")
    database_swap.refuse_existing(provisioner, name)
    pair = database_swap.make(provisioner, name, owner)
    fill(postgres_server, coming_name(name), name, password, "new")
    assert words(postgres_server, name, password) == ["old"]
    assert not database_swap.swapped(provisioner, name, pair)
    with pytest.raises(
        Conflict, match=f"there is a database {coming_name(name)} at .* that no operation under way knows of"
    ):
        database_swap.refuse_existing(provisioner, name)
    with postgres_server.connect(name, user=name, password=password) as client:
        for _ in range(2):
            database_swap.swap(provisioner, name, pair)
        with pytest.raises(psycopg.OperationalError):  # it was disconnected
            client.execute("SELECT 1")
    assert database_swap.swapped(provisioner, name, pair)
    assert postgres.ensure(provisioner, name, password, owner).ready
    assert postgres.look(provisioner, name, password, owner).ready
    assert words(postgres_server, name, password) == ["new"]
    assert there(postgres_server, name) == {name: 60, copy_name(name): 0}
    with postgres_server.connect(name, user=name, password=password) as client:
        assert client.execute("SHOW search_path").fetchone() == ("public, elsewhere",)
    for _ in range(2):
        assert database_swap.put_back(provisioner, name, pair) == ""
    assert postgres.ensure(provisioner, name, password, owner).ready
    assert words(postgres_server, name, password) == ["old"]
    assert there(postgres_server, name) == {name: 60}
    with postgres_server.connect() as admin:
        assert admin.execute("SELECT has_database_privilege('pg_monitor', %s, 'CONNECT')", (name,)).fetchone() == (
            True,
        )
        assert admin.execute("SELECT pg_has_role(%s, %s, 'USAGE')", (provisioner.username, name)).fetchone() == (False,)


def test_the_old_one_goes_when_the_new_one_is_kept_and_the_new_one_when_it_is_not(provisioner, name, postgres_server):
    password, owner = make(provisioner, name), OWNER.format(name)
    fill(postgres_server, name, name, password, "old")
    database_swap.drop_new(provisioner, name, owner)
    pair = database_swap.make(provisioner, name, owner)
    with postgres_server.connect(coming_name(name), user=name, password=password):  # somebody still fills it
        database_swap.drop_new(provisioner, name, owner, Pair(pair.old, pair.new + 1))
        assert coming_name(name) in there(postgres_server, name)
        database_swap.drop_new(provisioner, name, owner, pair)
    assert there(postgres_server, name) == {name: 60}
    pair = database_swap.make(provisioner, name, owner)
    database_swap.drop_old(provisioner, name, pair)
    database_swap.swap(provisioner, name, pair)
    database_swap.drop_old(provisioner, name, pair)
    assert there(postgres_server, name) == {name: 60}


def test_what_was_replaced_meanwhile_is_left_alone_in_words(provisioner, name, postgres_server):
    password, owner = make(provisioner, name), OWNER.format(name)
    pair = database_swap.make(provisioner, name, owner)
    with pytest.raises(Conflict, match="was replaced meanwhile"):
        database_swap.swap(provisioner, name, Pair(pair.old, pair.new + 1))
    database_swap.swap(provisioner, name, pair)
    assert "was replaced meanwhile and stays" in database_swap.put_back(provisioner, name, Pair(pair.old, pair.new + 1))
    database_swap.drop_old(provisioner, name, pair)
    assert "is gone, so it stays as restored" in database_swap.put_back(provisioner, name, pair)
    postgres.ensure(provisioner, name, password, owner)
    assert postgres.look(provisioner, name, password, owner).ready


def test_somebody_whom_the_provisioner_may_not_disconnect_is_named_and_nothing_is_swapped(
    provisioner, name, postgres_server
):
    password, owner = make(provisioner, name), OWNER.format(name)
    fill(postgres_server, name, name, password, "old")
    pair = database_swap.make(provisioner, name, owner)
    with (
        contextlib.closing(postgres_server.connect(name)),
        pytest.raises(Conflict, match=rf"database {name} at .* is in use by {postgres_server.username}"),
    ):
        database_swap.swap(provisioner, name, pair)
    assert words(postgres_server, name, password) == ["old"]
    assert set(there(postgres_server, name)) == {name, coming_name(name)}


def test_a_client_that_goes_takes_what_a_restore_left_along(provisioner, name, postgres_server):
    make(provisioner, name)
    database_swap.make(provisioner, name, OWNER.format(name))
    assert database_removal.look(provisioner, name, OWNER.format(name)).beside == (coming_name(name),)
    database_removal.remove(provisioner, name, OWNER.format(name))
    assert there(postgres_server, name) == {}

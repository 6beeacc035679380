"""Half-made databases, loading into them, and a block's database replaced, on a real server as roles that are no superusers."""

import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from tasks.backups import dated, halfmade, loading, proof, replacing, safety, survey, sweeping
from tasks.backups.dump import dump
from tasks.backups.halfmade import HalfMade
from tasks.backups.keeper import Keeper
from tasks.backups.loading import Loading
from tasks.backups.replacing import Place
from tasks.backups.source import Database, Target
from tasks.errors import Conflict, Damaged, NotFound, Refused

SHOP = Target(database="shop")


@pytest.fixture
def app(postgres_server) -> Iterator[Database]:
    """A database that an application owns, whose role may make more."""
    name, password = f"shop_{secrets.token_hex(4)}", secrets.token_hex(8)
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{password}'")
        admin.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8'")
        admin.execute(f"GRANT CONNECT ON DATABASE postgres TO {name}")
    with postgres_server.connect(name, user=name, password=password) as own:
        own.execute("CREATE TABLE kept (note text); INSERT INTO kept VALUES ('old')")
    yield Database(postgres_server.host, postgres_server.port, name, name, password)
    with postgres_server.connect() as admin:
        for (database,) in admin.execute(
            "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s OR starts_with(datname, %s)",
            (name, name),
        ).fetchall():
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
        admin.execute(f"DROP OWNED BY {name}")
        admin.execute(f"DROP ROLE {name}")


@pytest.fixture
def place(app: Database, fleet: str) -> Place:
    return Place(app, halfmade.maintenance(app), fleet, SHOP)


@pytest.fixture
def half(place: Place) -> HalfMade:
    """A database that is ready to take the place, with another note in it."""
    made = halfmade.of(place.fleet, SHOP.key)
    with halfmade.connected(place.server) as connection:
        halfmade.make(connection, made, "", place.database.name)
    with survey.connected(replace(place.server, name=made.name), 10) as connection:
        connection.execute("CREATE TABLE kept (note text); INSERT INTO kept VALUES ('new')")
    return made


def notes(database: Database) -> list[str]:
    with survey.connected(database, 10) as connection:
        return [row[0] for row in connection.execute("SELECT note FROM kept ORDER BY note")]


def names(postgres_server, app: Database) -> set[str]:
    """Databases that are called like the application's, or half made."""
    with postgres_server.connect() as admin:
        rows = admin.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (app.name,)).fetchall()
        rows += admin.execute(
            "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s AND starts_with(datname, 'zero_restore_')",
            (app.user,),
        ).fetchall()
        return {row[0] for row in rows}


def test_an_application_that_connects_again_and_again_meets_one_of_the_two_and_never_none(place, half, postgres_server):
    seen: list[str] = []
    ended = threading.Event()

    def use() -> None:
        while not ended.is_set():
            try:
                with psycopg.connect(
                    host=place.database.host, port=place.database.port, dbname=place.database.name,
                    user=place.database.user, password=place.database.password, autocommit=True,
                ) as session:  # fmt: skip
                    seen.extend(session.execute("SELECT note FROM kept").fetchone()[0] for _ in range(50))
            except psycopg.OperationalError as error:
                seen.append(f"error: {error}")

    users = [threading.Thread(target=use) for _ in range(3)]
    for one in users:
        one.start()
    with halfmade.connected(place.server) as connection:
        replacing.refuse(connection, place)
        saved_at = replacing.written(connection, place.database.name)
    replacing.swap(place, half, saved_at)
    length = len(seen)
    while len(seen) < length + 200:
        threading.Event().wait(0.05)
    ended.set()
    for one in users:
        one.join()
    words = [note for note in seen if not note.startswith("error: ")]
    assert words == sorted(words, reverse=True) and set(words) == {"old", "new"}
    assert names(postgres_server, place.database) == {place.database.name, place.old}
    with halfmade.connected(place.server) as connection:
        assert replacing.left(connection, place) == saved_at
        assert not replacing.unsaved(connection, place)
        assert not replacing.put_back(connection, place)
        replacing.drop_old(connection, place)
        assert replacing.left(connection, place) is None
    assert notes(place.database) == ["new"] and names(postgres_server, place.database) == {place.database.name}


def test_what_was_written_since_is_seen_and_a_database_that_is_gone_comes_back(place, half, postgres_server):
    with halfmade.connected(place.server) as connection:
        saved_at = replacing.written(connection, place.database.name)
        with survey.connected(place.database, 10) as own:
            own.execute("UPDATE kept SET note = 'changed'")
        replacing.swap(place, half, saved_at)
        assert replacing.unsaved(connection, place)
        connection.execute(f"DROP DATABASE {place.database.name} WITH (FORCE)")
        assert replacing.put_back(connection, place)
    assert notes(place.database) == ["changed"] and names(postgres_server, place.database) == {place.database.name}


def test_a_session_that_stays_refuses_the_swap_and_both_databases_are_as_they_were(place, half, postgres_server):
    with (
        postgres_server.connect(place.database.name),
        pytest.raises(
            Conflict, match=f"is in use by {postgres_server.username}, whom {place.database.user} may not disc"
        ),
    ):
        replacing.swap(place, half, 1)
    assert notes(place.database) == ["old"]
    assert names(postgres_server, place.database) == {place.database.name, half.name}


def test_a_superusers_block_gives_the_restored_database_and_its_tables_to_their_owners(
    app, fleet, postgres_server, tmp_path, job, pg_bin
):
    super_user = replace(app, user=postgres_server.username, password=postgres_server.password)
    place = Place(super_user, halfmade.maintenance(super_user), fleet, SHOP)
    path = tmp_path / "backups" / "latest_backup.sql.gz"
    made = dump(replace(job, target=SHOP, database=super_user, path=path))
    half = halfmade.of(fleet, SHOP.key)
    with halfmade.connected(place.server) as connection:
        halfmade.make(connection, half, made.encoding, app.name)
    rights = loading.without_database(made.grants)
    into = Loading(replace(place.server, name=half.name), 60, pg_bin, rights=rights)
    with path.open("rb") as file:
        proven = proof.prove(file, path, SHOP, True, 16, app.server)
        loaded = loading.load(file, proven, into)
    assert (loaded.tables, loaded.rows, loaded.compared, loaded.kept_rights) == (1, 1, True, ())
    replacing.swap(place, half, None)
    with survey.connected(app, 10) as own:
        assert own.execute(
            "SELECT pg_get_userbyid(datdba), (SELECT tableowner FROM pg_tables WHERE tablename = 'kept') FROM pg_database "
            "WHERE datname = current_database()"
        ).fetchone() == (app.user, app.user)


def test_rights_of_roles_that_are_not_there_are_told_and_the_rest_is_loaded(
    app, fleet, job, tmp_path, pg_bin, provisioner
):
    path = tmp_path / "backups" / "latest_backup.sql.gz"
    made = dump(replace(job, target=SHOP, database=app, path=path))
    half = halfmade.of(fleet, SHOP.key)
    with halfmade.connected(provisioner) as connection:
        halfmade.make(connection, half, made.encoding, "")
        try:
            rights = "GRANT SELECT ON kept TO nobody_here;\nGRANT SELECT ON kept TO PUBLIC;\nALTER TABLE kept OWNER TO postgres;"
            into = Loading(replace(provisioner, name=half.name), 60, pg_bin, rights=rights)
            with path.open("rb") as file:
                loaded = loading.load(file, proof.prove(file, path, SHOP, True, 16, app.server), into)
            assert "2 owners or rights could not be given back" in loaded.rights_left, loaded.rights_left
            assert 'role "nobody_here" does not exist' in loaded.rights_left
            with survey.connected(into.database, 10) as own:
                assert own.execute("SELECT has_table_privilege('public', 'kept', 'SELECT')").fetchone() == (True,)
        finally:
            halfmade.drop(connection, half)


def test_what_does_not_restore_to_its_manifest_or_is_cancelled_or_late_is_said(app, place, job, tmp_path, pg_bin):
    path = tmp_path / "backups" / "latest_backup.sql.gz"
    made = dump(replace(job, target=SHOP, database=app, path=path))
    half = halfmade.of(place.fleet, SHOP.key)
    cancelled = threading.Event()
    cancelled.set()
    into = Loading(replace(place.server, name=half.name), 60, pg_bin)
    for given, other, words in (
        (into, {"rows": {"public.kept": 2}}, "differs from what was dumped: table public.kept has 1 row instead of 2"),
        (into, {"schema": {**made.schema, "TABLE public.more": "1"}}, "table public.more is missing"),
        (replace(into, cancelled=cancelled), {}, "the restore was cancelled"),
        (replace(into, seconds=0.001), {}, "ended after 0.001 s"),
    ):
        with path.open("rb") as file, halfmade.connected(place.server) as connection:
            halfmade.make(connection, half, made.encoding, "")
            proven = proof.Proven(path, replace(made, **other), made.raw_bytes)
            with pytest.raises((Damaged, Refused, loading.restore.Unreachable), match=words):
                loading.load(file, proven, given)
            assert halfmade.drop(connection, half)


def test_a_half_made_database_gets_its_name_at_the_end_only_and_a_namesake_is_left_alone(place, half, postgres_server):
    with halfmade.connected(place.server) as connection:
        halfmade.make(connection, half, "LATIN1", "")
        assert halfmade.left(connection, place.fleet) == {half.name: SHOP.key}
        with pytest.raises(Conflict, match=f"there is a database {place.database.name} at"):
            halfmade.refuse(connection, place.server, place.database.name)
        with pytest.raises(Conflict, match="somebody made a database"):
            halfmade.give_name(connection, half, place.database.name, "x", False)
        halfmade.give_name(connection, half, f"{place.database.name}_new", "restored", True)
        assert not halfmade.drop(connection, half)
        with pytest.raises(NotFound, match="was dropped while it was filled"):
            halfmade.give_name(connection, half, f"{place.database.name}_newer", "restored", True)
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datconnlimit, has_database_privilege('public', oid, 'CONNECT') "
            "FROM pg_database WHERE datname = %s",
            (f"{place.database.name}_new",),
        ).fetchone()
        assert row == ("LATIN1", -1, True)
        with postgres_server.connect() as admin:
            admin.execute(f"CREATE DATABASE {half.name}")
            try:
                with pytest.raises(Conflict, match="that no restore of ours made"):
                    halfmade.drop(connection, half)
            finally:
                admin.execute(f"DROP DATABASE {half.name}")


def test_killed_restores_of_others_are_swept_unless_somebody_works_on_them(place, half, registry, tmp_path):
    keeper = Keeper(registry, tmp_path / "locks", "run-1", "UTC")
    with keeper.hold(f"restore-{SHOP.key}", "restore of shop"):
        assert sweeping.sweep(keeper, place.server, place.fleet, Target(database="other")) == []
    assert sweeping.sweep(keeper, place.server, "another", Target(database="other")) == []
    assert sweeping.sweep(keeper, place.server, place.fleet, Target(database="other")) == [half.name]
    with halfmade.connected(place.server) as connection:
        halfmade.make(connection, half, "", "")
        connection.execute(f"COMMENT ON DATABASE {half.name} IS NULL")  # killed in the moment after it was made
    assert sweeping.sweep(keeper, place.server, place.fleet, SHOP) == [half.name]


def test_a_safety_backup_is_a_file_of_its_own_and_a_failed_one_leaves_nothing(app, job, registry, tmp_path):
    keeper = Keeper(registry, tmp_path / "locks", "run-1", "UTC")
    latest = tmp_path / "backups" / "latest_backup.sql.gz"
    mine = replace(job, target=SHOP, database=app, path=latest, taken_for=dated.SAFETY)
    made = safety.back_up(keeper, mine)
    assert made.path.name.startswith("before-restore-shop-") and made.path.parent == dated.folder(latest)
    assert [(one.path, one.safety) for one in dated.listed(latest)] == [(made.path, True)]
    assert not latest.exists()
    with pytest.raises(Refused):
        safety.back_up(keeper, replace(mine, database=replace(app, password="wrong")))
    assert {one.name for one in dated.folder(latest).iterdir()} == {made.path.name, f"{made.path.name}.json"}


def test_the_registrys_own_database_is_known_by_its_session(place, postgres_server):
    for name, its in ((place.database.name, True), ("postgres", False)):
        with postgres_server.connect(name) as session:
            told = session.execute("SELECT pg_backend_pid(), current_database()::text, current_user::text").fetchone()
            assert replacing.holds_registry(place, told) is its
            assert not replacing.holds_registry(place, (0, *told[1:]))


def test_a_name_that_is_as_long_as_can_be_is_cut_for_the_old_one(place):
    long = replace(place, database=replace(place.database, name="ä" * 31))
    assert long.old == "ä" * 27 + "__before"

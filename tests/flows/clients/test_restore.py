"""restore-database over a client's database, and into a new one, on the real engine, PostgreSQL and Prefect server."""

import asyncio
import contextlib
import gzip
import json
import random
import socket
from types import SimpleNamespace

import httpx
import psycopg
import pytest
from sqlmodel import Session, select

from blocks.backups import BackupPolicy
from blocks.installation import installation
from flows.backups.backup import backup_database
from flows.backups.restore import restore_database
from flows.clients.deprovision import deprovision_client
from flows.clients.stop import stop_zero
from tasks.backups import dump
from tasks.clients.steps import operation
from tasks.registry import queries
from tasks.registry.lock import hold
from tasks.registry.models import BackupKind, BackupRun, Status
from tasks.registry.names import ClientNames
from tasks.registry.spec import SpecChanges
from tests.flows.clients.test_provision import run, secrets_of, wanted
from tests.flows.clients.test_restore_by_hand import provisioner
from tests.standins.zero import variants

__all__ = ["provisioner"]
_PORTS = iter(random.sample(range(21_000, 29_000), 1000))


@pytest.fixture
async def backups(house, pg_bin, tmp_path, monkeypatch):
    """Where this test's backups go."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    await BackupPolicy(directory=str(tmp_path / "backups")).asave("backup-policy", overwrite=True)
    yield tmp_path / "backups"
    await BackupPolicy.adelete("backup-policy")


def steady(image: str, **changes) -> SpecChanges:
    """A spec with a port of this client's own: another test session's may take an allocated one while ours stands still."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return wanted(image, host_port=port, **changes)
    raise AssertionError("no port is free")


async def restored(client: str, backup: str = "latest", **other):
    """The flow's final state; over the client's database unless ``into`` is given."""
    given = {"confirm": "" if other.get("into") else client, **other}
    return await restore_database(client, None, backup, **given, return_state=True)


async def own(postgres_server, slug: str):
    """A connection of the client's role to its database."""
    names, password = ClientNames(slug), (await secrets_of(slug)).database_password.get_secret_value()
    return postgres_server.connect(names.database, user=names.role, password=password)


async def kept(postgres_server, slug: str) -> list[str]:
    """What the client's own role reads in its table."""
    with await own(postgres_server, slug) as connection:
        return [row[0] for row in connection.execute("SELECT note FROM kept ORDER BY note")]


async def write(postgres_server, slug: str, *notes: str) -> None:
    """Write rows as the client does."""
    with await own(postgres_server, slug) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (note text)")
        for note in notes:
            connection.execute("INSERT INTO kept VALUES (%s)", (note,))


def databases(postgres_server, slug: str) -> list[tuple[str, int]]:
    """Databases that are called like the client's, or are half made for it, with their connection limits."""
    with postgres_server.connect() as connection:
        return connection.execute(
            "SELECT datname, datconnlimit FROM pg_database WHERE starts_with(datname, %s) OR starts_with(datname, 'zero_restore_') "
            "ORDER BY 1",
            (ClientNames(slug).database,),
        ).fetchall()


def serves(slug: str, house) -> bool:
    row = queries.get_instance(house, slug)
    found = httpx.get(f"http://127.0.0.1:{row.host_port}/api/auth/ok", trust_env=False)
    return bool(found.json() == {"ok": True})


async def settled(house, docker_client, postgres_server, slug: str, owner: str = "") -> None:
    """One container that serves and starts by itself, one database with a client's rights, nothing under way."""
    names, row = ClientNames(slug), queries.get_instance(house, slug)
    assert (row.pending, row.status) == (None, Status.RUNNING), (row.pending, row.status, row.last_error)
    assert databases(postgres_server, slug) == [(names.database, 60)]
    (found,) = docker_client.api.containers(all=True, filters={"label": f"zero-fleet.client={slug}"})
    assert (found["Id"], found["Names"]) == (row.container_id, [f"/{names.container}"])
    inspected = docker_client.api.inspect_container(found["Id"])
    assert inspected["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    with postgres_server.connect() as admin:
        assert admin.execute(
            "SELECT has_database_privilege('public', oid, 'CONNECT'), shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba) "
            "FROM pg_database WHERE datname = %s",
            (names.database,),
        ).fetchone() == (False, f"zero-fleet {installation().fleet}: client {slug}", owner or postgres_server.username)
    with postgres_server.connect(names.database) as admin:
        owners = admin.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert owners == [(names.role,)]
    assert serves(slug, house)


async def test_a_backup_goes_over_a_clients_database_and_what_was_there_is_saved(
    provisioner, house, zero_image, slug, docker_client, postgres_server, backups
):
    assert (await run(slug, steady(zero_image))).is_completed()
    await write(postgres_server, slug, "before")
    assert (await backup_database(slug, return_state=True)).is_completed()
    latest = (backups / slug / "latest_backup.sql.gz").read_bytes()
    await write(postgres_server, slug, "after")
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER DATABASE {ClientNames(slug).database} SET search_path = public, drizzle")
        admin.execute(f"GRANT CONNECT ON DATABASE {ClientNames(slug).database} TO pg_monitor")
    container = queries.get_instance(house, slug).container_id
    state = await restored(slug)
    assert state.is_completed(), state.message
    assert await kept(postgres_server, slug) == ["before"]
    assert queries.get_instance(house, slug).container_id == container
    await settled(house, docker_client, postgres_server, slug, provisioner[0])
    with await own(postgres_server, slug) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("public, drizzle",)
        assert connection.execute(
            "SELECT has_database_privilege('pg_monitor', current_database(), 'CONNECT')"
        ).fetchone() == (True,)
    (safety,) = (backups / slug / "dated_backups").glob("before-restore-*.sql.gz")
    port = queries.get_instance(house, slug).host_port
    for words in (
        f"client {slug}: its database is restored from {backups}/{slug}/latest_backup.sql.gz (taken 20",
        "14 tables with 2 rows and the schema's ",
        " loaded and compared equal in ",
        f"; what it was before lies in {safety}; it serves again at http://localhost:{port}",
    ):
        assert words in state.message, state.message
    assert b"\nafter\n" in gzip.decompress(safety.read_bytes())
    assert (backups / slug / "latest_backup.sql.gz").read_bytes() == latest
    with Session(house) as session:
        rows = session.exec(select(BackupRun).where(BackupRun.target == f"client:{slug}")).all()
    assert [(row.kind, row.status) for row in rows] == [(BackupKind.REGULAR, "good"), (BackupKind.SAFETY, "good")]
    assert rows[1].path == rows[1].dated_path == str(safety)

    # And back again, by the name of the safety backup.
    again = await restored(slug, safety.name)
    assert again.is_completed(), again.message
    assert await kept(postgres_server, slug) == ["after", "before"]
    await settled(house, docker_client, postgres_server, slug, provisioner[0])


POISON = (
    "DO $$ BEGIN IF EXISTS (SELECT FROM pg_tables WHERE tablename = 'poison') THEN RAISE 'poisoned'; END IF; END $$"
)


@pytest.fixture(scope="session")
def picky_image(docker_client, zero_image):
    """An image that does not start on a database with a table called poison."""
    with variants.kept(docker_client, "picky", sql=POISON) as tag:
        yield tag


async def test_a_service_that_does_not_serve_on_the_restored_database_gets_the_old_one_back(
    house, picky_image, slug, docker_client, postgres_server, backups
):
    assert (await run(slug, steady(picky_image))).is_completed()
    await write(postgres_server, slug, "before")
    with await own(postgres_server, slug) as connection:
        connection.execute("CREATE TABLE poison ()")
    assert (await backup_database(slug, return_state=True)).is_completed()
    with await own(postgres_server, slug) as connection:
        connection.execute("DROP TABLE poison")
    await write(postgres_server, slug, "after")
    port = queries.get_instance(house, slug).host_port
    state = await restored(slug)
    assert state.is_failed()
    assert state.message.startswith(f"{slug}: the restore of {backups}/{slug}/latest_backup.sql.gz (taken 20"), (
        state.message
    )
    assert f"the old database serves again at http://localhost:{port}" in state.message, state.message
    assert await kept(postgres_server, slug) == ["after", "before"]
    await settled(house, docker_client, postgres_server, slug)
    assert "the old database serves again" in (queries.get_instance(house, slug).last_error or "")
    assert "nothing to change" in (await run(slug)).message


async def test_a_client_without_a_running_container_gets_its_database_only(
    house, zero_image, slug, docker_client, postgres_server, backups
):
    assert (await run(slug, steady(zero_image, enabled=False))).is_completed()
    await write(postgres_server, slug, "before")
    assert (await backup_database(slug, return_state=True)).is_completed()
    await write(postgres_server, slug, "after")
    state = await restored(slug)
    assert state.is_completed() and "its container was not running (created), and was not started" in state.message
    assert await kept(postgres_server, slug) == ["before"]
    row = queries.get_instance(house, slug)
    assert (row.pending, row.status) == (None, Status.DISABLED)
    docker_client.api.remove_container(ClientNames(slug).container, force=True)
    await write(postgres_server, slug, "after")
    state = await restored(slug)
    assert state.is_completed() and "there is no container, so nothing was started" in state.message, state.message
    assert await kept(postgres_server, slug) == ["before"]

    assert (await run(slug, SpecChanges(enabled=True))).is_completed()
    assert (await stop_zero([slug], return_state=True)).is_completed()
    await write(postgres_server, slug, "after")
    state = await restored(slug)
    assert state.is_completed() and "its container was not running (exited), and was not started" in state.message
    assert (await kept(postgres_server, slug), queries.get_instance(house, slug).status) == (["before"], Status.STOPPED)
    assert databases(postgres_server, slug) == [(ClientNames(slug).database, 60)]


async def test_a_backup_goes_into_a_new_database_that_no_client_gets_into_also_when_its_client_is_gone(
    house, zero_image, slug, postgres_server, backups
):
    assert (await run(slug, steady(zero_image, enabled=False))).is_completed()
    await write(postgres_server, slug, "before")
    assert (await backup_database(slug, return_state=True)).is_completed()
    names, password = ClientNames(slug), (await secrets_of(slug)).database_password.get_secret_value()
    new = f"look_{names.database}"
    try:
        state = await restored(slug, into=new)
        assert state.is_completed(), state.message
        assert (
            f"is restored into the new database {new} at 127.0.0.1:{postgres_server.port}: 1 table with 1 row"
            in state.message
        )
        with postgres_server.connect(new) as admin:
            assert admin.execute("SELECT note FROM kept").fetchall() == [("before",)]
            assert admin.execute(
                "SELECT datconnlimit, pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') FROM pg_database "
                "WHERE datname = current_database()"
            ).fetchone()[:2] == (-1, new)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            postgres_server.connect(new, user=names.role, password=password)
        again = await restored(slug, into=new)
        assert again.is_failed() and f"there is a database {new} at " in again.message
        assert (await deprovision_client(slug, slug, False, return_state=True)).is_completed()
        state = await restored(slug, into=f"{new}_2")
        assert state.is_completed(), state.message
        over = await restored(slug)
        assert over.is_failed() and f"there is no client {slug!r}" in over.message
        assert databases(postgres_server, slug) == []
    finally:
        with postgres_server.connect() as admin:
            for name in (new, f"{new}_2"):
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                admin.execute(f"DROP ROLE IF EXISTS {name}")


async def test_what_cannot_be_restored_is_refused_before_the_client_is_touched(
    house, zero_image, slug, docker_client, postgres_server, backups, monkeypatch
):
    assert (await run(slug, steady(zero_image))).is_completed()
    await write(postgres_server, slug, "here")
    assert (await backup_database(slug, return_state=True)).is_completed()
    names, folder = ClientNames(slug), backups / slug
    before = docker_client.api.inspect_container(names.container)
    cut = folder / "cut.sql.gz"
    cut.write_bytes((folder / "latest_backup.sql.gz").read_bytes()[:-40])
    (folder / "cut.sql.gz.json").write_bytes((folder / "latest_backup.sql.gz.json").read_bytes())
    foreign = folder / "foreign.sql.gz"
    foreign.write_bytes((folder / "latest_backup.sql.gz").read_bytes())
    told = json.loads((folder / "latest_backup.sql.gz.json").read_text()) | {"target": "client:beta"}
    (folder / "foreign.sql.gz.json").write_text(json.dumps(told))
    wrong = folder / "wrong.sql.gz"
    wrong.write_bytes(gzip.compress(_dump(b"CREATE TABLE kept (note text);\nCREATE nonsense;\n")))
    for backup, words in (
        ("cut.sql.gz", "it was cut or replaced, so nothing was restored; give another backup"),
        ("foreign.sql.gz", f"is a backup of client beta, not of client {slug}; restore it into a new database"),
        (
            str(wrong),
            f"{slug}: the restore of {wrong} (without a manifest) failed: {wrong} does not restore (syntax error at",
        ),
        ("2020-01-01", "there is no backup of client"),
    ):
        state = await restored(slug, backup)
        assert state.is_failed() and words in state.message, state.message
    assert (
        "its database and its container are as before; give another backup"
        in (await restored(slug, str(wrong))).message
    )
    with monkeypatch.context() as full:
        full.setattr(dump, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=100)))
        state = await restored(slug)
    assert state.is_failed() and "has 100 bytes free where the backup may need" in state.message, state.message
    assert "or, when it can not be saved any more, run again with safety_backup=false" in state.message
    wrong_confirm = await restored(slug, confirm="beta")
    assert wrong_confirm.is_failed() and f"repeat {slug} in confirm" in wrong_confirm.message
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE DATABASE {names.database}__before")
        state = await restored(slug)
        assert state.is_failed() and f"there is a database {names.database}__before at" in state.message
        admin.execute(f"DROP DATABASE {names.database}__before")
    after = docker_client.api.inspect_container(names.container)
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert await kept(postgres_server, slug) == ["here"]
    await settled(house, docker_client, postgres_server, slug)


def _dump(statements: bytes, version: int = 16) -> bytes:
    """What pg_dump would write around ``statements``."""
    head = f"--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version {version}.1\n\n"
    return head.encode() + statements + b"\n--\n-- PostgreSQL database dump complete\n--\n\n"


async def test_a_second_restore_of_a_client_waits_and_then_says_who_holds_it(
    house, zero_image, slug, postgres_server, backups, monkeypatch
):
    assert (await run(slug, steady(zero_image, enabled=False))).is_completed()
    await write(postgres_server, slug, "before")
    assert (await backup_database(slug, return_state=True)).is_completed()
    states = await asyncio.gather(*(asyncio.to_thread(_in_a_loop, slug) for _ in range(2)))
    assert all(state.is_completed() for state in states), [state.message for state in states]
    short = operation.hold
    monkeypatch.setattr(operation, "hold", lambda *given, **named: short(*given, **{**named, "wait": 0.5}))
    with hold(house, slug, f"run 12345678 (restore {slug})", installation().locks):
        state = await restored(slug)
    assert state.is_failed() and f"{slug} is held by run 12345678 (restore {slug}) since" in state.message
    assert await kept(postgres_server, slug) == ["before"]


def _in_a_loop(slug: str):
    return asyncio.run(restored(slug))

"""upgrade-zero on the real engine, a real PostgreSQL and a real Prefect server."""

from pathlib import Path

import httpx
import pytest

from blocks.installation import installation
from flows.clients.upgrade import upgrade_zero
from tasks.backups.history import latest_good
from tasks.backups.source import target
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import ClientNames
from tests.flows.clients.test_provision import run, wanted


@pytest.fixture(autouse=True)
def programs(pg_bin, monkeypatch):
    """Where pg_dump is."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)


async def upgrade(clients: list[str], image: str, **others):
    """The flow's final state."""
    return await upgrade_zero(clients, image, **others, return_state=True)


def put_rows(postgres_server, slug: str) -> None:
    """Something that an upgrade must not lose."""
    names = ClientNames(slug)
    with postgres_server.connect(names.database) as connection:
        connection.execute(f"SET ROLE {names.role}")
        connection.execute("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")


def only_one_of_each(house, docker_client, postgres_server, slug: str, image: str) -> None:
    """One container, of ``image``, serving on the client's port; one database, that its own role gets into; nothing under way."""
    names, row = ClientNames(slug), queries.get_instance(house, slug)
    assert (row.pending, row.status, row.spec["image"], row.image) == (None, Status.RUNNING, image, image)
    (found,) = docker_client.api.containers(all=True, filters={"label": f"zero-fleet.client={slug}"})
    assert (found["Id"], found["Names"]) == (row.container_id, [f"/{names.container}"])
    inspected = docker_client.api.inspect_container(found["Id"])
    assert inspected["Image"] == row.image_id == docker_client.api.inspect_image(image)["Id"]
    assert inspected["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    with postgres_server.connect() as connection:
        databases = connection.execute(
            "SELECT datname, datconnlimit FROM pg_database WHERE datname LIKE %s", (f"{names.database}%",)
        ).fetchall()
    assert databases == [(names.database, 60)]
    assert httpx.get(f"http://127.0.0.1:{row.host_port}/api/auth/ok", trust_env=False).json() == {"ok": True}


def tables(postgres_server, slug: str) -> set[str]:
    """Tables of the client's database that are not the stand-in's own."""
    with postgres_server.connect(ClientNames(slug).database) as connection:
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE tablename IN ('kept', 'added') AND tableowner = %s",
            (ClientNames(slug).role,),
        )
        return {row[0] for row in rows}


async def test_a_client_moves_to_another_image_on_its_port_with_its_data_and_a_second_run_changes_nothing(
    house, zero_image, next_image, slug, docker_client, postgres_server
):
    assert (await run(slug, wanted(zero_image))).is_completed()
    port = queries.get_instance(house, slug).host_port
    put_rows(postgres_server, slug)
    state = await upgrade([slug], next_image)
    assert state.message == f"{slug}: upgraded from {zero_image} to {next_image}, running at http://localhost:{port}"
    only_one_of_each(house, docker_client, postgres_server, slug, next_image)
    assert tables(postgres_server, slug) == {"kept", "added"}
    backup = latest_good(house, target(slug, None))
    assert backup is not None and Path(backup.path or "").is_file()
    again = await upgrade([slug], next_image)
    assert again.message == f"{slug}: already on {next_image}, running at http://localhost:{port}"
    assert "nothing to change" in (await run(slug)).message


async def test_an_image_that_does_not_exist_or_a_backup_that_fails_touches_nothing(
    house, zero_image, next_image, slug, docker_client, postgres_server, monkeypatch, tmp_path
):
    assert (await run(slug, wanted(zero_image))).is_completed()
    before = docker_client.api.inspect_container(ClientNames(slug).container)
    missing = await upgrade([slug], "zero-nowhere:latest")
    assert missing.is_failed() and "zero-nowhere:latest is not on the Docker host" in missing.message
    monkeypatch.setattr(installation(), "pg_bin", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    unsaved = await upgrade([slug], next_image)
    assert unsaved.is_failed() and "pg_dump" in unsaved.message
    after = docker_client.api.inspect_container(ClientNames(slug).container)
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    only_one_of_each(house, docker_client, postgres_server, slug, zero_image)


async def test_a_fleet_stops_at_its_first_client_that_fails_whose_image_and_database_are_as_they_were(
    house, zero_image, bad_image, slugs, docker_client, postgres_server
):
    off, first, second = slugs(), slugs(), slugs()
    assert (await run(off, wanted(zero_image, enabled=False))).is_completed()
    for name in (first, second):
        assert (await run(name, wanted(zero_image))).is_completed()
    before, untouched = queries.get_instance(house, first), queries.get_instance(house, second)
    put_rows(postgres_server, first)
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {ClientNames(first).database} SET search_path = public, drizzle")
    state = await upgrade([off, first, second], bad_image)
    assert state.is_failed()
    assert state.message.startswith(f"0 of 3 upgraded to {bad_image}; 1 not to be upgraded: {off}: not enabled")
    assert f"1 failed: {first}: the upgrade to {bad_image} failed" in state.message
    assert "crashes in a loop" in state.message
    assert f"the old image serves again at http://localhost:{before.host_port}" in state.message
    assert f"stopped there, 1 not attempted: {second}" in state.message
    assert docker_client.api.inspect_container(ClientNames(second).container)["Id"] == untouched.container_id
    only_one_of_each(house, docker_client, postgres_server, first, zero_image)
    after = queries.get_instance(house, first)
    assert after.container_id == before.container_id and "the old image serves again" in (after.last_error or "")
    assert tables(postgres_server, first) == {"kept"}
    with postgres_server.connect(ClientNames(first).database) as connection:
        assert connection.execute("SELECT word FROM kept").fetchall() == [("here",)]
        assert connection.execute("SHOW search_path").fetchone() == ("public, drizzle",)
    assert "nothing to change" in (await run(first)).message


async def test_a_slug_and_an_image_of_the_wrong_form_are_refused(house):
    for clients, image in ((["a--b"], "zero:1"), (["acme"], "zero 1")):
        state = await upgrade(clients, image)
        assert state.is_failed() and ("is no slug" in state.message or "is no image name" in state.message)

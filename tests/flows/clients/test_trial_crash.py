"""Upgrades and rotations killed at any point: the next run ends with one container, one database, and secrets that fit."""

import asyncio
import os
import signal
import subprocess
import sys

import httpx
import pytest
from prefect.settings import get_current_settings

from blocks.installation import installation
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import ClientNames
from tests.flows.clients.test_provision import run, secrets_of, wanted
from tests.flows.clients.test_upgrade import put_rows, tables, upgrade

# The image works; killed before its container runs (with --soak), the upgrade is taken back; after that people may work with it, and
# it is finished.
TAKEN_BACK = [
    "-database_copy.carry_settings",
    "-trial.set_aside",
    "trial.set_aside",
    "database_copy.make",
    "-trial.make_new",
]
FINISHED = ["trial.discard_old", "readiness.until_ready"]
MORE_FINISHED = ["-trial.discard_old", "-trial.over", "trial.make_new"]
# The image migrates and crashes; killed on the way back.
ON_THE_WAY_BACK = ["-database_copy._take_place"]
MORE_ON_THE_WAY_BACK = ["trial.remove_new", "database_copy.put_back", "postgres.ensure", "trial.bring_back"]
ROTATED_BACK = ["trial.make_new"]
MORE_ROTATED_BACK = [
    "steps.client_blocks.replace_secrets",
    "rotation.begin",
    "trial.set_aside",
    "postgres.ensure",
    "readiness.until_ready",
]
ROTATED = ["-trial.discard_old"]
MORE_ROTATED = ["rotation.commit", "-trial.over"]
EVERYTHING = "database_password,better_auth_secret,autumn_key,api_token"


@pytest.fixture(autouse=True)
def programs(pg_bin, monkeypatch):
    """Where pg_dump is."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    monkeypatch.setenv("ZERO_FLEET_PG_BIN", str(pg_bin))


async def kill(point: str, client: str, what: str, given: str) -> None:
    """A run in a process of its own that dies at ``point``."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.flows.clients.crash_trial", point, client, what, given],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, (point, process.stdout, process.stderr[-2000:])


async def settled(house, docker_client, postgres_server, slug: str, image: str) -> None:
    """One container of ``image`` that serves, one database, a password that PostgreSQL takes and the container has."""
    names, row = ClientNames(slug), queries.get_instance(house, slug)
    assert (row.pending, row.status, row.spec["image"]) == (None, Status.RUNNING, image)
    (found,) = docker_client.api.containers(all=True, filters={"label": f"zero-fleet.client={slug}"})
    assert (found["Id"], found["Names"]) == (row.container_id, [f"/{names.container}"])
    with postgres_server.connect() as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"{names.database}%",))
        assert [row[0] for row in rows] == [names.database]
    own = await secrets_of(slug)
    password = own.database_password.get_secret_value()
    with postgres_server.connect(names.database, user=names.role, password=password) as connection:
        assert connection.execute("SELECT count(*) FROM mail0_user").fetchone() == (0,)
    inspected = docker_client.api.inspect_container(found["Id"])
    assert inspected["Image"] == docker_client.api.inspect_image(image)["Id"]
    assert f"BETTER_AUTH_SECRET={own.better_auth_secret.get_secret_value()}" in inspected["Config"]["Env"]
    assert own.pending.get_secret_value() == {}
    assert httpx.get(f"http://127.0.0.1:{row.host_port}/api/auth/ok", trust_env=False).json() == {"ok": True}


async def test_an_upgrade_that_was_killed_is_taken_back_or_finished_by_the_next_run(
    house, zero_image, next_image, bad_image, slug, docker_client, postgres_server, soak
):
    assert (await run(slug, wanted(zero_image))).is_completed()
    put_rows(postgres_server, slug)
    taken_back = [(point, next_image) for point in (TAKEN_BACK if soak else [])]
    taken_back += [(point, bad_image) for point in ON_THE_WAY_BACK + (MORE_ON_THE_WAY_BACK if soak else [])]
    for point, image in taken_back:
        await kill(point, slug, "upgrade", image)
        state = await run(slug)
        assert state.is_completed(), (point, state.message)
        await settled(house, docker_client, postgres_server, slug, zero_image)
        assert tables(postgres_server, slug) == {"kept"}, point
    images = [next_image, zero_image] * 3
    for point, image in zip(FINISHED + (MORE_FINISHED if soak else []), images, strict=False):
        await kill(point, slug, "upgrade", image)
        state = await upgrade([slug], image)
        assert state.message.startswith(f"{slug}: already on {image}"), (point, state.message)
        await settled(house, docker_client, postgres_server, slug, image)
        assert tables(postgres_server, slug) == {"kept", "added"}


async def test_a_rotation_that_was_killed_is_taken_back_or_finished_by_the_next_run(
    house, zero_image, slug, docker_client, postgres_server, soak
):
    assert (await run(slug, wanted(zero_image))).is_completed()
    for point in ROTATED_BACK + (MORE_ROTATED_BACK if soak else []):
        before = await secrets_of(slug)
        await kill(point, slug, "rotate", EVERYTHING)
        state = await run(slug)
        assert state.is_completed(), (point, state.message)
        await settled(house, docker_client, postgres_server, slug, zero_image)
        assert await secrets_of(slug) == before, point
    for point in ROTATED + (MORE_ROTATED if soak else []):
        before = await secrets_of(slug)
        await kill(point, slug, "rotate", EVERYTHING)
        state = await run(slug)
        assert state.is_completed(), (point, state.message)
        await settled(house, docker_client, postgres_server, slug, zero_image)
        after = await secrets_of(slug)
        for name in EVERYTHING.split(","):
            assert getattr(after, name) != getattr(before, name), (point, name)

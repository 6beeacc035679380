"""start-zero, stop-zero, restart-zero and zero-logs on the real engine, a real PostgreSQL and a real Prefect server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect.settings import get_current_settings

from blocks.backups import BackupPolicy
from blocks.clients import ZeroSecrets
from blocks.installation import installation
from flows.clients.logs import zero_logs
from flows.clients.restart import restart_zero
from flows.clients.start import start_zero
from flows.clients.stop import stop_zero
from tasks.registry import queries
from tasks.registry.lock import hold
from tasks.registry.models import Status
from tasks.registry.names import LABEL_ONCE, ClientNames
from tasks.registry.spec import SpecChanges
from tests.flows.clients.test_provision import page_of, run, secrets_of, wanted


async def start(*clients: str):
    return await start_zero(list(clients), return_state=True)


async def stop(*clients: str):
    return await stop_zero(list(clients), return_state=True)


async def restart(*clients: str, **other):
    return await restart_zero(list(clients), **other, return_state=True)


async def logs(client: str, **other):
    return await zero_logs(client, **other, return_state=True)


def inspected(docker_client, slug: str) -> dict:
    return docker_client.api.inspect_container(ClientNames(slug).container)


@pytest.fixture
async def backups(house, pg_bin, tmp_path, monkeypatch):
    """Where this test's backups go."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    await BackupPolicy(directory=str(tmp_path / "backups")).asave("backup-policy", overwrite=True)
    yield tmp_path / "backups"
    await BackupPolicy.adelete("backup-policy")


async def test_a_container_is_stopped_started_and_restarted_and_each_says_what_was_seen(
    house, zero_image, slug, docker_client
):
    await run(slug, wanted(zero_image))
    url = f"http://localhost:{queries.get_instance(house, slug).host_port}"
    before = inspected(docker_client, slug)
    assert (await start(slug)).message == f"{slug}: was already running, serves at {url}"
    assert inspected(docker_client, slug)["State"]["StartedAt"] == before["State"]["StartedAt"]

    stopped = await stop(slug)
    seen = inspected(docker_client, slug)["State"]
    assert seen["Status"] == "exited"
    assert stopped.is_completed() and stopped.message == f"{slug}: stopped (exit code {seen['ExitCode']})"
    row = queries.get_instance(house, slug)
    assert (row.status, row.last_error) == (Status.STOPPED, None)
    assert (await stop(slug)).message == f"{slug}: was already stopped (exit code {seen['ExitCode']})"
    assert queries.get_instance(house, slug).updated_at == row.updated_at

    assert (await start(slug)).message == f"{slug}: started, serves at {url}"
    assert queries.get_instance(house, slug).status is Status.RUNNING
    started = inspected(docker_client, slug)
    assert (await restart(slug)).message == f"{slug}: restarted, serves at {url}"
    after = inspected(docker_client, slug)
    assert before["Id"] == started["Id"] == after["Id"]
    assert after["State"]["StartedAt"] > started["State"]["StartedAt"]


async def test_a_stop_of_what_an_upgrade_left_stopped_keeps_its_way_back_from_starting_it(
    house, zero_image, slug, docker_client
):
    await run(slug, wanted(zero_image))
    await stop(slug)
    old = {"container_id": inspected(docker_client, slug)["Id"], "running": True, "status": "running"}
    left = {"operation": "upgrade", "phase": "copying the database", "before": {**old, "restart": "no", "retries": 0}}
    queries.update_instance(house, slug, pending=left)
    assert "was already stopped" in (await stop(slug)).message
    after = queries.get_instance(house, slug).pending["before"]
    assert (after["running"], after["status"]) == (False, Status.STOPPED)


async def test_a_client_whose_block_was_deleted_is_told_so_and_not_that_a_password_is_wrong(house, zero_image, slug):
    await run(slug, wanted(zero_image))
    await ZeroSecrets.adelete(ClientNames(slug).secrets_block)
    for state in (await start(slug), await restart(slug)):
        assert state.is_failed() and f"{slug} lacks secrets in its block zero-{slug}" in state.message, state.message


async def test_one_that_fails_hides_no_other_and_all_leaves_out_what_is_not_enabled(
    house, zero_image, slugs, docker_client
):
    for other in queries.instances(house):  # of tests before; their containers are gone
        queries.forget_client(house, other.client)
    well, off, gone = slugs(), slugs(), slugs()
    for slug in (well, gone):
        await run(slug, wanted(zero_image))
    await run(off, wanted(zero_image, enabled=False))
    docker_client.api.remove_container(ClientNames(gone).container, force=True)
    assert (await stop(well)).is_completed()

    state = await start(well, off, gone)
    assert state.is_failed()
    assert state.message.startswith("1 of 3 started; not ")
    assert f"{off}: {off} is not enabled, so it is not started" in state.message
    assert f"{gone}: there is no container of {gone}; run provision-client for {gone}" in state.message
    assert inspected(docker_client, well)["State"]["Running"]
    assert [queries.get_instance(house, slug).status for slug in (well, off, gone)] == [
        Status.RUNNING,
        Status.DISABLED,
        Status.MISSING,
    ]
    stopped = await stop("all")
    assert stopped.is_failed() and stopped.message.startswith("2 of 3 stopped; not ")
    assert queries.get_instance(house, off).status is Status.DISABLED
    assert (await restart("all")).message == f"2 of 2 restarted: {', '.join(sorted([well, gone]))}."


async def test_a_start_that_fails_says_why_and_keeps_the_end_of_the_log(
    house, zero_image, slug, docker_client, backups
):
    await run(slug, wanted(zero_image))
    port = queries.get_instance(house, slug).host_port
    await stop(slug)
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was just asked leaves the port in TIME_WAIT
        held.bind(("127.0.0.1", port))
        held.listen()
        state = await start(slug)
    assert state.is_failed() and f"port {port} on 127.0.0.1 was taken just before" in state.message
    assert queries.get_instance(house, slug).status is Status.ERROR
    assert (await start(slug)).is_completed()

    await run(slug, SpecChanges(extra_env={"STANDIN_FAULT": "crash"}))
    state = await restart(slug)
    assert state.is_failed() and "crashes in a loop" in state.message and "\n" not in state.message
    row = queries.get_instance(house, slug)
    assert row.status is Status.ERROR and row.last_error
    assert row.last_error.endswith("Error: crashed on purpose") and row.last_error.count("\n") > 5

    state = await restart(slug, clean=True, confirm=slug)
    assert "the clean start failed: " in state.message and "it ended with exit code 1" in state.message
    assert "the container was made anew without it and started; " in state.message
    assert "DROP_AGENT_TABLES is set" in (queries.get_instance(house, slug).last_error or "")
    assert LABEL_ONCE not in inspected(docker_client, slug)["Config"]["Labels"]


async def test_a_clean_restart_drops_the_agent_tables_once_after_a_backup(
    house, zero_image, slug, docker_client, postgres_server, backups
):
    await run(slug, wanted(zero_image))
    names, before = ClientNames(slug), queries.get_instance(house, slug)
    with postgres_server.connect(names.database) as connection:
        connection.execute("INSERT INTO mail0_summary (message_id) VALUES ('m')")
        connection.execute("INSERT INTO mail0_user (id) VALUES ('u')")
    refused = await restart(slug, clean=True, confirm="yes")
    assert refused.is_failed() and "repeat the slug in confirm" in refused.message

    state = await restart(slug, clean=True, confirm=slug)
    assert state.is_completed(), state.message
    assert state.message == (
        f"{slug}: restarted without its agent tables, serves at http://localhost:{before.host_port}"
    )
    with postgres_server.connect(names.database) as connection:
        assert connection.execute("SELECT count(*) FROM mail0_summary").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM mail0_user").fetchone() == (1,)
    seen, row = inspected(docker_client, slug), queries.get_instance(house, slug)
    assert not [entry for entry in seen["Config"]["Env"] if entry.startswith("DROP_AGENT_TABLES")]
    assert LABEL_ONCE not in seen["Config"]["Labels"] and seen["HostConfig"]["RestartPolicy"]["Name"] != "no"
    assert (row.status, row.spec_hash, row.host_port) == (Status.RUNNING, before.spec_hash, before.host_port)
    assert list(backups.rglob("*.sql.gz"))
    assert "nothing to change" in (await run(slug)).message


async def test_a_clean_restart_without_a_backup_touches_nothing(
    house, zero_image, slug, docker_client, postgres_server, backups
):
    await run(slug, wanted(zero_image))
    before = inspected(docker_client, slug)
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER ROLE {ClientNames(slug).role} NOLOGIN")
    state = await restart(slug, clean=True, confirm=slug)
    assert state.is_failed()
    assert state.message.startswith(f"{slug}: the clean restart of {slug} is refused and nothing was touched: ")
    after = inspected(docker_client, slug)
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    row = queries.get_instance(house, slug)
    assert (row.status, row.last_error) == (Status.RUNNING, None)


KILLED = """
import asyncio, sys
from tests.flows.clients.crash import die_at
from flows.clients.restart import restart_zero
die_at(sys.argv[1])
asyncio.run(restart_zero([sys.argv[2]], clean=True, confirm=sys.argv[2], return_state=True))
"""


@pytest.mark.soak
async def test_a_clean_restart_that_is_killed_drops_nothing_twice(
    house, zero_image, slug, docker_client, postgres_server, backups, pg_bin, soak
):
    await run(slug, wanted(zero_image))
    points = ("readiness.until_ready", "containers.remove") if soak else ("readiness.until_ready",)
    for point in points:
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        killed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", KILLED, point, slug],
            env={**os.environ, **settings, "ZERO_FLEET_PG_BIN": str(pg_bin)},
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        if point == "readiness.until_ready":
            left = inspected(docker_client, slug)
            assert LABEL_ONCE in left["Config"]["Labels"] and left["HostConfig"]["RestartPolicy"]["Name"] == "no"
            refused = await start(slug)
            assert refused.is_failed() and "left over from a clean restart that was cut off" in refused.message
        else:
            assert "there is no container" in (await start(slug)).message
        with postgres_server.connect(ClientNames(slug).database) as connection:
            connection.execute("INSERT INTO mail0_summary (message_id) VALUES (%s)", (point,))
        state = await restart(slug)
        assert state.is_completed(), state.message
        assert LABEL_ONCE not in inspected(docker_client, slug)["Config"]["Labels"]
    with postgres_server.connect(ClientNames(slug).database) as connection:
        assert connection.execute("SELECT count(*) FROM mail0_summary").fetchone() == (len(points),)


async def test_the_log_is_shown_without_secrets_whoever_holds_the_client(house, zero_image, slug, docker_client):
    from blocks.clients import ZeroSecrets

    await run(slug, wanted(zero_image))
    names, secrets = ClientNames(slug), await secrets_of(slug)
    password, port = secrets.database_password.get_secret_value(), queries.get_instance(house, slug).host_port
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.get(f"http://127.0.0.1:{port}/{password}")
    with hold(house, slug, "another run", installation().locks):
        state = await logs(slug, tail=1)
    assert (
        state.message == f"{slug}: 1 line of {names.container}'s log; see the artifact logs-{slug}, or this run's log"
    )
    page = await page_of(slug, "logs")
    assert "GET /*** 404" in page and password not in page

    await ZeroSecrets.adelete(names.secrets_block)  # what the container itself knows is hidden all the same
    assert (await logs(slug, since="1h")).is_completed()
    page = await page_of(slug, "logs")
    assert "GET /*** 404" in page and "Running migrations" in page and password not in page
    assert "since" in (await logs(slug, since=(datetime.now(UTC) - timedelta(days=2)).isoformat())).message
    assert "which lies ahead of" in (await logs(slug, since="2099-01-01")).message

    refused = await restart(slug)  # with secrets made up now it would come back without its sessions and its database
    assert (
        f"{slug} lacks secrets in its block {names.secrets_block}; run provision-client for {slug}" in refused.message
    )

    docker_client.api.remove_container(names.container, force=True)
    state = await logs(slug)
    assert state.is_failed() and state.message.startswith(f"there is no container of {slug}, and its log went with it")
    assert "there is no client 'nobody'" in (await logs("nobody")).message

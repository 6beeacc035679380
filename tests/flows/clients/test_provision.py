"""provision-client on the real engine, a real PostgreSQL and a real Prefect server."""

import socket
from pathlib import Path

import httpx
import psycopg
import pytest
from prefect.client.orchestration import get_client

from flows.clients.provision import provision_client
from tasks.registry import journal, queries
from tasks.registry.models import Status
from tasks.registry.names import LABEL_FLEET, ClientNames
from tasks.registry.spec import SpecChanges
from tests.flows.clients.conftest import save_blocks


def wanted(image: str, **changes) -> SpecChanges:
    """Changes that suit the stand-in."""
    return SpecChanges(**{"image": image, "memory": 256, "ready_within": 30, **changes})


async def run(client: str, spec: SpecChanges | None = None):
    """The flow's final state."""
    return await provision_client(client, spec or SpecChanges(), return_state=True)


async def secrets_of(slug: str):
    """The client's block."""
    from blocks.clients import ZeroSecrets

    return await ZeroSecrets.aload(ClientNames(slug).secrets_block)


async def page_of(slug: str, kind: str = "client") -> str:
    """The client's page, or that of its backup."""
    from prefect.artifacts import Artifact

    found = await Artifact.aget(f"{kind}-{slug}")
    assert found is not None
    return str(found.data)


def nothing_made(house, docker_client, postgres_server, slug: str) -> bool:
    """Whether there is no row, container, role or database of the client."""
    names = ClientNames(slug)
    with postgres_server.connect() as connection:
        role = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (names.role,)).fetchone()
        database = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (names.database,)).fetchone()
    containers = docker_client.api.containers(all=True, filters={"name": f"^/{names.container}$"})
    return not (role or database or containers or queries.find_instance(house, slug))


async def test_it_brings_a_client_up_and_a_second_run_changes_nothing(house, zero_image, slug, docker_client):
    state = await run(slug, wanted(zero_image))
    assert state.is_completed(), state.message
    row = queries.get_instance(house, slug)
    assert state.message == f"{slug}: running at http://localhost:{row.host_port}"
    assert (row.status, row.last_error, row.image) == (Status.RUNNING, None, zero_image)
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"http://127.0.0.1:{row.host_port}/api/auth/ok")).json() == {"ok": True}
    before = docker_client.api.inspect_container(ClientNames(slug).container)
    assert before["Id"] == row.container_id
    page = await page_of(slug)
    assert f"http://localhost:{row.host_port}/api/auth/callback/google" in page
    again = await run(slug)
    assert again.message == f"{slug}: nothing to change, running at http://localhost:{row.host_port}"
    after = docker_client.api.inspect_container(ClientNames(slug).container)
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])


async def test_steps_are_journaled_with_the_time_that_the_world_outside_took(house, zero_image, slug):
    await run(slug, wanted(zero_image))
    steps = {row.step: row for row in journal.latest(house, slug)}
    assert set(steps) == {"look", "claim", "database", "container", "ready"}
    assert all(row.outcome == "done" for row in steps.values())
    assert steps["container"].outside_seconds > 0 and steps["claim"].outside_seconds == 0


async def test_a_changed_limit_makes_the_container_anew_and_keeps_port_and_secrets(
    house, zero_image, slug, docker_client
):
    await run(slug, wanted(zero_image))
    before, secrets = queries.get_instance(house, slug), await secrets_of(slug)
    state = await run(slug, SpecChanges(memory=200))
    assert state.is_completed(), state.message
    after = queries.get_instance(house, slug)
    assert after.container_id != before.container_id and after.host_port == before.host_port
    assert docker_client.api.inspect_container(after.container_id)["HostConfig"]["Memory"] == 200 << 20
    assert await secrets_of(slug) == secrets


async def test_secrets_that_the_operator_filled_are_honoured(house, zero_image, slug, docker_client, postgres_server):
    from pydantic import SecretStr

    from blocks.clients import ZeroSecrets

    names = ClientNames(slug)
    await ZeroSecrets(database_password=SecretStr("mine@/:x"), secret_env={"RESEND_API_KEY": "re_mine"}).asave(
        names.secrets_block
    )
    assert (await run(slug, wanted(zero_image))).is_completed()
    with postgres_server.connect(names.database, user=names.role, password="mine@/:x") as connection:
        assert connection.execute("SELECT count(*) FROM mail0_user").fetchone() == (0,)
    environment = docker_client.api.inspect_container(names.container)["Config"]["Env"]
    assert "RESEND_API_KEY=re_mine" in environment
    saved = await secrets_of(slug)
    assert saved.database_password.get_secret_value() == "mine@/:x" and len(saved.api_token.get_secret_value()) > 30


async def test_one_client_cannot_reach_the_database_of_another_from_inside_its_container(
    house, zero_image, slugs, docker_client, postgres_server
):
    first, second = slugs(), slugs()
    for name in (first, second):
        assert (await run(name, wanted(zero_image))).is_completed()
    a, b = ClientNames(first), ClientNames(second)
    password = (await secrets_of(first)).database_password.get_secret_value()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        postgres_server.connect(b.database, user=a.role, password=password)
    program = (
        "import os, psycopg\n"
        "url = os.environ['DATABASE_URL']\n"
        "print('own', psycopg.connect(url).execute('select current_user').fetchone()[0])\n"
        f"try: psycopg.connect(url.rsplit('/', 1)[0] + '/{b.database}')\n"
        "except psycopg.OperationalError as error: print('other', error)\n"
    )
    container = docker_client.containers.get(a.container)
    python = container.attrs["Config"]["Cmd"][0]
    said = container.exec_run([python, "-c", program]).output.decode()
    assert f"own {a.role}" in said and "permission denied for database" in said


async def test_a_client_that_is_not_enabled_is_provisioned_and_not_started(house, zero_image, slug, docker_client):
    state = await run(slug, wanted(zero_image, enabled=False))
    assert "not started, because it is not enabled" in state.message
    name = ClientNames(slug).container
    assert docker_client.api.inspect_container(name)["State"]["Status"] == "created"
    assert queries.get_instance(house, slug).status == Status.DISABLED
    assert "nothing to change" in (await run(slug)).message
    assert (await run(slug, SpecChanges(enabled=True))).is_completed()
    stopped = await run(slug, SpecChanges(enabled=False))
    assert stopped.is_completed()
    assert docker_client.api.inspect_container(name)["State"]["Status"] == "exited"


async def test_a_container_that_somebody_removed_comes_back_on_its_port(house, zero_image, slug, docker_client):
    await run(slug, wanted(zero_image))
    port = queries.get_instance(house, slug).host_port
    docker_client.api.remove_container(ClientNames(slug).container, force=True)
    assert (await run(slug)).message == f"{slug}: running at http://localhost:{port}"


async def test_a_port_that_was_given_out_changes_only_with_leave(house, zero_image, slug):
    await run(slug, wanted(zero_image))
    port = queries.get_instance(house, slug).host_port
    refused = await run(slug, SpecChanges(host_port=29555))
    assert refused.is_failed() and "allow_new_port=true" in refused.message
    assert queries.get_instance(house, slug).host_port == port
    assert queries.get_instance(house, slug).status == Status.RUNNING
    moved = await run(slug, SpecChanges(host_port=29555, allow_new_port=True))
    assert moved.message == (
        f"{slug}: running at http://localhost:29555; register the new redirect URI with Google: "
        "http://localhost:29555/api/auth/callback/google"
    )
    assert "http://localhost:29555/api/auth/callback/google" in await page_of(slug)
    kept = await run(slug, SpecChanges(reset=["host_port"]))
    assert kept.is_failed() and "allow_new_port=true" in kept.message
    back = await run(slug, SpecChanges(reset=["host_port"], allow_new_port=True))
    assert back.is_completed(), back.message
    assert queries.get_instance(house, slug).host_port not in (29555, None)


async def test_an_address_that_the_host_does_not_have_takes_nothing_down(house, zero_image, slug, docker_client):
    await run(slug, wanted(zero_image))
    before = docker_client.api.inspect_container(ClientNames(slug).container)
    refused = await run(slug, SpecChanges(host_ip="8.8.8.8"))
    assert refused.message == "host_ip 8.8.8.8 is no address of the Docker host; use 127.0.0.1, 0.0.0.0 or one it has."
    after = docker_client.api.inspect_container(ClientNames(slug).container)
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert queries.get_instance(house, slug).spec["host_ip"] == "127.0.0.1"


@pytest.mark.parametrize("client", ["acme'", "acme x", "../acme", "Acmé", "acme\n", "a--b", "-a", "1a"])
async def test_a_slug_of_the_wrong_form_is_refused_in_words(house, client):
    state = await run(client)
    assert state.is_failed() and "is no slug; use small letters" in state.message


async def test_what_looks_like_a_secret_is_refused_before_anything(
    house, slug, docker_client, postgres_server, zero_image
):
    state = await run(slug, wanted(zero_image, extra_env={"MY_TOKEN": "hunter22"}))
    assert state.is_failed() and "secret_env" in state.message and "hunter22" not in state.message
    assert nothing_made(house, docker_client, postgres_server, slug)


async def test_a_port_in_use_is_refused_and_leaves_nothing(house, zero_image, slug, docker_client, postgres_server):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        state = await run(slug, wanted(zero_image, host_port=port))
    assert state.is_failed() and f"port {port} on 127.0.0.1 is taken" in state.message
    assert nothing_made(house, docker_client, postgres_server, slug)


async def test_a_port_of_another_client_is_refused_by_name(house, zero_image, slugs, docker_client, postgres_server):
    first, second = slugs(), slugs()
    await run(first, wanted(zero_image, enabled=False))
    port = queries.get_instance(house, first).host_port
    state = await run(second, wanted(zero_image, host_port=port))
    assert state.is_failed() and f"port {port} belongs to client {first}" in state.message
    assert nothing_made(house, docker_client, postgres_server, second)


async def test_an_image_that_does_not_exist_is_refused_and_leaves_nothing(house, slug, docker_client, postgres_server):
    state = await run(slug, wanted("zero-nowhere:latest", repo_url=""))
    assert state.is_failed() and "the image zero-nowhere:latest is not on the Docker host" in state.message
    assert nothing_made(house, docker_client, postgres_server, slug)


async def test_docker_not_running_is_said_and_leaves_nothing(
    house, zero_image, slug, docker_client, postgres_server, monkeypatch
):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    state = await run(slug, wanted(zero_image))
    assert state.is_failed() and state.message.startswith("Docker does not answer (there is no socket); start it")
    assert nothing_made(house, docker_client, postgres_server, slug)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"port": 1}, "PostgreSQL at 127.0.0.1:1 does not answer (connection refused)"),
        ({"password": "wrong-hunter22"}, "refused the password of role postgres"),
    ],
)
async def test_a_server_that_does_not_let_us_in_is_said_and_leaves_nothing(
    house, zero_image, slug, docker_client, postgres_server, change, says
):
    await save_blocks(postgres_server, **change)
    try:
        state = await run(slug, wanted(zero_image))
    finally:
        await save_blocks(postgres_server)
    assert state.is_failed() and says in state.message and "hunter22" not in state.message
    assert nothing_made(house, docker_client, postgres_server, slug)


async def test_a_missing_google_client_is_said_and_leaves_nothing(
    house, zero_image, slug, docker_client, postgres_server
):
    state = await run(slug, wanted(zero_image, google_client="google-nowhere"))
    assert state.is_failed() and "the block google-nowhere does not exist" in state.message
    assert nothing_made(house, docker_client, postgres_server, slug)


async def test_a_block_of_another_type_is_said_to_be_one(house, zero_image, slug):
    for field in ("google_client", "twilio"):
        state = await run(slug, wanted(zero_image, **{field: "postgres-server"}))
        assert state.is_failed() and "there is no Zero Fleet " in state.message, state.message
        assert "(the block of that name is of the type Zero Fleet PostgreSQL Server)" in state.message
    assert queries.find_instance(house, slug) is None


async def test_a_foreign_container_of_the_name_is_left_alone(house, zero_image, slug, docker_client, fleet):
    foreign = docker_client.api.create_container(zero_image, name=ClientNames(slug).container, labels={})
    state = await run(slug, wanted(zero_image))
    assert state.is_failed() and "belongs to nobody we know" in state.message
    assert docker_client.api.inspect_container(foreign["Id"])["State"]["Status"] == "created"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("crash", "crashes in a loop"),
        ("greedy", "killed for want of memory (64 MiB)"),
        ("broken", "/health answers 500, /api/auth/ok answers 500"),
        ("deaf", "/health: "),
    ],
)
async def test_a_service_that_does_not_come_is_explained_and_noted(house, zero_image, slug, docker_client, fault, says):
    spec = wanted(zero_image, extra_env={"STANDIN_FAULT": fault}, memory=64, ready_within=8)
    state = await run(slug, spec)
    assert state.is_failed() and says in state.message, state.message
    row = queries.get_instance(house, slug)
    assert row.status == Status.ERROR and row.last_error
    sentence, _, lines = row.last_error.partition("\nLast lines:\n")
    assert sentence == state.message and lines.startswith("Running migrations\n")
    if fault == "broken":
        mended = await run(slug, SpecChanges(reset=["extra_env"]))
        assert mended.is_completed(), mended.message
        assert queries.get_instance(house, slug).last_error is None


async def test_a_database_that_the_container_cannot_reach_is_explained(house, zero_image, slug):
    state = await run(slug, wanted(zero_image, db_port=1))
    assert state.is_failed()
    assert "does not reach PostgreSQL at host.docker.internal:1 from inside" in state.message
    assert "listen_addresses" in state.message


async def test_no_secret_is_in_logs_states_artifacts_or_parameters(house, zero_image, slug, docker_client):
    assert (await run(slug, wanted(zero_image))).is_completed()
    block = await secrets_of(slug)
    values = [
        block.database_password.get_secret_value(),
        block.better_auth_secret.get_secret_value(),
        block.autumn_key.get_secret_value(),
        block.api_token.get_secret_value(),
        "google-secret-of-tests",
    ]
    async with get_client() as client:
        seen = str(await client.read_flow_runs()) + str(await client.read_task_runs()) + str(await client.read_logs())
        seen += (await client._client.post("/artifacts/filter", json={})).text
        seen += (await client._client.post("/events/filter", json={})).text
    seen += Path(house.url.database).read_bytes().decode("latin-1")
    assert slug in seen
    assert not [value for value in values if value in seen]


async def test_everything_made_bears_the_fleets_label(house, zero_image, slug, docker_client, fleet):
    assert (await run(slug, wanted(zero_image))).is_completed()
    found = docker_client.api.inspect_container(ClientNames(slug).container)
    assert found["Config"]["Labels"][LABEL_FLEET] == fleet
    assert list(found["NetworkSettings"]["Networks"]) == [f"zero-fleet-{fleet}"]

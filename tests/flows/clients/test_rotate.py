"""rotate-client-secrets on the real engine, a real PostgreSQL and a real Prefect server."""

import psycopg
import pytest
from prefect.client.orchestration import get_client

from flows.clients.rotate import rotate_client_secrets
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import ClientNames
from tests.flows.clients.test_provision import run, secrets_of, wanted

NAMES = ["database_password", "better_auth_secret", "autumn_key", "api_token"]


async def rotate(client: str, which: list[str]):
    """The flow's final state."""
    return await rotate_client_secrets(client, which, return_state=True)


def values(block) -> dict[str, str]:
    """The four secrets of a client's block."""
    return {name: getattr(block, name).get_secret_value() for name in NAMES}


async def save(slug: str, **changes) -> None:
    """Change fields of the client's block, as the operator does in the UI."""
    block = await secrets_of(slug)
    await block.model_copy(update=changes).asave(ClientNames(slug).secrets_block, overwrite=True)


async def test_new_secrets_are_in_the_block_the_container_and_postgresql_and_nowhere_else(
    house, zero_image, slug, docker_client, postgres_server
):
    from prefect.blocks.fields import SecretDict

    assert (await run(slug, wanted(zero_image))).is_completed()
    names, port, before = ClientNames(slug), queries.get_instance(house, slug).host_port, values(await secrets_of(slug))
    await save(slug, pending=SecretDict({"autumn_key": "am_chosen_by_hand"}))
    state = await rotate(slug, NAMES)
    assert state.message == (
        f"{slug}: new database password, Better Auth secret (everybody is logged out), Autumn key, bearer token of the e-mail API "
        f"(its callers need the new one); running at http://localhost:{port}"
    )
    block = await secrets_of(slug)
    after = values(block)
    assert not [name for name in NAMES if after[name] == before[name]] and after["autumn_key"] == "am_chosen_by_hand"
    assert block.pending.get_secret_value() == {} and len(after["better_auth_secret"]) == 64
    environment = docker_client.api.inspect_container(names.container)["Config"]["Env"]
    assert {f"ZERO_API_TOKEN={after['api_token']}", f"AUTUMN_SECRET_KEY={after['autumn_key']}"} <= set(environment)
    with postgres_server.connect(names.database, user=names.role, password=after["database_password"]):
        pass
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres_server.connect(names.database, user=names.role, password=before["database_password"])
    assert docker_client.api.containers(all=True, filters={"name": f"{names.container}__before"}) == []
    row = queries.get_instance(house, slug)
    assert (row.status, row.pending) == (Status.RUNNING, None)
    assert "nothing to change" in (await run(slug)).message
    async with get_client() as client:
        seen = str(await client.read_flow_runs()) + str(await client.read_task_runs()) + str(await client.read_logs())
        seen += (await client._client.post("/artifacts/filter", json={})).text
    assert slug in seen and not [value for value in {**before, **after}.values() if value in seen]


async def test_the_old_secrets_come_back_when_the_service_does_not_serve_with_the_new_ones(
    house, zero_image, slug, docker_client, postgres_server
):
    from prefect.blocks.fields import SecretDict

    assert (await run(slug, wanted(zero_image))).is_completed()
    names, before, row = ClientNames(slug), values(await secrets_of(slug)), queries.get_instance(house, slug)
    # What else was saved in the block since goes into the container made anew, too.
    await save(slug, secret_env=SecretDict({"STANDIN_FAULT": "crash"}))
    state = await rotate(slug, ["database_password"])
    assert state.is_failed()
    assert f"{slug}: the rotation of its secrets failed: {names.container} did not become ready" in state.message
    assert f"the old container with the old secrets serves again at http://localhost:{row.host_port}" in state.message
    after = queries.get_instance(house, slug)
    assert (after.container_id, after.status, after.pending) == (row.container_id, Status.RUNNING, None)
    block = await secrets_of(slug)
    assert values(block) == before and block.pending.get_secret_value() == {}
    with postgres_server.connect(names.database, user=names.role, password=before["database_password"]):
        pass


async def test_a_client_that_is_not_enabled_gets_new_secrets_and_is_not_started(
    house, zero_image, slug, docker_client, postgres_server
):
    assert (await run(slug, wanted(zero_image, enabled=False))).is_completed()
    state = await rotate(slug, ["database_password"])
    assert state.message == f"{slug}: new database password; not running, as before"
    names, password = ClientNames(slug), values(await secrets_of(slug))["database_password"]
    with postgres_server.connect(names.database, user=names.role, password=password):
        pass
    assert docker_client.api.inspect_container(names.container)["State"]["Status"] == "created"
    assert queries.get_instance(house, slug).status == Status.DISABLED
    assert "nothing to change" in (await run(slug)).message

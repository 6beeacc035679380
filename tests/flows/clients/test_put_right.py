"""provision-client puts right what was done behind its back: block, database, container, and says what a person has to do."""

import time

from tasks.registry import queries
from tasks.registry.names import ClientNames
from tasks.registry.spec import SpecChanges
from tests.flows.clients.test_provision import page_of, run, secrets_of, wanted


async def test_a_deleted_block_is_made_anew_and_the_client_runs_with_new_secrets(
    house, zero_image, slug, docker_client, postgres_server
):
    from blocks.clients import ZeroSecrets

    names = ClientNames(slug)
    assert (await run(slug, wanted(zero_image))).is_completed()
    before, old = queries.get_instance(house, slug), await secrets_of(slug)
    with postgres_server.connect(names.database) as connection:
        connection.execute("CREATE TABLE kept ()")
    await ZeroSecrets.adelete(names.secrets_block)
    state = await run(slug)
    assert state.message == f"{slug}: running at http://localhost:{before.host_port}"
    new = (await secrets_of(slug)).database_password.get_secret_value()
    assert new and new != old.database_password.get_secret_value()
    assert queries.get_instance(house, slug).container_id != before.container_id
    with postgres_server.connect(names.database, user=names.role, password=new) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() != (None,)
    assert "nothing to change" in (await run(slug)).message


async def test_a_database_that_was_dropped_comes_back_migrated_and_it_is_said(
    house, zero_image, slug, docker_client, postgres_server
):
    names = ClientNames(slug)
    assert (await run(slug, wanted(zero_image))).is_completed()
    port = queries.get_instance(house, slug).host_port
    with postgres_server.connect() as connection:
        connection.execute(f"DROP DATABASE {names.database} WITH (FORCE)")
        connection.execute(f"DROP ROLE {names.role}")
    state = await run(slug)
    assert state.message == (
        f"{slug}: running at http://localhost:{port}; its database {names.database} was gone, and is new and empty: restore a "
        "backup into it if what it held is wanted"
    )
    with postgres_server.connect(names.database) as connection:
        assert connection.execute("SELECT count(*) FROM mail0_user").fetchone() == (0,)
    assert "nothing to change" in (await run(slug)).message


async def test_a_paused_container_goes_on(house, zero_image, slug, docker_client):
    name = ClientNames(slug).container
    assert (await run(slug, wanted(zero_image))).is_completed()
    row = queries.get_instance(house, slug)
    docker_client.api.pause(name)
    began = time.monotonic()
    state = await run(slug)
    assert state.message == f"{slug}: running at http://localhost:{row.host_port}"
    assert docker_client.api.inspect_container(name)["Id"] == row.container_id
    assert time.monotonic() - began < 30


async def test_behind_a_domain_the_port_moves_freely_and_a_new_domain_is_to_be_registered(house, zero_image, slug):
    back = {"reset": ["subdomain", "domain"]}
    assert (await run(slug, wanted(zero_image))).is_completed()
    public = "https://mail.acme.example"
    named = await run(slug, SpecChanges(subdomain="mail", domain="acme.example"))
    uri = f"{public}/api/auth/callback/google"
    assert named.message == f"{slug}: running at {public}; register the new redirect URI with Google: {uri}"
    assert queries.get_instance(house, slug).redirect_uri == uri and uri in await page_of(slug)
    moved = await run(slug, SpecChanges(host_port=29556))
    assert moved.message == f"{slug}: running at {public}"
    refused = await run(slug, SpecChanges(host_port=29557, **back))
    assert refused.is_failed() and "allow_new_port=true" in refused.message
    local = await run(slug, SpecChanges(**back))
    assert local.message == (
        f"{slug}: running at http://localhost:29556; register the new redirect URI with Google: "
        "http://localhost:29556/api/auth/callback/google"
    )

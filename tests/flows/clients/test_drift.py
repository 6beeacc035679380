"""What was done behind provision-client's back is found, and mended or said: rights, orphans, a server open to everybody."""

import logging

from tasks.registry import queries
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, ClientNames
from tests.flows.clients.conftest import save_blocks
from tests.flows.clients.test_provision import page_of, run, wanted


async def test_lost_rights_are_mended_without_a_restart_and_an_orphan_is_said_and_left_alone(
    house, zero_image, slugs, docker_client, postgres_server, fleet, caplog
):
    slug, lost = slugs(), slugs()
    names = ClientNames(slug)
    assert (await run(slug, wanted(zero_image))).is_completed()
    before = docker_client.api.inspect_container(names.container)
    orphan = docker_client.api.create_container(
        zero_image, name=ClientNames(lost).container, labels={LABEL_FLEET: fleet, LABEL_CLIENT: lost}
    )
    with postgres_server.connect(names.database) as admin:
        admin.execute(f"REVOKE ALL ON mail0_user FROM {names.role}")
        admin.execute(f"REVOKE ALL ON SCHEMA public FROM {names.role}")
        with caplog.at_level(logging.WARNING):
            state = await run(slug)
        assert state.message == f"{slug}: running at http://localhost:{queries.get_instance(house, slug).host_port}"
        for right in (
            "has_table_privilege(%s, 'mail0_user', 'INSERT')",
            "has_schema_privilege(%s, 'public', 'CREATE')",
        ):
            assert admin.execute(f"SELECT {right}", (names.role,)).fetchone() == (True,)
    after = docker_client.api.inspect_container(names.container)
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert (
        f"the container {ClientNames(lost).container} bears this fleet's label, and the registry knows no"
        in caplog.text
    )
    assert docker_client.api.inspect_container(orphan["Id"])["State"]["Status"] == "created"


async def test_a_server_that_is_open_to_everybody_is_reported_and_changed_only_when_the_block_says_so(
    house, zero_image, slug, postgres_server
):
    with postgres_server.connect() as admin:
        admin.execute("GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC")
        opened = "SELECT has_database_privilege('public', 'template1', 'CONNECT')"
        await save_blocks(postgres_server, harden=False)
        try:
            assert (await run(slug, wanted(zero_image, enabled=False))).is_completed()
        finally:
            await save_blocks(postgres_server)
        assert "Every role of the server may connect to postgres, template1: REVOKE CONNECT" in await page_of(slug)
        assert admin.execute(opened).fetchone() == (True,)
        assert (await run(slug)).is_completed()
        assert admin.execute(opened).fetchone() == (False,)

"""deprovision-client on the real engine and PostgreSQL: proven backup first, then everything goes, and nothing of another client."""

import httpx
import pytest

from blocks.backups import BackupPolicy
from blocks.clients import ZeroSecrets
from blocks.documents import find
from blocks.installation import installation
from flows.backups.verify import verify_backup
from flows.clients.deprovision import deprovision_client
from tasks.registry import queries
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, ClientNames
from tests.flows.clients.test_provision import nothing_made, run, secrets_of, wanted


@pytest.fixture
async def backups(monkeypatch, pg_bin, tmp_path, house):
    """Where backups go."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    await BackupPolicy(directory=str(tmp_path), mail_enabled=False).save("backup-policy", overwrite=True)
    return tmp_path


async def deprovision(client: str, confirm: str | None = None, final_backup: bool = True):
    """The flow's final state."""
    return await deprovision_client(client, confirm or client, final_backup, return_state=True)


async def gone(house, docker_client, postgres_server, slug: str) -> bool:
    """Whether nothing of the client is left where it was."""
    block = await find(ZeroSecrets, ClientNames(slug).secrets_block)
    return block is None and nothing_made(house, docker_client, postgres_server, slug)


async def test_a_client_goes_after_a_proven_backup_and_the_others_stay_as_they_were(
    house, zero_image, slugs, docker_client, postgres_server, backups
):
    slug, other = slugs(), slugs()
    for name in (slug, other):
        assert (await run(name, wanted(zero_image))).is_completed()
    port, before = queries.get_instance(house, slug).host_port, queries.get_instance(house, other)
    names = ClientNames(slug)
    aside = docker_client.api.create_container(
        zero_image, name=names.container + "__before", labels={LABEL_FLEET: installation().fleet, LABEL_CLIENT: slug}
    )
    wrong = await deprovision(slug, other)
    assert wrong.is_failed() and f"confirm is '{other}', not '{slug}'; repeat the slug" in wrong.message
    assert queries.get_instance(house, slug).pending is None

    state = await deprovision(slug)
    assert state.is_completed(), state.message
    file = backups / slug / "latest_backup.sql.gz"
    assert state.message == (
        f"{slug}: deprovisioned: its container, database and role {names.role}, port {port} and its secrets are gone; its final "
        f"backup, proven by a trial restore, stays at {file}"
    )
    assert file.exists() and await gone(house, docker_client, postgres_server, slug)
    assert not docker_client.api.containers(all=True, filters={"id": aside["Id"]})
    verified = await verify_backup(client=slug, return_state=True)
    assert verified.is_completed(), verified.message

    again = await deprovision(slug)
    assert again.is_completed() and f"{slug}: nothing to do, it was deprovisioned at " in again.message
    after = queries.get_instance(house, other)
    assert (after.container_id, after.host_port, after.spec_hash) == (
        before.container_id,
        before.host_port,
        before.spec_hash,
    )
    assert docker_client.api.inspect_container(after.container_id)["State"]["Running"]
    assert httpx.get(f"http://127.0.0.1:{after.host_port}/api/auth/ok", trust_env=False).json() == {"ok": True}
    password = (await secrets_of(other)).database_password.get_secret_value()
    own = ClientNames(other)
    with postgres_server.connect(own.database, user=own.role, password=password) as connection:
        assert connection.execute("SELECT count(*) FROM mail0_user").fetchone() == (0,)


async def test_a_backup_that_fails_leaves_everything(house, zero_image, slug, docker_client, postgres_server, backups):
    assert (await run(slug, wanted(zero_image))).is_completed()
    before = queries.get_instance(house, slug)
    await BackupPolicy(directory="/proc/nowhere", mail_enabled=False).save("backup-policy", overwrite=True)
    state = await deprovision(slug)
    assert state.is_failed() and "/proc/nowhere" in state.message, state.message
    after = queries.get_instance(house, slug)
    assert (after.pending, after.status, after.container_id) == (None, before.status, before.container_id)
    assert "nothing to change" in (await run(slug)).message
    without = await deprovision(slug, final_backup=False)
    assert without.message.endswith("; no final backup was made, because final_backup is false")
    assert await gone(house, docker_client, postgres_server, slug)


async def test_an_adopted_container_that_an_upgrade_has_aside_goes_too(
    house, slug, docker_client, postgres_server, backups, zero_image
):
    aside = docker_client.api.create_container(zero_image, name=ClientNames(slug).container + "__before")["Id"]
    queries.register_client(house, slug)
    queries.update_instance(
        house, slug, pending={"operation": "upgrade", "phase": "trying", "before": {"container_id": aside}}
    )
    unsettled = await deprovision(slug)
    assert unsettled.is_failed() and "run provision-client for it, which settles it" in unsettled.message
    assert docker_client.api.containers(all=True, filters={"id": aside})
    assert (await deprovision(slug, final_backup=False)).is_completed()
    assert not docker_client.api.containers(all=True, filters={"id": aside})
    assert await gone(house, docker_client, postgres_server, slug)


async def test_a_client_without_container_and_database_goes_too(
    house, slug, docker_client, postgres_server, backups, zero_image
):
    queries.register_client(house, slug)
    state = await deprovision(slug)
    assert state.message.endswith("it had no database, so there was nothing to back up")
    assert await gone(house, docker_client, postgres_server, slug)


async def test_what_is_not_ours_is_left_alone(house, slug, docker_client, postgres_server, zero_image, backups):
    names = ClientNames(slug)
    unknown = await deprovision(slug)
    assert unknown.is_failed() and f"there is no client '{slug}'" in unknown.message
    foreign = docker_client.api.create_container(zero_image, name=names.container)
    queries.register_client(house, slug)
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {names.database}")
        connection.execute(f"COMMENT ON DATABASE {names.database} IS 'of the shop'")
    state = await deprovision(slug, final_backup=False)
    assert state.is_failed() and "is not ours (its comment says: of the shop)" in state.message
    with postgres_server.connect() as connection:
        connection.execute(f"DROP DATABASE {names.database}")
    state = await deprovision(slug, final_backup=False)
    assert f"the container {names.container} is not this fleet's and stays" in state.message
    assert docker_client.api.inspect_container(foreign["Id"])["State"]["Status"] == "created"


async def test_an_orphan_that_the_registry_does_not_know_goes_when_it_is_asked_for(
    house, slug, docker_client, postgres_server, zero_image, backups
):
    assert (await run(slug, wanted(zero_image))).is_completed()
    queries.forget_client(house, slug)
    state = await deprovision(slug)
    assert state.is_failed() and "so its database cannot be backed up" in state.message
    assert (await deprovision(slug, final_backup=False)).is_completed()
    assert await gone(house, docker_client, postgres_server, slug)

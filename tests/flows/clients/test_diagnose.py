"""diagnose-client on the real engine, a real PostgreSQL and the stand-in for Google: one thing broken, one line bad."""

import re
import socket
from dataclasses import replace

import pytest
from pydantic import SecretStr

from blocks.installation import installation
from flows.clients.diagnose import diagnose_client
from tasks.registry import queries
from tasks.registry.lock import hold
from tasks.registry.names import ClientNames
from tests.conftest import ROOT, free_port
from tests.flows.clients.conftest import save_blocks
from tests.flows.clients.test_provision import page_of, run, secrets_of, wanted
from tests.standins.google.running import running

ROW = re.compile(r"^\| (good|\*\*BAD\*\*|unknown) \| ([^|]+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """The stand-in for Google."""
    credentials = tmp_path_factory.mktemp("google") / "credentials.json"
    with running(
        free_port(), ROOT / ".state-cache", credentials, "http://localhost/api/auth/callback/google"
    ) as serving:
        yield serving


@pytest.fixture
async def google_block(house, google):
    """The block google-zero for the stand-in; the other tests' one afterwards."""
    from blocks.gmail import GoogleOAuthClient

    before = await GoogleOAuthClient.aload("google-zero")
    block = GoogleOAuthClient(
        client_id=google.client_id, client_secret=SecretStr(google.client_secret), **google.endpoints
    )
    await block.asave("google-zero", overwrite=True)
    yield block
    await before.asave("google-zero", overwrite=True)


@pytest.fixture
async def healthy(house, zero_image, slug, google_block):
    """A client that was provisioned."""
    state = await run(slug, wanted(zero_image))
    assert state.is_completed(), state.message
    return slug


async def diagnose(slug: str):
    """The flow's final state, and the page's rows: check to verdict, seen and cure."""
    state = await diagnose_client(slug, return_state=True)
    rows = {
        check: (verdict.strip("*").lower(), seen, cure)
        for verdict, check, seen, cure in ROW.findall(await page_of(slug, "diagnosis"))
    }
    return state, rows


def verdicts(rows, verdict: str) -> set[str]:
    """The checks that came to ``verdict``."""
    return {check for check, row in rows.items() if row[0] == verdict}


async def test_a_healthy_client_has_no_bad_line_and_nothing_unknown_and_shows_growth_at_the_next_look(
    healthy, house, postgres_server
):
    before = queries.get_instance(house, healthy)
    state, rows = await diagnose(healthy)
    assert state.message == f"{healthy}: {len(rows)} good, 0 bad", rows
    assert "first" not in rows["Zero's tables"][1] and "mail0" not in rows["Log"][1]
    assert f"http://localhost:{before.host_port}/api/auth/callback/google" in rows["Redirect URI"][1]
    after = queries.get_instance(house, healthy)
    assert (after.updated_at, after.status) == (before.updated_at, before.status)
    assert after.looked["rows"]["mail0_user"] == 0
    with postgres_server.connect(ClientNames(healthy).database) as connection:
        connection.execute("INSERT INTO mail0_connection (id, provider_id) VALUES ('1', 'google'), ('2', 'google')")
    with hold(house, healthy, "run 1 (upgrade)", installation().locks):
        state, rows = await diagnose(healthy)
    assert verdicts(rows, "unknown") == {"Operations"} and "run 1 (upgrade) since" in rows["Operations"][1]
    assert state.is_completed()
    assert "connection 2 (+2)" in rows["Zero's tables"][1]
    assert rows["Accounts in Zero"][1] == "2 accounts connected: google 2"
    secrets, page = await secrets_of(healthy), await page_of(healthy, "diagnosis")
    for name in ("database_password", "better_auth_secret", "autumn_key", "api_token"):
        assert getattr(secrets, name).get_secret_value() not in page


async def test_each_thing_that_is_broken_is_the_one_bad_line_with_its_cure(
    healthy, house, docker_client, postgres_server, google_block, zero_image
):
    names = ClientNames(healthy)
    role = names.role

    def sql(*statements: str, database: str = "postgres") -> None:
        with postgres_server.connect(database) as connection:
            for statement in statements:
                connection.execute(statement)

    async def only(check: str, seen: str, cure: str) -> None:
        state, rows = await diagnose(healthy)
        assert verdicts(rows, "bad") == {check}, rows
        assert seen in rows[check][1] and cure in rows[check][2]
        assert state.is_failed() and state.message.startswith(f"{healthy}: {check}: ") and "1 bad" in state.message

    password = (await secrets_of(healthy)).database_password.get_secret_value()
    sql(f"ALTER ROLE {role} PASSWORD 'another'")
    await only("Database from here", "refused the password", f"run provision-client for {healthy}")
    sql(f"ALTER ROLE {role} PASSWORD '{password}'")

    sql(f"REVOKE CREATE ON SCHEMA public FROM {role}", database=names.database)
    await only("Rights in the database", "lacks CREATE on schema public", "run provision-client")
    sql(f"GRANT CREATE ON SCHEMA public TO {role}", database=names.database)

    sql(f"GRANT CONNECT ON DATABASE {names.database} TO PUBLIC")
    await only("Isolation of the database", "PUBLIC may connect to it", "run provision-client")
    sql(f"REVOKE CONNECT ON DATABASE {names.database} FROM PUBLIC")

    block = google_block.model_copy(update={"client_secret": SecretStr("wrong")})
    await block.asave("google-zero", overwrite=True)
    _, rows = await diagnose(healthy)
    assert verdicts(rows, "bad") == {"Google client", "Other environment"}
    assert "invalid_client" in rows["Google client"][1] and "GOOGLE_CLIENT_SECRET" in rows["Other environment"][1]
    await google_block.asave("google-zero", overwrite=True)

    docker_client.api.stop(names.container, timeout=10)
    await only("Container", "it ended with exit code", f"run start-zero for {healthy}")
    _, rows = await diagnose(healthy)
    assert "in another container of its image" in rows["Database from inside"][1]
    assert verdicts(rows, "unknown") == {"Answer", "Address in the browser's code", "CPU, memory and network"}
    assert not docker_client.api.containers(all=True, filters={"name": "zero_look_"})

    docker_client.api.remove_container(names.container)
    await only("Container", "there is no container", f"run provision-client for {healthy}")
    docker_client.api.create_container(zero_image, name=names.container)
    await only("Container", "belongs to nobody we know", f"docker rename {names.container}")


async def test_a_port_that_a_foreign_process_has_is_named_with_that_process(house, zero_image, slug, google_block):
    assert (await run(slug, wanted(zero_image, enabled=False))).is_completed()
    port = queries.get_instance(house, slug).host_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        state, rows = await diagnose(slug)
    assert verdicts(rows, "bad") == {"Port"}, rows
    assert "python" in rows["Port"][1] and "(process " in rows["Port"][1]
    assert state.message.startswith(f"{slug}: Port: port {port} on 127.0.0.1 is taken by ")


async def test_with_docker_and_postgresql_and_google_gone_every_check_still_has_a_line(
    healthy, house, monkeypatch, postgres_server
):
    _, whole = await diagnose(healthy)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    try:
        await save_blocks(replace(postgres_server, port=free_port()))
        state, rows = await diagnose(healthy)
    finally:
        await save_blocks(postgres_server)
    assert set(rows) == set(whole)
    assert verdicts(rows, "bad") >= {"Docker engine", "Database from here"}
    assert state.message.startswith(f"{healthy}: Docker engine: Docker does not answer")


async def test_an_unknown_client_and_no_slug_are_refused(house):
    nobody = await diagnose_client("nobody", return_state=True)
    assert "there is no client 'nobody'" in nobody.message
    wrong = await diagnose_client("No Slug", return_state=True)
    assert "is no slug" in wrong.message

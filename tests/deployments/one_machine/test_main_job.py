"""The main job on the whole stack: what an operator relies on afterwards, and that no secret is where it should not be."""

import asyncio
import base64
import time
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest

from deployments.one_machine.runs import POLL_SECONDS
from tasks.registry.names import ClientNames, gmail_block
from tests.deployments.one_machine.gmail import connecting
from tests.deployments.one_machine.running import RunningStack
from tests.deployments.one_machine.secrecy import (
    forms,
    open_to_others,
    search_everywhere,
    secrets_of,
    watched_command_lines,
)
from tests.standins.google import consent as browser

USER = "grace"
SCHEDULE_SECONDS = 130


async def test_a_second_run_changes_nothing_and_says_so(stack: RunningStack, client):
    import docker

    port = stack.one_of_each(client)
    engine = docker.from_env(timeout=30)
    try:
        before = engine.api.inspect_container(ClientNames(client).container)
        ended = await stack.good("provision-client", client=client)
        after = engine.api.inspect_container(ClientNames(client).container)
    finally:
        engine.close()
    assert ended.message == f"{client}: nothing to change, running at http://localhost:{port}"
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert stack.ask("GET", f"/flow_runs/{ended.id}")["name"] == f"provision {client}"


async def test_nobody_else_gets_into_a_clients_database(stack: RunningStack, client, slug):
    assert (await stack.provision(slug)).state == "COMPLETED"
    mine, other = ClientNames(client), ClientNames(slug)
    blocks = stack.blocks()
    password = blocks[mine.secrets_block]["data"]["database_password"]
    foreign = blocks[other.secrets_block]["data"]["database_password"]
    with stack.connect() as connection:
        acl = "SELECT count(*) FROM pg_database, aclexplode(datacl) AS entry WHERE datname = %s AND grantee = 0"
        for name in (mine.database, other.database, "postgres", "template1"):
            assert connection.execute(acl, (name,)).fetchone() == (0,), name
    with stack.connect(mine.database, user=mine.role, password=password) as connection:
        assert connection.execute("SELECT count(*) FROM mail0_user").fetchone() == (0,)
    for database in (mine.database, "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            stack.connect(database, user=other.role, password=foreign)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        stack.connect(mine.database, user=mine.role, password=foreign)


async def test_a_poll_that_the_schedule_started_completes(stack: RunningStack, client):
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    deployment = stack.ask("GET", "/deployments/name/poll-fleet-health/default")["id"]
    wanted = {
        "deployment_id": {"any_": [deployment]},
        "state": {"type": {"any_": ["COMPLETED"]}},
        "start_time": {"after_": since},
    }
    deadline = time.monotonic() + SCHEDULE_SECONDS
    while time.monotonic() < deadline:
        runs = stack.ask("POST", "/flow_runs/filter", {"flow_runs": wanted, "limit": 20})
        messages = [run["state"]["message"] for run in runs if run["auto_scheduled"]]
        if any("healthy" in message for message in messages):
            return
        await asyncio.sleep(4 * POLL_SECONDS)
    raise AssertionError(f"no scheduled poll completed within {SCHEDULE_SECONDS} s")


class Browser(httpx.Client):
    """The user's browser, which remembers what went through its address bar."""

    addresses: list[str] = []  # noqa: RUF012

    def send(self, request: httpx.Request, **given: object) -> httpx.Response:
        """As httpx does."""
        self.addresses.append(str(request.url))
        return super().send(request, **given)  # type: ignore[arg-type]


async def test_no_secret_is_anywhere_but_in_the_private_files(stack: RunningStack, client, monkeypatch):
    monkeypatch.setattr(browser, "httpx", SimpleNamespace(Client=Browser))
    with watched_command_lines() as command_lines:
        async with connecting(stack, USER, "grace@site.example") as (link, ended):
            secrets = secrets_of(stack)  # the handshake's, which are gone afterwards
            page = await asyncio.to_thread(browser.consent, link)
            assert page.status == 200, page.title
        assert ended[0].state == "COMPLETED", ended[0].message
        asked = [parse_qs(urlsplit(address).query) for address in Browser.addresses]
        secrets |= {
            f"{name} in the address bar": query[name][0]
            for query in asked
            for name in ("code", "state")
            if name in query
        }
        assert {"code in the address bar", "state in the address bar"} <= set(secrets)
        named = {
            "refresh Gmail profile of grace": stack.good("refresh-gmail-profile", user=USER),
            "send test e-mail to operator@example.org": stack.good("send-test-email", recipient="operator@example.org"),
            f"backup {client}": stack.good("backup-database", client=client),
        }
        runs = await asyncio.gather(*named.values())
        verified = await stack.good("verify-backup", client=client)
        assert stack.ask("GET", f"/flow_runs/{verified.id}")["name"] == f"verify backup of {client}"
        for name, run in zip(named, runs, strict=True):
            assert stack.ask("GET", f"/flow_runs/{run.id}")["name"] == name
        assert (await stack.provision(client, thread_sync_max_count=400)).state == "COMPLETED"
    secrets |= secrets_of(stack)
    expected = {"keys/api", "keys/encryption", "keys/postgres-superuser", "smtp.password", "google-gmail.client_secret"}
    expected |= {f"zero-{client}.{name}" for name in ("database_password", "better_auth_secret", "api_token")}
    expected |= {f"{gmail_block(USER)}.{name}" for name in ("access_token", "refresh_token")}
    assert expected <= set(secrets), expected - set(secrets)
    assert any(name.startswith("gmail-handshake-") for name in secrets)

    search = await asyncio.to_thread(search_everywhere, stack, secrets, command_lines)
    print(f"{len(secrets)} secrets over {sum(search.looked.values()) >> 20} MiB in {len(search.looked)} places")
    assert not search.found
    seen = " ".join(search.looked)
    for place in ("prefect.db-wal", "prefect.db: log", "prefect.db: artifact", "prefect.db: events", "prefect.db: flow_run_input",
                  "prefect.db: flow_run_state", "registry.sqlite: backup_run", "logs/server.log", "logs/worker-work.log",
                  "logs/gateway.log", "postgres/postgres.log", "(part, unpacked)", ".gz (unpacked)", "docker logs zero_client_",
                  "git prefect.yaml", "ps -ef"):  # fmt: skip
        assert place in seen, f"{place} was not searched"
    assert not open_to_others(stack.place.state)


async def test_the_search_finds_what_was_planted(stack: RunningStack):
    planted = "planted/hunter+22 & more"
    for where, form in enumerate(sorted(forms(planted))):
        (stack.place.logs / f"planted-{where}.log").write_bytes(b"before " + form + b" after")
    basic = base64.b64encode(f"admin:{planted}".encode()).decode()
    stack.ask("POST", "/artifacts/", {"key": "planted", "type": "markdown", "data": "x" * 6000 + basic + "y" * 6000})
    (stack.place.state / "demo" / "mail" / "0.eml").write_text(
        f"Subject: planted\nContent-Transfer-Encoding: base64\n\n{base64.b64encode(planted.encode()).decode()}\n"
    )
    try:
        search = await asyncio.to_thread(search_everywhere, stack, {"it": planted}, {f"psql -p {planted}"})
    finally:
        for file in stack.place.logs.glob("planted-*.log"):
            file.unlink()
        (stack.place.state / "demo" / "mail" / "0.eml").unlink()
    places = {place for _, place in search.found}
    assert {f"logs/planted-{where}.log" for where in range(len(forms(planted)))} <= places
    assert {"prefect/prefect.db: artifact", "command lines", "demo/mail/0.eml (part)"} <= places

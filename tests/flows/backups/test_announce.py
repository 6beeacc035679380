"""backup-database and the webhook: each ending is told once, and what the endpoint does never changes the ending."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr
from sqlmodel import Session, delete, select

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.installation import installation
from blocks.webhook import WebhookEndpoint
from flows.backups.backup import backup_database
from tasks.backups.source import Target
from tasks.backups.steps import announce
from tasks.registry.lock import holder_now
from tasks.registry.models import BackupRun
from tests.conftest import ROOT
from tests.tasks.backups.webhook_server import KEY, TOKEN, Answer, receiving

APP = Target(database="hooked")


@pytest.fixture
async def house(installed_registry, postgres_server, pg_bin, tmp_path, monkeypatch):
    """A database of its own behind the block `hooked`, no mail; the server that it is on."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    name = f"hooked_{secrets.token_hex(4)}"
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    with postgres_server.connect(name) as admin:
        admin.execute("CREATE TABLE mails (id int, subject text); INSERT INTO mails VALUES (1, 'Grüße')")
    await PostgresDatabase(
        host=postgres_server.host,
        port=postgres_server.port,
        username=postgres_server.username,
        password=SecretStr(postgres_server.password),
        database=name,
    ).asave("hooked", overwrite=True)
    await BackupPolicy(directory=str(tmp_path / "backups"), webhook="hooks").asave("backup-policy", overwrite=True)
    yield tmp_path
    await PostgresDatabase.adelete("hooked")
    await BackupPolicy().asave("backup-policy", overwrite=True)
    with Session(installed_registry) as session:
        session.exec(delete(BackupRun))
        session.commit()
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def hooked(url: str, key: str = KEY) -> None:
    """The block `hooks` names ``url``."""
    await WebhookEndpoint(url=SecretStr(url), signing_key=SecretStr(key)).asave("hooks", overwrite=True)


async def ended() -> tuple[str, str, str]:
    """How a backup of `hooked` ended: state, sentence, and all that its log says of the webhook."""
    state = await backup_database(database="hooked", return_state=True)
    run_id = state.state_details.flow_run_id
    async with get_client() as client:
        for _ in range(300):  # logs reach the server in batches
            logs = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
            said = [f"{log.level} {log.message}" for log in logs]
            if any("Finished in state" in one and (state.message or "") in one for one in said):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError(f"the log of the run did not come: {said}")
    assert not [one for one in said if TOKEN in one or KEY in one]
    return state.name or "", state.message or "", "\n".join(one for one in said if "the webhook " in one)


async def page() -> str:
    """The newest page of `hooked`."""
    async with get_client() as client:
        pages = [one for one in await client.read_artifacts() if one.key == APP.artifact]
    return str(max(pages, key=lambda one: one.created).data)


async def test_a_good_backup_is_told_with_its_facts_and_shown_as_told(house):
    with receiving() as receiver:
        await hooked(receiver.url)
        name, said, _ = await ended()
    assert name == "Completed" and "webhook" not in said
    (got,) = receiver.got
    event = got.event()
    data = event["data"]
    assert event["type"] == "backup.finished" and (data["status"], data["error"]) == ("good", None)
    assert (data["target"], data["database"], data["client"]) == ("database:hooked", "hooked", None)
    assert (data["tables"], data["rows"], data["delivery"]) == (1, 1, "off")
    assert len(data["sha256"]) == 64 and data["file_bytes"] > 0 and data["run_id"]
    assert "| Webhook | told 127.0.0.1 |" in await page() and TOKEN not in await page()


async def test_a_failed_backup_is_told_and_ends_with_the_same_sentence(house):
    block = await PostgresDatabase.aload("hooked")
    block.password = SecretStr("not-the-password")
    await block.asave("hooked", overwrite=True)
    with receiving() as receiver:
        await hooked(receiver.url)
        name, said, _ = await ended()
    assert name == "Failed" and "correct the password in the block hooked and run again" in said
    (got,) = receiver.got
    data = got.event()["data"]
    assert (data["status"], data["error"], data["sha256"]) == ("failed", said, None)


async def test_what_the_endpoint_does_never_changes_how_a_backup_ends(house):
    with receiving(Answer(404)) as receiver:
        await hooked(receiver.url)
        name, said, logged = await ended()
    assert name == "Completed" and said.endswith("mailing is off."), said
    assert "30 the webhook was not told: the webhook at 127.0.0.1 answered 404;" in logged
    assert "| Webhook | NOT told: the webhook at 127.0.0.1 answered 404;" in await page()


async def test_a_webhook_that_is_set_up_wrongly_is_named_and_the_backup_stands(house):
    for url, key, words in (
        ("http://hooks.example.org/" + TOKEN, KEY, "the URL in the block hooks is http, which anybody on the way can"),
        (
            "https://hooks.example.org/" + TOKEN,
            "short",
            "the signing key in the block hooks is neither whsec_ and base64",
        ),
    ):
        await hooked(url, key)
        name, _, logged = await ended()
        assert name == "Completed" and words in logged and words in await page()
    for webhook, words in (
        (
            "no-such-hook",
            "the block no-such-hook does not exist; make it in the Prefect UI under Blocks, or empty Webhook",
        ),
        (
            "hooked",
            "there is no Webhook Endpoint block 'hooked' (the block of that name is of the type Zero Fleet Postgre",
        ),
    ):
        await BackupPolicy(directory=str(house / "backups"), webhook=webhook).asave("backup-policy", overwrite=True)
        name, _, logged = await ended()
        assert name == "Completed" and words in logged and words in await page()


async def test_without_a_webhook_nothing_is_told_or_shown(house):
    await BackupPolicy(directory=str(house / "backups")).asave("backup-policy", overwrite=True)
    with receiving() as receiver:
        await hooked(receiver.url)
        name, _, logged = await ended()
    assert name == "Completed" and receiver.got == [] and logged == "" and "Webhook" not in await page()


async def test_an_alert_of_the_fleet_is_told_and_none_is_not(house):
    @flow
    async def night() -> list[str]:
        return [await announce.tell_alert(["acme is old; see why."]), await announce.tell_alert([])]

    with receiving() as receiver:
        await hooked(receiver.url)
        assert await night() == ["told 127.0.0.1", ""]
    (got,) = receiver.got
    event = got.event()
    assert event["type"] == "backup.alert" and event["data"]["alerts"] == ["acme is old; see why."]


async def test_a_run_that_is_killed_while_it_tells_leaves_a_good_backup_and_nothing_held(house, installed_registry):
    command = "import asyncio; from flows.backups.backup import backup_database; asyncio.run(backup_database(database='hooked'))"
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    environment["ZERO_FLEET_PG_BIN"] = str(installation().pg_bin)
    with receiving(Answer(seconds=600)) as receiver:
        await hooked(receiver.url)
        with subprocess.Popen(
            [sys.executable, "-c", command], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        ) as run:
            came = await asyncio.to_thread(receiver.came.wait, 120)
            run.send_signal(signal.SIGKILL)
            assert came, run.communicate()[1]
        with Session(installed_registry) as session:
            (row,) = session.exec(select(BackupRun).where(BackupRun.target == APP.key)).all()
        assert row.status == "good" and row.path and os.path.exists(row.path)
        assert holder_now(installed_registry, APP.lock, installation().locks) is None
        receiver.answers = [Answer()]
        name, said, _ = await ended()
    assert name == "Completed", said
    first, second = receiver.got
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert (first.event()["data"]["status"], second.event()["data"]["status"]) == ("good", "good")
    assert not [left for left in os.listdir(house / "backups" / "database_hooked") if left.startswith(".")]

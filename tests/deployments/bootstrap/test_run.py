"""Bootstrap against a real Prefect server and a real registry file."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_email import EmailServerCredentials
from sqlmodel import Session

from blocks.backups import BackupPolicy
from blocks.clients import PostgresServer
from blocks.gmail import GmailToken, GoogleOAuthClient
from blocks.registry import open_registry
from deployments.bootstrap import kinds
from deployments.bootstrap.difference import Outcome
from deployments.bootstrap.plan import Wanted
from deployments.bootstrap.refusals import BadSettings
from deployments.bootstrap.run import bootstrap
from deployments.bootstrap.written import VARIABLE, read_written, remember
from tasks.errors import NotConfigured, Unreachable
from tasks.registry.models import GmailProfile
from tasks.registry.names import gmail_block, user_id
from tasks.registry.revision import require_head

USER = "old-way-42"
ROOT = Path(__file__).parents[3]
SECRETS = ("mail-hush", "db-hush", "server-hush", "zero-hush", "gmail-hush", "72727272", "twilio-hush", "url-hush")
WEBHOOK_KEY, METRICS_TOKEN = "webhook-hush-webhook-hush", "metrics-hush-metrics-hush"
VALUES = {
    "EMAIL_HOST": "smtp.example.org",
    "EMAIL_HOST_USER": "ops@example.org",
    "EMAIL_HOST_PASSWORD": SECRETS[0],
    "EMAIL_BACKUP_RECIPIENT": "a@example.org",
    "DATABASE_URL": f"postgres://app:{SECRETS[1]}@db.example.org/app",
    "ZERO_POSTGRES_URL": f"postgres://prov:{SECRETS[2]}@db.example.org",
    "GOOGLE_CLIENT_ID": "one",
    "GOOGLE_CLIENT_SECRET": SECRETS[3],
    "GMAIL_CLIENT_ID": "two",
    "GMAIL_CLIENT_SECRET": SECRETS[4],
    "AUTUMN_SECRET_KEY": SECRETS[5],
    "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": SECRETS[6],
    "TWILIO_PHONE_NUMBER": "+43123456789",
    "BACKUP_WEBHOOK_URL": f"https://hooks.example.org/{SECRETS[7]}",
    "BACKUP_WEBHOOK_KEY": WEBHOOK_KEY,
    "METRICS_TOKEN": METRICS_TOKEN,
}
NAMES = {"smtp", "app-database", "postgres-server", "google-zero", "google-gmail", "twilio", "autumn-key"} | {
    "backup-policy",
    "alert-policy",
    "backup-webhook",
    "metrics-token",
}


@pytest.fixture(autouse=True)
async def _no_blocks(prefect_api: None) -> AsyncIterator[None]:
    """Each test begins without our blocks; those of other tests are put back afterwards."""
    others = await _delete()
    yield
    await _delete()
    async with get_client() as client:
        for document in others:
            fields = ("name", "data", "block_schema_id", "block_type_id")
            await client.create_block_document(
                BlockDocumentCreate(**{name: getattr(document, name) for name in fields})
            )


async def _delete() -> list[BlockDocument]:
    async with get_client() as client:
        with suppress(ObjectNotFound):
            await client.delete_variable_by_name(VARIABLE)
        everything = await client.read_block_documents(limit=200, include_secrets=True)
        ours = [document for document in everything if document.name in NAMES | {gmail_block(USER)}]
        for document in ours:
            await client.delete_block_document(document.id)
        with suppress(ObjectNotFound):
            await client.delete_variable_by_name(f"gmail_token_imported_{user_id(USER)}")
    return ours


def outcomes(report):
    return {block.name: block.outcome for block in report.blocks}


async def memory():
    async with get_client() as client:
        return {name: one.updated for name, one in (await read_written(client)).items() if not one.pending}


async def times():
    """When Prefect says that our blocks were changed, in its own words."""
    async with get_client() as client:
        answer = await client.request("POST", "/block_documents/filter", json={"limit": 200})
    return {one["name"]: one["updated"] for one in answer.json() if one["name"] in NAMES}


async def test_a_second_run_changes_nothing():
    first = await bootstrap(VALUES)
    remembered = await memory()
    assert set(outcomes(first)) == NAMES == set(remembered) and set(outcomes(first).values()) == {Outcome.CREATED}
    require_head(await open_registry())
    second = await bootstrap(VALUES)
    assert set(outcomes(second).values()) == {Outcome.UNCHANGED} and not second.changed
    assert await memory() == remembered == await times()
    smtp = await EmailServerCredentials.aload("smtp")
    assert (smtp.smtp_type.name, smtp.password.get_secret_value()) == ("STARTTLS", SECRETS[0])
    # .get() would read digits as a number; the key is the text.
    assert (await Secret.aload("autumn-key")).value.get_secret_value() == SECRETS[5]


async def test_what_was_edited_in_the_ui_is_kept_and_shown_and_overwritten_only_when_told():
    await bootstrap(VALUES)
    policy = await BackupPolicy.aload("backup-policy")
    policy.recipients, policy.stall_seconds = ["new@example.org"], 7
    await policy.asave("backup-policy", overwrite=True)
    kept = await bootstrap(VALUES)
    assert outcomes(kept)["backup-policy"] is Outcome.KEPT
    assert any("['new@example.org'] in Prefect, ['a@example.org']" in line for line in kept.lines())
    assert (await BackupPolicy.aload("backup-policy")).recipients == ["new@example.org"]
    told = await bootstrap(VALUES, overwrite=True)
    assert outcomes(told)["backup-policy"] is Outcome.OVERWRITTEN
    after = await BackupPolicy.aload("backup-policy")
    assert (after.recipients, after.stall_seconds) == (["a@example.org"], 7)


def servers_own():
    """The blocks of the stack itself, as the embedded PostgreSQL and the stand-in for Google give them."""
    server = {"host": "127.0.0.1", "port": 4201, "username": "own", "password": "own-hush", "container_host": "own"}
    google = {"client_id": "stand-in", "client_secret": "own-hush", "gmail_api": "http://127.0.0.1:4203"}
    return [Wanted("postgres-server", PostgresServer, server), Wanted("google-gmail", GoogleOAuthClient, google)]


async def test_blocks_that_nobody_edited_follow_settings_that_come_later():
    await bootstrap({}, given=servers_own())
    foreseen = await bootstrap(VALUES, dry_run=True)
    assert outcomes(foreseen)["postgres-server"] is Outcome.UPDATED
    assert any("postgres-server" in line and "would be updated" in line for line in foreseen.lines())
    later = await bootstrap(VALUES)
    followed = {name for name, outcome in outcomes(later).items() if outcome is Outcome.UPDATED}
    assert followed == {"postgres-server", "google-gmail", "backup-policy"} and not later.kept
    server = await PostgresServer.aload("postgres-server")
    assert (server.host, server.container_host) == ("db.example.org", "db.example.org")
    google = await GoogleOAuthClient.aload("google-gmail")
    assert google.client_id == "two" and "127.0.0.1" not in str(google.gmail_api)  # the stand-in's address is gone
    again = await bootstrap(VALUES | {"EMAIL_HOST": "other.example.org"})
    assert outcomes(again)["smtp"] is Outcome.UPDATED and not again.kept
    assert (await EmailServerCredentials.aload("smtp")).smtp_server == "other.example.org"
    assert "hush" not in "\n".join([*later.lines(), *again.lines()])


async def test_a_block_that_was_edited_stays_kept_until_it_is_overwritten_and_follows_from_then_on():
    await bootstrap(VALUES)
    async with get_client() as client:
        edited = await client.read_block_document_by_name("smtp", "email-server-credentials")
        # As the UI does: the form's fields, through the API.
        body = {"data": {"smtp_server": "ui.example.org"}, "merge_existing_data": True}
        await client.request("PATCH", f"/block_documents/{edited.id}", json=body)
    for host in ("two.example.org", "three.example.org"):
        kept = await bootstrap(VALUES | {"EMAIL_HOST": host})
        assert outcomes(kept)["smtp"] is Outcome.KEPT
        assert any("`make up OVERWRITE=1`" in line and "smtp" in line for line in kept.lines())
    told = await bootstrap(VALUES, overwrite=True)
    assert outcomes(told)["smtp"] is Outcome.OVERWRITTEN
    assert outcomes(await bootstrap(VALUES | {"EMAIL_HOST": "four.example.org"}))["smtp"] is Outcome.UPDATED


async def test_a_block_of_which_nothing_is_remembered_counts_as_edited_until_the_settings_are_told_to_win():
    await bootstrap(VALUES)
    async with get_client() as client:
        await client.delete_variable_by_name(VARIABLE)
    other = VALUES | {"EMAIL_HOST": "other.example.org"}
    assert outcomes(await bootstrap(other))["smtp"] is Outcome.KEPT
    assert set(outcomes(await bootstrap(VALUES, overwrite=True)).values()) == {Outcome.UNCHANGED}
    assert outcomes(await bootstrap(other))["smtp"] is Outcome.UPDATED


async def test_a_bootstrap_that_was_killed_before_it_remembered_is_finished_by_the_next():
    await bootstrap(VALUES)
    async with get_client() as client:
        written = await read_written(client)
        await remember(client, {name: replace(one, updated="", pending=True) for name, one in written.items()})
    assert set(outcomes(await bootstrap(VALUES)).values()) == {Outcome.UNCHANGED}
    assert await memory() == await times()


async def test_everything_that_is_wrong_is_told_at_once():
    values = {
        "EMAIL_PORT": "x",
        "EMAIL_BACKUP_ENABLED": "maybe",
        "DATABASE_URL": "mysql://u:hush@h/d",
        "GMAIL_CREDENTIALS_FILE": "/nowhere.json",
        "TIME_ZONE": "Mars",
    }
    with pytest.raises(BadSettings, match="no block was changed") as refused:
        await bootstrap(values, refused=[".env, line 1, cannot be read."])
    named = [sentence.split()[0] for sentence in refused.value.sentences]
    assert named == [
        ".env,",
        "EMAIL_PORT",
        "EMAIL_BACKUP_ENABLED",
        "GMAIL_CREDENTIALS_FILE",
        "TIME_ZONE",
        "DATABASE_URL",
    ]
    assert "hush" not in str(refused.value)


async def test_a_block_that_was_filled_beforehand_is_honoured():
    await EmailServerCredentials(smtp_server="own.example.org", smtp_type="SSL").asave("smtp")
    report = await bootstrap({})
    assert not any("block smtp" in note for note in report.notes)
    assert any("block app-database" in note for note in report.notes)
    await bootstrap(VALUES)
    assert (await EmailServerCredentials.aload("smtp")).smtp_server == "own.example.org"


async def test_a_dry_run_changes_nothing():
    report = await bootstrap(VALUES, dry_run=True)
    assert set(outcomes(report).values()) == {Outcome.CREATED}
    assert any("would be created" in line for line in report.lines())
    async with get_client() as client:
        assert not {block.name for block in await client.read_block_documents(limit=200)} & NAMES


async def test_a_token_file_is_imported_once_and_never_written(tmp_path):
    file = tmp_path / "token.json"
    content = {
        "token": "access-hush",
        "refresh_token": "refresh-hush",
        "client_id": "two",
        "client_secret": "gmail-hush",
        "scopes": ["openid"],
        "expiry": "2030-01-01T00:00:00Z",
    }
    file.write_text(json.dumps(content))
    file.chmod(0o400)
    before = file.read_bytes()
    values = VALUES | {"GMAIL_TOKEN_FILE": str(file), "GMAIL_TOKEN_USER": USER}
    report = await bootstrap(values)
    assert any(f"imported for user {USER}" in note for note in report.notes) and "hush" not in "\n".join(report.lines())
    token = await GmailToken.aload(gmail_block(USER))
    assert token.refresh_token.get_secret_value() == "refresh-hush"
    with Session(await open_registry()) as session:
        row = session.get(GmailProfile, USER)
        assert (row.generation, row.granted_scopes, row.refreshed_at) == (token.generation, "openid", None)
        # The user disconnects: nothing of it comes back with the next bootstrap.
        session.delete(row)
        session.commit()
    await GmailToken.adelete(f"gmail-{user_id(USER)}")
    again = await bootstrap(values)
    assert any(f"was imported for user {USER} before" in note for note in again.notes)
    with Session(await open_registry()) as session:
        assert session.get(GmailProfile, USER) is None
    assert file.read_bytes() == before


async def test_an_import_that_was_cut_off_is_finished(tmp_path):
    file = tmp_path / "token.json"
    file.write_text('{"refresh_token": "r", "client_id": "two", "client_secret": "s"}')
    await GmailToken(user=USER, refresh_token="r", generation=1).asave(gmail_block(USER))
    await bootstrap({"GMAIL_TOKEN_FILE": str(file), "GMAIL_TOKEN_USER": USER})
    with Session(await open_registry()) as session:
        row = session.get(GmailProfile, USER)
        assert row is not None
        session.delete(row)
        session.commit()


async def test_without_prefect_it_says_so():
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(Unreachable, match="make up"):
        await bootstrap({})


async def test_without_an_address_it_refuses_to_fill_a_server_of_its_own():
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(NotConfigured, match="PREFECT_API_URL"):
        await bootstrap({})


async def test_every_block_type_is_known_to_prefect_afterwards():
    await bootstrap({})
    async with get_client() as client:
        known = {kind.slug for kind in await client.read_block_types()}
    assert {kind.get_block_type_slug() for kind in kinds.ALL} <= known


def run_it(cwd: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "deployments.bootstrap", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


async def test_the_command_shows_a_table_without_any_secret(tmp_path):
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in VALUES.items()))
    (tmp_path / ".env").chmod(0o644)
    first = run_it(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "chmod 600 .env" in first.stdout
    changed = run_it(tmp_path, EMAIL_HOST_PASSWORD="other-hush", AUTUMN_SECRET_KEY="other-hush")
    assert changed.returncode == 0 and changed.stdout.count("(secret differs)") == 2
    said = first.stdout + first.stderr + changed.stdout + changed.stderr
    assert "smtp" in said and not [secret for secret in (*SECRETS, "hush") if secret in said]


def test_the_command_refuses_in_words_and_with_exit_code_1(tmp_path):
    (tmp_path / ".env").write_text("EMAIL_PROT=465\n")
    refused = run_it(tmp_path, EMAIL_PORT="x")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "EMAIL_PORT is 'x'; write a whole number." in refused.stderr and "Traceback" not in refused.stderr
    assert "EMAIL_PROT is not read; did you mean EMAIL_PORT?" in refused.stderr
    assert "no file" in run_it(tmp_path, "--env-file", "nowhere").stderr


def test_a_line_that_cannot_be_read_is_refused_once_in_our_words(tmp_path):
    (tmp_path / ".env").write_text("EMAIL_HOST=x\nhush hush\n")
    refused = run_it(tmp_path, EMAIL_PORT="x")
    assert refused.returncode == 1 and "hush" not in refused.stderr and "dotenv" not in refused.stderr
    assert refused.stderr.count(".env, line 2, cannot be read") == 1 and "EMAIL_PORT" in refused.stderr

"""Bootstrap against a real Prefect server and a real registry file."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
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
from blocks.gmail import GmailToken
from blocks.registry import open_registry
from deployments.bootstrap import kinds
from deployments.bootstrap.difference import Outcome
from deployments.bootstrap.run import bootstrap
from tasks.errors import NotConfigured, Unreachable
from tasks.registry.models import GmailProfile
from tasks.registry.names import gmail_block, user_id
from tasks.registry.revision import require_head

USER = "old-way-42"
ROOT = Path(__file__).parents[3]
SECRETS = ("mail-hush", "db-hush", "server-hush", "zero-hush", "gmail-hush", "72727272", "twilio-hush")
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
}
NAMES = {"smtp", "app-database", "postgres-server", "google-zero", "google-gmail", "twilio", "autumn-key"} | {
    "backup-policy",
    "alert-policy",
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
        everything = await client.read_block_documents(limit=200, include_secrets=True)
        ours = [document for document in everything if document.name in NAMES | {gmail_block(USER)}]
        for document in ours:
            await client.delete_block_document(document.id)
        with suppress(ObjectNotFound):
            await client.delete_variable_by_name(f"gmail_token_imported_{user_id(USER)}")
    return ours


def outcomes(report):
    return {block.name: block.outcome for block in report.blocks}


async def test_a_second_run_changes_nothing():
    first = await bootstrap(VALUES)
    assert set(outcomes(first)) == NAMES and set(outcomes(first).values()) == {Outcome.CREATED}
    require_head(await open_registry())
    second = await bootstrap(VALUES)
    assert set(outcomes(second).values()) == {Outcome.UNCHANGED} and not second.changed
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

"""The three flows on a real Prefect server, a real PostgreSQL and the mail server stand-in."""

import secrets
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect_email import EmailServerCredentials
from pydantic import SecretStr
from sqlmodel import Session, delete, select

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer, ZeroSecrets
from blocks.installation import installation
from flows.backups.backup import backup_database
from flows.backups.check_mail import send_test_email
from flows.backups.verify import verify_backup
from tasks.backups import history
from tasks.backups.source import Target
from tasks.backups.steps import dump as dump_steps
from tasks.registry.models import BackupMail, BackupRun, Delivery
from tasks.registry.names import ClientNames
from tasks.registry.queries import forget_client, register_client
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running

FILE = "latest_backup.sql.gz"


@pytest.fixture
async def house(installed_registry, postgres_server, pg_bin, tmp_path, monkeypatch):
    """Blocks as an operator has them, a client `flowacme` with a database, and a mail server; the folder of backups."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    names, password = ClientNames("flowacme"), secrets.token_hex(12)
    app = f"app_{secrets.token_hex(4)}"
    with postgres_server.connect() as admin:
        _drop(admin, names, app)
        admin.execute(f"CREATE ROLE {names.role} LOGIN PASSWORD '{password}'")
        for database in (names.database, app):
            admin.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
    for database in (names.database, app):
        with postgres_server.connect(database) as admin:
            admin.execute(f"GRANT ALL ON SCHEMA public TO {names.role}")
            if database == names.database:
                admin.execute(f"SET ROLE {names.role}")
            admin.execute("CREATE TABLE mails (id int, subject text); INSERT INTO mails VALUES (1, 'Grüße')")
    register_client(installed_registry, "flowacme")
    server = {"host": postgres_server.host, "port": postgres_server.port, "username": postgres_server.username}
    secret = SecretStr(postgres_server.password)
    await PostgresServer(**server, password=secret).save("postgres-server", overwrite=True)
    await PostgresDatabase(**server, password=secret, database=app).save("app-database", overwrite=True)
    await ZeroSecrets(database_password=SecretStr(password)).save(names.secrets_block, overwrite=True)
    ca, cert, key = certificates(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    with running(tmp_path / "mail", cert, key) as (_, port):
        await EmailServerCredentials(
            username=USER, password=SecretStr(PASSWORD), smtp_server="localhost", smtp_type="STARTTLS", smtp_port=port
        ).save("smtp", overwrite=True)
        await _policy(tmp_path)
        yield tmp_path
    forget_client(installed_registry, "flowacme")
    with Session(installed_registry) as session:
        session.exec(delete(BackupMail))  # SQLite gives the ids of the last rows again
        session.exec(delete(BackupRun))
        session.commit()
    with postgres_server.connect() as admin:
        _drop(admin, names, app)


def _drop(admin, names: ClientNames, app: str) -> None:
    for database in (names.database, app):
        admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    admin.execute(f"DROP ROLE IF EXISTS {names.role}")


async def _policy(folder: Path, **other) -> None:
    given = {"mail_enabled": True, "recipients": ["ops@example.org"], "sender": "Backups <ops@example.org>"}
    given["directory"] = str(folder / "backups")
    await BackupPolicy(**(given | other)).save("backup-policy", overwrite=True)


async def _run(flow, **parameters) -> tuple[str, str]:
    state = await flow(**parameters, return_state=True)
    return state.name, state.message or ""


def _row(registry, target: Target) -> BackupRun:
    row = history.latest_good(registry, target)
    assert row is not None
    return row


async def test_a_client_and_the_operators_database_are_backed_up_mailed_and_verified(house, installed_registry):
    name, said = await _run(backup_database, client="flowacme")
    assert name == "Completed", said
    assert (
        "client flowacme is backed up in" in said and "1 table, 1 row" in said and "mailed to ops@example.org" in said
    )
    assert (house / "backups" / "flowacme" / FILE).exists()
    name, said = await _run(backup_database, database="app-database")
    assert name == "Completed", said
    assert (house / "backups" / FILE).exists()
    subjects = [mail["subject"] for mail in mails(house / "mail")]
    assert subjects[0].startswith("[AgentAssistant] Backup flowacme - 20")
    assert subjects[1].startswith("[AgentAssistant] Backup - 20")
    row = _row(installed_registry, Target(client="flowacme"))
    assert row.delivery == Delivery.SENT and row.recipients == "ops@example.org"
    assert row.message_id == mails(house / "mail")[0]["message-id"]

    name, said = await _run(verify_backup)
    assert name == "Completed", said
    assert said.startswith("2 backups restored and compared equal: client flowacme (1 table with 1 row ")
    assert _row(installed_registry, Target(client="flowacme")).verified is True

    async with get_client() as client:
        found = await client.read_artifacts()
        runs = await client.read_flow_runs()
    pages = {one.key: str(one.data) for one in found}
    assert "mailed to ops@example.org" in pages["backup-flowacme"] and "backup-database-app-database" in pages
    assert {"backup flowacme", "backup app-database", "verify backup of all"} <= {run.name for run in runs}

    # One of two is damaged: the run fails and names that one only.
    path = house / "backups" / FILE
    path.write_bytes(path.read_bytes()[:-30])
    name, said = await _run(verify_backup)
    assert name == "Failed" and "1 of 2 backups could not be verified (1 is good): app-database:" in said, said
    assert _row(installed_registry, Target(database="app-database")).verified is False


async def test_a_backup_that_is_not_delivered_ends_failed_and_stays_good(house, installed_registry):
    await _policy(house, recipients=["ops@example.org", "refused@example.org"])
    name, said = await _run(backup_database, client="flowacme")
    assert name == "Failed"
    assert said.startswith("the backup is good: client flowacme is backed up in")
    assert "only ops@example.org got it" in said and "refused@example.org" in said
    row = _row(installed_registry, Target(client="flowacme"))
    assert row.delivery == Delivery.FAILED and "refused@example.org" in (row.delivery_error or "")
    assert (await _run(verify_backup, client="flowacme"))[0] == "Completed"


async def test_bad_input_is_refused_in_words(house):
    for parameters, words in (
        ({}, "neither client nor database is given"),
        ({"client": "flowacme", "database": "app-database"}, "both client and database are given"),
        ({"client": "a'b"}, "is no slug"),
        ({"client": "unknown"}, "there is no client 'unknown'"),
        ({"database": "no-such-block"}, "the block no-such-block does not exist"),
        (
            {"database": "smtp"},
            "there is no PostgreSQL Database block 'smtp' (the block of that name is of the type Email Server",
        ),
    ):
        name, said = await _run(backup_database, **parameters)
        assert name == "Failed" and words in said, said
    name, said = await _run(verify_backup, client="unknown")
    assert name == "Failed" and "there is no client 'unknown' (known: " in said, said
    name, said = await _run(verify_backup, database="nobody")
    assert name == "Failed" and "the block nobody does not exist" in said, said
    assert not (house / "backups").exists()


async def test_a_backup_that_a_block_kept_from_beginning_counts_as_failed(house, installed_registry):
    assert (await _run(backup_database, client="flowacme"))[0] == "Completed"
    await _past_the_form("backup-policy", timeout_seconds=0)
    assert (await _run(backup_database, client="flowacme"))[0] == "Failed"
    assert (await _run(backup_database, database="app-database"))[0] == "Failed"
    with Session(installed_registry) as session:
        rows = session.exec(select(BackupRun).order_by(BackupRun.id)).all()
    assert [(row.target, row.status) for row in rows] == [("client:flowacme", "good"), ("client:flowacme", "failed")]
    assert "the block backup-policy does not fit its type" in rows[-1].error and rows[-1].finished_at


@pytest.mark.parametrize(
    ("recipients", "words"),
    [
        ([], "EMAIL_BACKUP_ENABLED is on without a recipient"),
        (["ops.example.org"], "recipient 'ops.example.org' is no e-mail address"),
    ],
)
async def test_a_mistake_in_the_recipients_costs_the_mail_and_not_the_backup(house, recipients, words):
    await _policy(house, recipients=recipients)
    name, said = await _run(backup_database, client="flowacme")
    assert name == "Failed" and "the backup is good: client flowacme is backed up in" in said and words in said, said
    assert "EMAIL_BACKUP_RECIPIENT" in said and "; then run resend-backup, which mails it" in said
    assert (house / "backups" / "flowacme" / "latest_backup.sql.gz").exists()


async def _past_the_form(block: str, **values: object) -> None:
    """Write into a block what its form would refuse."""
    async with get_client() as client:
        found = await client.request(
            "POST", "/block_documents/filter", json={"block_documents": {"name": {"any_": [block]}}}
        )
        path = f"/block_documents/{found.json()[0]['id']}"
        await client.request("PATCH", path, json={"data": values, "merge_existing_data": True})


async def test_a_block_that_does_not_fit_its_type_is_named_with_its_fields_and_without_values(house):
    await _past_the_form("backup-policy", timeout_seconds=0, recipients="hush")
    for flow in (backup_database, verify_backup):
        name, said = await _run(flow, client="flowacme")
        assert name == "Failed" and "hush" not in said
        assert said == (
            "the block backup-policy does not fit its type Zero Fleet Backup Policy (fields: recipients, timeout_seconds); "
            "open it in the Prefect UI under Blocks, correct it and save it."
        )


async def test_a_mail_account_that_does_not_fit_is_named_and_the_backup_stands(house, installed_registry):
    await _past_the_form("smtp", smtp_port="hush")
    name, said = await _run(backup_database, client="flowacme")
    assert name == "Failed" and "hush" not in said and "the block smtp does not fit its type" in said
    row = _row(installed_registry, Target(client="flowacme"))
    assert row.delivery is Delivery.FAILED and "the block smtp does not fit" in str(row.delivery_error)


async def test_a_folder_that_cannot_be_is_named_with_the_reason(house):
    (house / "file").write_text("")
    for folder, words in (
        (house / "file", f"{house}/file/flowacme or a part of its path is a file, not a folder"),
        (Path("/proc/x"), "the folder /proc/x/flowacme cannot be made: the system lets nobody make a folder in /proc"),
    ):
        await _policy(house, directory=str(folder))
        name, said = await _run(backup_database, client="flowacme")
        assert name == "Failed" and words in said and "in the block backup-policy" in said


async def test_a_server_that_lets_nobody_in_is_told_with_the_name_of_its_block(house):
    await _past_the_form("app-database", password="hush")
    name, said = await _run(backup_database, database="app-database")
    assert name == "Failed" and "correct the password in the block app-database and run again" in said
    await _past_the_form("postgres-server", port=1)
    name, said = await _run(backup_database, client="flowacme")
    assert name == "Failed" and "correct host and port in the block postgres-server" in said


async def test_a_client_without_its_database_or_password_is_sent_to_provisioning(house, postgres_server):
    names = ClientNames("flowacme")
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {names.database} WITH (FORCE)")
        name, said = await _run(backup_database, client="flowacme")
        assert name == "Failed" and f"has no database {names.database}; run provision-client for flowacme" in said, said
        admin.execute(f"ALTER ROLE {names.role} PASSWORD 'another'")
        name, said = await _run(backup_database, client="flowacme")
        assert (
            name == "Failed" and f"refused the password of role {names.role}; run provision-client for flowacme" in said
        ), said


async def test_mailing_can_be_off_and_a_long_dump_shows_its_progress(house, monkeypatch):
    monkeypatch.setattr(dump_steps, "PROGRESS_SECONDS", 0.02)
    await _policy(house, mail_enabled=False)
    name, said = await _run(backup_database, client="flowacme")
    assert name == "Completed" and said.endswith("mailing is off."), said
    assert mails(house / "mail") == []
    async with get_client() as client:
        progress = [one for one in await client.read_artifacts() if one.key == "backup-flowacme-progress"]
    assert progress and progress[0].data == 100.0


async def test_the_mail_settings_are_tried_step_by_step(house):
    name, said = await _run(send_test_email, recipient="ops@example.org")
    assert name == "Completed" and "took the test mail to ops@example.org from ops@example.org (STARTTLS)" in said, said
    assert len(mails(house / "mail")) == 1
    name, said = await _run(send_test_email, recipient="refused@example.org")
    assert name == "Failed" and "the step recipient failed (step 6 of 7)" in said, said
    assert "correct the recipient given" in said and "EMAIL_BACKUP_RECIPIENT" not in said
    name, said = await _run(send_test_email, recipient="not an address")
    assert name == "Failed" and "recipient 'not an address' is no e-mail address" in said, said

"""Deliveries that fail, are planned again and sent later, on a real Prefect server, a real PostgreSQL and the mail server stand-in."""

import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect_email import EmailServerCredentials
from pydantic import SecretStr
from sqlmodel import Session, delete

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.installation import installation
from flows.backups.backup import backup_database
from flows.backups.check_mail import send_test_email
from flows.backups.resend import resend_backup
from tasks.backups import delivery, history
from tasks.backups.source import Target
from tasks.backups.steps import deliver
from tasks.clock import now
from tasks.registry.models import BackupMail, BackupRun, Delivery
from tests.conftest import free_port
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running

APP, CRM = Target(database="app-database"), Target(database="crm")


@pytest.fixture
async def house(installed_registry, postgres_server, pg_bin, tmp_path, monkeypatch):
    """Two databases of the operator's, and a mail server; the folder of backups and mails."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    patient = delivery.mail.send_patiently
    monkeypatch.setattr(
        delivery.mail, "send_patiently", lambda attempt, attempts=3, wait=5.0: patient(attempt, attempts, 0.02)
    )
    _forget(installed_registry)
    server = {"host": postgres_server.host, "port": postgres_server.port, "username": postgres_server.username}
    server["password"] = SecretStr(postgres_server.password)
    made = {block: f"{block.replace('-', '_')}_{secrets.token_hex(4)}" for block in ("app-database", "crm")}
    for block, name in made.items():
        with postgres_server.connect() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        with postgres_server.connect(name) as admin:
            admin.execute("CREATE TABLE mails (id int, subject text); INSERT INTO mails VALUES (1, 'Grüße')")
        await PostgresDatabase(**server, database=name).save(block, overwrite=True)
    ca, cert, key = certificates(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    with running(tmp_path / "mail", cert, key) as (_, port):
        (tmp_path / "port").write_text(str(port))
        await _smtp(port)
        await _policy(tmp_path)
        yield tmp_path
    _forget(installed_registry)
    await PostgresDatabase.adelete("crm")
    with postgres_server.connect() as admin:
        for name in made.values():
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _forget(registry) -> None:
    with Session(registry) as session:
        session.exec(delete(BackupRun))
        session.exec(delete(BackupMail))
        session.commit()


async def _smtp(port: int, **other) -> None:
    given = {"username": USER, "password": SecretStr(PASSWORD), "smtp_server": "localhost", "smtp_type": "STARTTLS"}
    await EmailServerCredentials(**(given | {"smtp_port": port} | other)).save("smtp", overwrite=True)


async def _policy(folder: Path, **other) -> None:
    given = {"mail_enabled": True, "recipients": ["ops@example.org"], "sender": "Backups <ops@example.org>"}
    await BackupPolicy(**(given | {"directory": str(folder / "backups")} | other)).save("backup-policy", overwrite=True)


async def _run(flow, **parameters) -> tuple[str, str]:
    state = await flow(**parameters, return_state=True)
    return state.name, state.message or ""


def _row(registry, target: Target = APP) -> BackupRun:
    row = history.latest_good(registry, target)
    assert row is not None
    return row


async def _pages() -> dict[str, str]:
    async with get_client() as client:
        found = await client.read_artifacts()
    return {str(one.key): str(one.data) for one in sorted(found, key=lambda one: one.created)}


@pytest.fixture
async def deployed(prefect_api):
    """The deployment resend-backup/default, as prefect.yaml makes it, and the runs that are planned of it."""
    made = await resend_backup.ato_deployment("default")
    identity = await made.aapply()

    async def planned(row: BackupRun) -> list[datetime]:
        assert row.deliver_after is not None
        key = f"{deliver.RESEND}:{row.deliver_after.astimezone(UTC).isoformat()}"
        wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
        async with get_client() as client:
            return [one.next_scheduled_start_time for one in await client.read_flow_runs(flow_run_filter=wanted)]

    yield planned
    async with get_client() as client:
        await client.delete_deployment(identity)


async def test_what_was_not_delivered_is_planned_again_and_sent_by_that_run(house, installed_registry, deployed):
    good = int((house / "port").read_text())
    await _smtp(free_port())
    for database in ("app-database", "crm"):
        name, said = await _run(backup_database, database=database)
        assert name == "Failed" and "the backup is good" in said and "connection refused by localhost" in said
        assert re.search(r"; it is tried again by itself at 20\d\d-\d\d-\d\d \d\d:\d[05]; should that fail too, ", said)
    row, other = _row(installed_registry), _row(installed_registry, CRM)
    assert (row.delivery, row.delivery_attempts) == (Delivery.FAILED, 1)
    assert row.deliver_after is not None
    assert timedelta(minutes=12) < row.deliver_after - now() <= timedelta(minutes=20)
    if row.deliver_after == other.deliver_after:  # one run serves both
        assert await deployed(row) == [row.deliver_after]
    assert f"again by itself at {row.deliver_after:%Y-%m-%d %H:%M}" in (await _pages())["backup-database-app-database"]

    # Too early: it waits for its time, and says until when.
    name, said = await _run(resend_backup)
    assert name == "Completed" and said.count("tried again by itself at") == 2 and mails(house / "mail") == []

    # It is due, and the server is still away: the pauses grow.
    _due(installed_registry, APP, CRM)
    name, said = await _run(resend_backup)
    assert name == "Failed" and "app-database: it was not delivered: connection refused" in said
    assert "crm: it was not delivered" in said
    row = _row(installed_registry)
    assert row.delivery_attempts == 2 and row.deliver_after is not None
    assert timedelta(minutes=55) < row.deliver_after - now() <= timedelta(minutes=66)
    assert await deployed(row) == [row.deliver_after]

    await _smtp(good)
    _due(installed_registry, APP, CRM)
    name, said = await _run(resend_backup)
    assert (name, said) == ("Completed", "app-database: mailed to ops@example.org; crm: mailed to ops@example.org.")
    row = _row(installed_registry)
    assert (row.delivery, row.deliver_after, row.delivery_attempts) == (Delivery.SENT, None, 3)
    assert len(mails(house / "mail")) == 2
    page = (await _pages())["backup-database-app-database"]
    assert "| Mail | mailed to ops@example.org |" in page
    name, said = await _run(resend_backup)
    assert (name, said) == ("Completed", "every latest backup was delivered, so there was nothing to mail.")


def _due(registry, *targets: Target) -> None:
    with Session(registry) as session:
        for one in targets:
            session.get_one(BackupRun, _row(registry, one).id).deliver_after = now()
        session.commit()


async def test_without_the_deployment_nothing_is_planned_and_the_registry_says_so(house, installed_registry, caplog):
    await _smtp(free_port())
    name, said = await _run(backup_database, database="app-database")
    assert name == "Failed" and "then run resend-backup, which mails it" in said and "by itself" not in said
    assert _row(installed_registry).deliver_after is None
    assert "there is no deployment resend-backup/default" in caplog.text


async def test_what_a_person_must_mend_waits_for_them_and_is_then_sent(house, installed_registry, deployed):
    await _smtp(int((house / "port").read_text()), password=SecretStr("wrong-hush"))
    name, said = await _run(backup_database, database="app-database")
    assert name == "Failed" and "SMTP authentication failed" in said and "hush" not in said
    assert said.endswith("correct user and password in the block smtp; then run resend-backup, which mails it.")
    row = _row(installed_registry)
    assert (row.delivery, row.deliver_after) == (Delivery.FAILED, None)
    await _smtp(int((house / "port").read_text()))
    assert await _run(resend_backup) == ("Completed", "app-database: mailed to ops@example.org.")
    assert _row(installed_registry).delivery is Delivery.SENT


async def test_on_demand_only_who_lacks_it_gets_it_and_then_everybody_again(house, installed_registry):
    await _policy(house, recipients=["ops@example.org", "refused@example.org"])
    assert (await _run(backup_database, database="app-database"))[0] == "Failed"
    await _policy(house, recipients=["ops@example.org", "second@example.org"])
    name, said = await _run(resend_backup, database="app-database")
    assert (name, said) == ("Completed", "app-database: mailed to second@example.org.")
    name, said = await _run(resend_backup, database="app-database")
    assert (name, said) == ("Completed", "app-database: mailed again to ops@example.org, second@example.org.")
    subjects = [mail["subject"] for mail in mails(house / "mail")]
    assert subjects[2] == f"{subjects[0]} (sent again)" and subjects[0] == subjects[1]
    assert _row(installed_registry).recipients == "ops@example.org, second@example.org"
    async with get_client() as client:
        names = {run.name for run in await client.read_flow_runs()}
    assert "resend backup of app-database" in names


async def test_bad_input_is_refused_in_words(house):
    for parameters, words in (
        ({"client": "a'b"}, "is no slug"),
        ({"client": "a", "database": "b"}, "both client and database are given"),
        ({"client": "unknown"}, "there is no client 'unknown'"),
        ({"database": "app-database"}, "there is no backup of app-database at"),
        ({"database": "nobody"}, "the block nobody does not exist"),
    ):
        name, said = await _run(resend_backup, **parameters)
        assert name == "Failed" and words in said, said
    await _policy(house, mail_enabled=False)
    name, said = await _run(resend_backup)
    assert name == "Failed" and "mailing is off, so nothing was mailed" in said


async def test_a_secret_key_in_the_policy_fails_the_mail_and_is_shown_nowhere(house, installed_registry, caplog):
    await _policy(house, age_recipients=["AGE-SECRET-KEY-1HUSHHUSHHUSH"])
    name, said = await _run(backup_database, database="app-database")
    assert name == "Failed" and "holds a secret key where a public one belongs" in said
    assert "HUSH" not in said + caplog.text + str(_row(installed_registry).delivery_error)
    assert mails(house / "mail") == []


async def test_the_test_mail_says_what_fits_and_personal_outlook_is_refused(house):
    name, said = await _run(send_test_email, recipient="ops@example.org")
    assert name == "Completed"
    assert said.endswith("; it takes mails up to 34.2 MiB, so files up to about 25.0 MiB."), said
    await _smtp(587, smtp_server="smtp-mail.outlook.com", username="me@hotmail.com")
    name, said = await _run(send_test_email, recipient="ops@example.org")
    assert name == "Failed" and said.startswith(
        "me@hotmail.com at smtp-mail.outlook.com cannot send: Microsoft refuses"
    )
    name, said = await _run(backup_database, database="app-database")
    assert name == "Failed" and "the backup is good" in said and "cannot send: Microsoft refuses passwords" in said

"""backup-fleet on a real Prefect server, a real PostgreSQL and the mail server stand-in: good, broken, locked, cut off."""

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect_email import EmailServerCredentials
from pydantic import SecretStr
from sqlmodel import Session, delete, select

from blocks import documents
from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer, ZeroSecrets
from blocks.documents import of_type
from blocks.installation import installation
from blocks.webhook import WebhookEndpoint
from flows.backups.fleet import backup_fleet
from tasks.backups import fleet, keeper
from tasks.backups.source import Target
from tasks.backups.steps import fleet as steps
from tasks.registry.lock import hold, holder_now
from tasks.registry.models import BackupMail, BackupRun, Delivery
from tasks.registry.names import ClientNames
from tasks.registry.queries import forget_client, instances, register_client, update_instance
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running
from tests.tasks.backups.webhook_server import KEY, receiving

FILE = "latest_backup.sql.gz"
CLIENTS = ("fleetone", "fleettwo", "fleetthree")
APP, CRM = Target(database="app-database"), Target(database="crm")
ALL = [APP, CRM, *(Target(client=slug) for slug in sorted(CLIENTS))]


@pytest.fixture
async def house(installed_registry, postgres_server, pg_bin, tmp_path, monkeypatch):
    """Three clients, one of them disabled, a fourth without a database, the operator's own database and another; a mail server."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    for row in instances(installed_registry):  # what other tests left
        forget_client(installed_registry, row.client)
    for document in await of_type(PostgresDatabase):
        await PostgresDatabase.adelete(document.name)
    blocks = {one: f"{one.replace('-', '_')}_{secrets.token_hex(4)}" for one in ("app-database", "crm")}
    names = [ClientNames(slug) for slug in CLIENTS]
    with postgres_server.connect() as admin:
        _drop(admin, names, blocks.values())
        for one in names:
            admin.execute(f"CREATE ROLE {one.role} LOGIN PASSWORD 'fleet-{one.slug}'")
        for database in [*(one.database for one in names), *blocks.values()]:
            admin.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
    for one in names:
        _fill(postgres_server, one.database, one.role, 400)
        register_client(installed_registry, one.slug)
        await ZeroSecrets(database_password=SecretStr(f"fleet-{one.slug}")).save(one.secrets_block, overwrite=True)
    update_instance(installed_registry, "fleettwo", spec={"enabled": False})
    register_client(installed_registry, "newco")
    server = {"host": postgres_server.host, "port": postgres_server.port, "username": postgres_server.username}
    server["password"] = SecretStr(postgres_server.password)
    await PostgresServer(**server).save("postgres-server", overwrite=True)
    for block, database in blocks.items():
        _fill(postgres_server, database, postgres_server.username, 400)
        await PostgresDatabase(**server, database=database).save(block, overwrite=True)
    ca, cert, key = certificates(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    with running(tmp_path / "mail", cert, key) as (post, port):
        await EmailServerCredentials(
            username=USER, password=SecretStr(PASSWORD), smtp_server="localhost", smtp_type="STARTTLS", smtp_port=port
        ).save("smtp", overwrite=True)
        await _policy(tmp_path)
        yield SimpleNamespace(folder=tmp_path, mail=tmp_path / "mail", registry=installed_registry, post=post)
    for slug in (*CLIENTS, "newco"):
        forget_client(installed_registry, slug)
    with Session(installed_registry) as session:
        session.exec(delete(BackupMail))  # SQLite gives the ids of the last rows again
        session.exec(delete(BackupRun))
        session.commit()
    for block in blocks:
        await PostgresDatabase.adelete(block)
    with postgres_server.connect() as admin:
        _drop(admin, names, blocks.values())


def _drop(admin, names, databases) -> None:
    for database in [*(one.database for one in names), *databases]:
        admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    for one in names:
        admin.execute(f"DROP ROLE IF EXISTS {one.role}")


def _fill(server, database: str, role: str, rows: int) -> None:
    with server.connect(database) as admin:
        admin.execute(f"GRANT ALL ON SCHEMA public TO {role}")
        admin.execute(f"SET ROLE {role}")
        admin.execute("CREATE TABLE mails (id int, subject text)")
        admin.execute(f"INSERT INTO mails SELECT i, md5(i::text) FROM generate_series(1, {rows}) i")


async def _policy(folder, **other) -> None:
    given = {"mail_enabled": True, "recipients": ["ops@example.org"], "sender": "Backups <ops@example.org>"}
    given |= {"directory": str(folder / "backups"), "parallel": 2, "stall_seconds": 240}
    await BackupPolicy(**(given | other)).save("backup-policy", overwrite=True)


async def _run() -> tuple[str, str]:
    state = await backup_fleet(return_state=True)
    return state.name, state.message or ""


def _rows(registry, target: Target) -> list[BackupRun]:
    with Session(registry) as session:
        return list(session.exec(select(BackupRun).where(BackupRun.target == target.key).order_by(BackupRun.id)))


def _file(house, target: Target):
    below = {APP: "", CRM: "database_crm"}.get(target, target.client)
    return house.folder / "backups" / below / FILE


async def _artifact(key: str):
    async with get_client() as client:
        found = await client.request("GET", f"/artifacts/{key}/latest")
    return found.json()


def _soon(monkeypatch) -> None:
    """Locks are waited for a moment only."""
    take = keeper.hold
    monkeypatch.setattr(
        keeper,
        "hold",
        lambda engine, name, who, locks, wait, zone: take(engine, name, who, locks, min(wait, 0.2), zone),
    )


async def test_a_good_night_backs_everything_up_and_says_so_once(house):
    name, said = await _run()
    assert name == "Completed", said
    assert said.startswith("5 databases backed up in ")
    assert "the summary was mailed to ops@example.org; without a database yet, so left out: newco" in said
    for target in ALL:
        (row,) = _rows(house.registry, target)
        assert (row.status, row.delivery) == ("good", Delivery.SENT) and _file(house, target).exists()
    subjects = [mail["subject"] for mail in mails(house.mail)]
    kinds = Counter(one.rpartition(" - ")[0] for one in subjects)
    assert kinds == {
        "[AgentAssistant] Backup": 2,
        "[AgentAssistant] Backup fleetone": 1,
        "[AgentAssistant] Backup fleettwo": 1,
        "[AgentAssistant] Backup fleetthree": 1,
        "[AgentAssistant] Backup fleet": 1,
    }
    assert subjects[-1].startswith("[AgentAssistant] Backup fleet - 20")
    text = mails(house.mail)[-1].get_content()
    assert text.startswith("5 databases backed up in ") and "Nothing needs you." in text
    assert "Without a database yet, so left out: newco." in text
    table = (await _artifact("backups"))["data"]
    for target in ALL:
        assert f'"client": "{target.spoken}"' in table and target.spoken in text
    pages = [await _artifact(target.artifact) for target in ALL]
    assert all("mailed to ops@example.org" in page["data"] for page in pages)

    # Run again: one more of each, compared with the one before.
    name, said = await _run()
    assert name == "Completed", said
    assert [len(_rows(house.registry, target)) for target in ALL] == [2] * 5
    assert len(re.findall(r'"change": "[+-]\d\.\d %"', (await _artifact("backups"))["data"])) == 5


async def test_one_that_fails_hides_no_other(house, postgres_server, monkeypatch):
    assert (await _run())[0] == "Completed"
    before = len(mails(house.mail))
    _soon(monkeypatch)
    broken, shrunk, locked = Target(client="fleetone"), Target(client="fleettwo"), CRM
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER ROLE {ClientNames('fleetone').role} PASSWORD 'another'")
    with postgres_server.connect(ClientNames("fleettwo").database) as admin:
        admin.execute("DELETE FROM mails WHERE id > 20")
    with (
        hold(house.registry, locked.lock, "run 12345678 (backup of crm)", installation().locks),
        receiving() as hook,
    ):
        await WebhookEndpoint(url=SecretStr(hook.url), signing_key=SecretStr(KEY)).save("fleet-hook", overwrite=True)
        await _policy(house.folder, webhook="fleet-hook")
        name, said = await _run()
    assert name == "Failed"
    told = [one.event() for one in hook.got]
    assert [one["type"] for one in told] == ["backup.finished"] * 5 + ["backup.alert"]
    assert Counter(one["data"]["status"] for one in told[:5]) == {"good": 3, "failed": 2}
    (alert,) = told[5]["data"]["alerts"]
    assert alert.startswith("the backup of client fleettwo is ") and alert.endswith("while the older ones are kept.")
    assert said.startswith("2 of 5 databases NOT backed up; 1 alert; 3 databases backed up in "), said
    assert "crm (backup-database:crm is held by run 12345678 (backup of crm) since" in said
    assert "client fleetone (PostgreSQL at " in said and "refused the password of role zero_client_fleetone" in said
    assert "alerts: the backup of client fleettwo is " in said and "has 95 % fewer rows than that of" in said
    assert said.endswith(
        "see the artifact backups and the mail to ops@example.org for all of it, mend what is named and run again."
    )
    for target in ALL:
        rows, lost = _rows(house.registry, target), target in (broken, locked)
        good = [row for row in rows if row.status == "good"]
        assert len(good) == (1 if lost else 2) and all(row.delivery is Delivery.SENT for row in good)
        assert _file(house, target).exists()

    arrived = mails(house.mail)[before:]
    assert len(arrived) == 4  # three backups, and the summary last
    text = arrived[-1].get_content()
    assert text.startswith("2 of 5 databases NOT backed up; 1 alert;")
    look = text.partition("What needs you:")[2].partition("The newest good backup")[0]
    assert (
        look.index("crm: NOT backed up:") < look.index("client fleetone: NOT backed up:") < look.index("fleettwo is ")
    )
    assert "run provision-client for fleetone" in look and "see whether that was meant" in look
    marked = [line.split()[1:3] for line in text.splitlines() if line.startswith("! ")]
    assert marked == [["crm", marked[0][1]], ["client", "fleetone"], ["client", "fleettwo"]]
    page = await _artifact("backups")
    assert page["description"].startswith("2 of 5 databases NOT backed up; 1 alert;")
    assert (
        page["data"].index("client fleetone")
        < page["data"].index("client fleettwo")
        < page["data"].index("app-database")
    )
    assert await _events(f"zero-fleet.backup.{shrunk.key}") == ["shrunk"]


async def _events(resource: str) -> list[str]:
    """The kinds of the alerts that Prefect has of ``resource``; it takes them in a moment later."""
    wanted = {"event": {"name": ["zero-fleet.backup.alert"]}, "resource": {"id": [resource]}}
    deadline = time.monotonic() + 30
    async with get_client() as client:
        while time.monotonic() < deadline:
            found = await client.request("POST", "/events/filter", json={"filter": wanted})
            if found.json()["events"]:
                return [one["payload"]["kind"] for one in found.json()["events"]]
            await asyncio.sleep(0.3)
    return []


async def test_a_second_run_finds_the_first_at_it_and_doubles_nothing(house, monkeypatch):
    with hold(house.registry, fleet.LOCK, "run 12345678 (backup of the fleet)", installation().locks):
        name, said = await _run()
    assert name == "Failed"
    assert said.startswith("backup-fleet is held by run 12345678 (backup of the fleet) since"), said
    assert said.endswith("wait or cancel it.")
    assert mails(house.mail) == [] and all(_rows(house.registry, target) == [] for target in ALL)


async def test_two_processes_at_once_make_one_night(house, postgres_server):
    database = ClientNames("fleetone").database
    with postgres_server.connect(database) as blocker, postgres_server.connect() as admin:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE mails IN ACCESS EXCLUSIVE MODE")
        first = _process()
        await _until(lambda: _dumping(admin, database) > 0)
        second = _process()
        held = (await asyncio.to_thread(second.communicate, timeout=120))[0]
        blocker.execute("ROLLBACK")
    won = (await asyncio.to_thread(first.communicate, timeout=120))[0]
    assert "STATE Failed backup-fleet is held by run" in held and "STATE Completed" in won, (held, won)
    assert [len(_rows(house.registry, target)) for target in ALL] == [1] * 5
    assert len(mails(house.mail)) == 6


async def test_databases_and_mails_are_bounded(house, monkeypatch):
    """Never more dumps at once than the policy says, never two mails at once; a server that bears less gets less."""
    dumps, posts = _Counted(steps.back_up), _Counted(steps.mail_backup)
    monkeypatch.setattr(steps, "back_up", dumps)
    monkeypatch.setattr(steps, "mail_backup", posts)
    await _policy(house.folder, parallel=3)
    assert (await _run())[0] == "Completed"
    assert (dumps.most, posts.most) == (3, 1)
    assert dumps.given == ALL and len(posts.given) == 5  # the operator's own database first
    monkeypatch.setattr(fleet, "bearable", lambda free: 1)
    dumps.most = 0
    assert (await _run())[0] == "Completed"
    assert dumps.most == 1


class _Counted:
    """A step with a count of how many were at it at once."""

    def __init__(self, step) -> None:
        self.step, self.now, self.most, self.given = step, 0, 0, []

    async def __call__(self, given):
        self.now += 1
        self.given.append(given)
        self.most = max(self.most, self.now)
        try:
            return await self.step(given)
        finally:
            self.now -= 1


async def test_mails_that_nobody_takes_are_not_tried_for_ever_and_never_said_to_be_delivered(house):
    await _policy(house.folder, recipients=["refused@example.org"])
    name, said = await _run()
    assert name == "Failed"
    assert said.startswith("5 backups NOT delivered; 5 databases backed up in "), said
    assert "recipient refused@example.org was refused by" in said and "the summary mail was NOT sent: " in said
    assert "and the mail to" not in said
    rows = [row for target in ALL for row in _rows(house.registry, target)]
    assert [(row.status, row.delivery) for row in rows] == [("good", Delivery.FAILED)] * 5
    untried = [row for row in rows if "mails of this night failed in a row" in str(row.delivery_error)]
    assert len(untried) == 2 and mails(house.mail) == []
    assert (await _artifact("backups"))["data"].count('"delivered": "NO"') == 5

    # Mended, the next night delivers; nobody's backup is missing among the mails.
    await _policy(house.folder)
    name, said = await _run()
    assert name == "Completed", said
    last = [_rows(house.registry, target)[-1] for target in ALL]
    assert all(row.delivery is Delivery.SENT for row in last)


async def test_what_an_earlier_night_could_not_deliver_is_delivered_where_this_one_brings_nothing_newer(
    house, postgres_server
):
    await _policy(house.folder, recipients=["refused@example.org"])
    assert (await _run())[0] == "Failed"
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER ROLE {ClientNames('fleetone').role} PASSWORD 'another'")
    await _policy(house.folder)
    name, said = await _run()
    assert name == "Failed" and said.startswith("1 of 5 databases NOT backed up; 4 databases backed up in "), said
    text = mails(house.mail)[-1].get_content()
    assert "Client fleetone: mailed to ops@example.org" in text
    whose = Target(client="fleetone")
    assert [(row.status, row.delivery) for row in _rows(house.registry, whose)] == [
        ("good", Delivery.SENT),
        ("failed", Delivery.OFF),
    ]
    subjects = [mail["subject"] for mail in mails(house.mail)]
    assert sum(one.startswith("[AgentAssistant] Backup fleetone - ") for one in subjects) == 1
    assert len(subjects) == 6


async def test_all_blocks_of_a_type_are_found_page_by_page(house, monkeypatch):
    monkeypatch.setattr(documents, "_PAGE", 1)
    found = await of_type(PostgresDatabase)
    assert [one.name for one in found] == ["app-database", "crm"]
    assert all(str(one.data["password"]).strip("*") == "" for one in found)


async def test_a_disk_that_is_too_small_for_the_next_night_is_an_alert(house, monkeypatch):
    monkeypatch.setattr(steps, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=100)))
    name, said = await _run()
    assert name == "Failed"
    assert f"alerts: the disk of {house.folder}/backups has 100 bytes free and the next night needs about" in said, said
    assert "the disk of" in mails(house.mail)[-1].get_content()


async def test_mailing_can_be_off(house):
    await _policy(house.folder, mail_enabled=False)
    name, said = await _run()
    assert name == "Completed" and "; mailing is off; " in said, said
    assert mails(house.mail) == []


async def test_a_night_without_a_recipient_backs_everything_up_and_says_that_nothing_was_mailed(house):
    await _policy(house.folder, recipients=[])
    name, said = await _run()
    assert name == "Failed" and "EMAIL_BACKUP_ENABLED is on without a recipient" in said, said
    assert " backed up in " in said and list((house.folder / "backups").rglob("latest_backup.sql.gz")), said


async def test_a_server_that_is_away_fails_its_databases_only_and_their_age_is_told(house, monkeypatch):
    assert (await _run())[0] == "Completed"
    with Session(house.registry) as session:
        for row in session.exec(select(BackupRun).where(BackupRun.target.startswith("client:"))).all():  # type: ignore[attr-defined]
            row.taken_at -= timedelta(hours=30)
            session.add(row)
        session.commit()
    await PostgresServer(host="127.0.0.1", port=1, password=SecretStr("x")).save("postgres-server", overwrite=True)
    name, said = await _run()
    assert name == "Failed"
    assert (
        "3 of 6 databases NOT backed up; 4 alerts; 3 databases backed up" not in said
    )  # newco cannot be told apart now
    assert said.startswith("4 of 6 databases NOT backed up; 4 alerts; 2 databases backed up in "), said
    assert "client newco has no good backup at all" in mails(house.mail)[-1].get_content()
    assert "the newest backup of client fleetone is of " in said and " ago (allowed: 26 h)" in said


async def test_nothing_to_back_up_is_said(house):
    for slug in CLIENTS:
        forget_client(house.registry, slug)
    for block in ("app-database", "crm"):
        await PostgresDatabase.adelete(block)
    assert await _run() == (
        "Completed",
        "there is nothing to back up yet: no PostgreSQL Database block, and no client with a database (newco has none yet).",
    )
    await PostgresDatabase(host="127.0.0.1", database="x", username="x").save("crm")  # the fixture takes both away
    await PostgresDatabase(host="127.0.0.1", database="x", username="x").save("app-database")


def _dumping(admin, database: str) -> int:
    """Sessions of pg_dump that wait for the table."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query ILIKE 'LOCK TABLE%%mails%%' AND state = 'active'"
    return int(admin.execute(query, (database,)).fetchone()[0])


async def test_a_cancelled_run_ends_its_dumps_and_the_next_one_is_whole(house, postgres_server):
    database = ClientNames("fleetone").database
    with postgres_server.connect(database) as blocker, postgres_server.connect() as admin:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE mails IN ACCESS EXCLUSIVE MODE")
        run = asyncio.create_task(_run())
        await _until(lambda: _dumping(admin, database) > 0 and len(mails(house.mail)) >= 4)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await _until(lambda: _dumping(admin, database) == 0)
        blocker.execute("ROLLBACK")
    await _until(lambda: holder_now(house.registry, Target(client="fleetone").lock, installation().locks) is None)
    assert holder_now(house.registry, fleet.LOCK, installation().locks) is None
    name, said = await _run()
    assert name == "Completed", said
    statuses = [row.status for row in _rows(house.registry, Target(client="fleetone"))]
    assert statuses == ["failed", "good"]


async def _until(true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.1)


ONE_NIGHT = """
import asyncio
from flows.backups.fleet import backup_fleet
state = asyncio.run(backup_fleet(return_state=True))
print("STATE", state.name, state.message)
"""


def _process() -> subprocess.Popen[str]:
    """A night in a process of its own, against the test session's server."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    env = {**os.environ, **settings, "ZERO_FLEET_PG_BIN": str(installation().pg_bin)}
    return subprocess.Popen(
        [sys.executable, "-c", ONE_NIGHT], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


async def test_killed_at_any_moment_the_next_run_is_whole(house, soak):
    """No file half made, no lock left, and each backup's mail arrived or is known not to have."""
    chosen = secrets.SystemRandom()
    for _ in range(15 if soak else 3):
        killed = _process()
        begun = len(_all(house.registry))
        await _until(lambda seen=begun, one=killed: len(_all(house.registry)) > seen or one.poll() is not None)
        await asyncio.sleep(chosen.random() * 2)
        killed.send_signal(signal.SIGKILL)
        await asyncio.to_thread(killed.communicate)
    name, said = await _run()
    assert name == "Completed", said
    good = {row.id for target in ALL for row in _rows(house.registry, target) if row.status == "good"}
    for target in ALL:
        rows = _rows(house.registry, target)
        assert {row.status for row in rows} <= {"good", "failed"}
        assert (rows[-1].status, rows[-1].delivery) == ("good", Delivery.SENT)
        assert all(row.delivery is not Delivery.PENDING for row in rows)
        assert [one.name for one in _file(house, target).parent.glob(".*.part")] == []
    identities = Counter(mail["message-id"] for mail in mails(house.mail) if "fleet -" not in mail["subject"])
    assert set(identities.values()) == {1} and len(identities) <= len(good)
    sent = {row.message_id for row in _all(house.registry) if row.delivery is Delivery.SENT}
    assert sent <= set(identities)


def _all(registry) -> list[BackupRun]:
    with Session(registry) as session:
        return list(session.exec(select(BackupRun)))

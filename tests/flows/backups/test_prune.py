"""prune-backups and the pruning after verify-backup, on a real Prefect server, a real PostgreSQL and a real registry."""

import secrets
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlmodel import Session, delete, select

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer
from blocks.installation import installation
from flows.backups.backup import backup_database
from flows.backups.prune import prune_backups
from flows.backups.verify import verify_backup
from tasks.backups import dated, history
from tasks.backups.source import Target, place
from tasks.clock import now
from tasks.registry.models import BackupRun, Delivery
from tests.tasks.backups.dated_files import publish

FILE = "latest_backup.sql.gz"
CRM, GONE = Target(database="crm"), Target(client="gone-client")


@pytest.fixture
async def house(installed_registry, postgres_server, pg_bin, tmp_path, monkeypatch):
    """A database `crm` with its block, a policy that keeps two days, and no client; the folder of backups."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    name = f"crm_{secrets.token_hex(4)}"
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    with postgres_server.connect(name) as admin:
        admin.execute("CREATE TABLE mails (id int); INSERT INTO mails VALUES (1)")
    server = {"host": postgres_server.host, "port": postgres_server.port, "username": postgres_server.username}
    secret = SecretStr(postgres_server.password)
    await PostgresServer(**server, password=secret).save("postgres-server", overwrite=True)
    await PostgresDatabase(**server, password=secret, database=name).save("crm", overwrite=True)
    await _policy(tmp_path)
    yield tmp_path / "backups"
    with Session(installed_registry) as session:
        session.exec(delete(BackupRun))
        session.commit()
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _policy(folder: Path, **other) -> None:
    given = {"directory": str(folder / "backups"), "daily": 2, "weekly": 0, "monthly": 0}
    await BackupPolicy(**(given | other)).save("backup-policy", overwrite=True)


async def _run(flow, **parameters) -> tuple[str, str]:
    state = await flow(**parameters, return_state=True)
    return state.name, state.message or ""


def _past(registry, folder: Path, target: Target, days: int) -> Path:
    """Backups of so many days before today, as they lie there; the latest's place."""
    latest = place(target, folder, FILE)
    for n in range(days, 0, -1):
        row_id = history.begin(registry, target, f"run-{n}", latest)
        made = publish(latest, now() - timedelta(days=n), target=target, run_id=f"run-{n}")
        history.good(registry, row_id, made, latest, Delivery.OFF, dated.ensure(latest, target))
    return latest


async def test_dated_backups_wait_for_a_verify_backup_and_go_with_it(house, installed_registry):
    latest = _past(installed_registry, house, CRM, 5)
    name, said = await _run(backup_database, database="crm")
    assert name == "Completed", said
    assert len(dated.listed(latest)) == 6 and dated.listed(latest)[0].path.samefile(latest)
    name, said = await _run(prune_backups, database="crm")
    assert name == "Completed", said
    assert said.startswith(
        "crm: 0 dated backups removed (0 bytes freed), 6 kept (4 wait for a verify-backup); its backups"
    )
    name, said = await _run(verify_backup, database="crm")
    assert name == "Completed", said
    assert said.startswith("crm: 1 table with 1 row") and "restored and compared equal" in said
    assert "crm: 4 dated backups removed (" in said and "freed), 2 kept; its backups take" in said
    assert len(dated.listed(latest)) == 2
    with Session(installed_registry) as session:
        rows = session.exec(select(BackupRun).order_by(BackupRun.id)).all()
    assert [row.pruned_at is not None for row in rows] == [True] * 4 + [False] * 2
    name, said = await _run(prune_backups)
    assert name == "Completed" and said.startswith("crm: 0 dated backups removed"), said


async def test_all_means_gone_clients_and_folders_too_and_one_that_fails_hides_no_other(house, installed_registry):
    name, said = await _run(prune_backups)
    assert (name, said) == ("Completed", "there is no backup yet, so there was nothing to prune.")
    latest = _past(installed_registry, house, GONE, 4)
    row = history.latest_good(installed_registry, GONE)
    assert row is not None and row.id is not None
    history.verified(installed_registry, row.id, True, "by a test")
    unknown = Target(client="of-another-registry")
    there = place(unknown, house, FILE)
    publish(there, now() - timedelta(days=3), target=unknown)
    dated.ensure(there, unknown)
    name, said = await _run(prune_backups)
    assert name == "Completed" and said.startswith("2 targets: 2 dated backups removed ("), said
    assert "freed), 3 kept; their backups take" in said
    assert len(dated.listed(latest)) == 2 and len(dated.listed(there)) == 1

    crm = place(CRM, house, FILE)
    _past(installed_registry, house, CRM, 1)
    for path in dated.folder(crm).iterdir():
        path.unlink()
    dated.folder(crm).rmdir()
    dated.folder(crm).write_text("somebody's file")
    name, said = await _run(prune_backups)
    assert name == "Failed" and said.startswith("1 of 3 targets could not be pruned: crm: "), said
    assert (
        "dated_backups or a part of its path is a file, not a folder" in said and "2 targets: 0 dated backups" in said
    )


async def test_latest_only_keeps_one_file(house, installed_registry):
    await _policy(house.parent, keep="latest only")
    for _ in range(2):
        assert (await _run(backup_database, database="crm"))[0] == "Completed"
    latest = place(CRM, house, FILE)
    assert sorted(path.name for path in latest.parent.iterdir()) == [FILE, FILE + ".json"]
    name, said = await _run(prune_backups, database="crm")
    assert name == "Completed" and "0 dated backups removed (0 bytes freed), 0 kept; its backups take" in said


async def test_bad_input_is_refused_in_words(house):
    for parameters, words in (
        ({"client": "a", "database": "crm"}, "both client and database are given"),
        ({"client": "A"}, "is no slug"),
        ({"client": "nobody"}, "there is no client 'nobody'"),
        ({"database": "crm"}, "there is no backup of crm; run backup-database for crm first."),
        ({"database": "nobody"}, "the block nobody does not exist"),
    ):
        name, said = await _run(prune_backups, **parameters)
        assert name == "Failed" and words in said, said

"""What the registry says of many targets' backups at once, on SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from tasks.backups import fleet, records
from tasks.backups.disk_outlook import DAY, pace
from tasks.backups.source import Target
from tasks.registry.models import BackupKind, BackupRun, Delivery
from tasks.registry.queries import register_client, update_instance

AT = datetime(2026, 5, 20, 2, 30, tzinfo=UTC)
ACME, BETA, NEW = Target(client="acme"), Target(client="beta"), Target(client="new")


def _told(engine, target: Target, days: float, **other) -> int:
    moment = AT - timedelta(days=days)
    given = {"target": target.key, "run_id": "r", "started_at": moment, "taken_at": moment, "finished_at": moment}
    given |= {"status": "good", "path": f"/b/{target.client}/x.sql.gz", "file_bytes": 1000, "seconds": 2.5}
    with Session(engine) as session:
        row = BackupRun(**(given | other))
        session.add(row)
        session.commit()
        assert row.id is not None
        return row.id


def test_what_is_known_of_each_target(registry):
    _told(registry, ACME, 40, verified=True)
    proven = _told(registry, ACME, 5, verified=True)
    _told(registry, ACME, 1, delivery=Delivery.FAILED, delivery_error="refused", row_counts={"a": 3, "b": 4})
    _told(registry, ACME, 0.5, status="failed")
    _told(registry, ACME, 0.2, kind=BackupKind.SAFETY, verified=True)
    _told(registry, BETA, 9, verified=True)
    _told(registry, BETA, 2, verified=False, verify_note="it is cut; make a new one.")
    acme, new, beta = records.read(registry, [ACME, NEW, BETA])
    assert [one.taken_at for one in acme.recent] == [AT - days * DAY for days in (1, 5, 40)]
    assert acme.newest is not None and (acme.newest.rows, acme.newest.delivery) == (7, Delivery.FAILED)
    assert (acme.first_at, acme.proven_at, acme.damaged) == (AT - 40 * DAY, AT - 5 * DAY, "")
    assert acme.recent[1].row_id == proven
    assert (new.newest, new.first_at, new.proven_at) == (None, None, None)
    assert (beta.proven_at, beta.damaged) == (AT - 9 * DAY, "it is cut; make a new one.")


def test_a_trial_that_went_well_later_heals_an_earlier_one(registry):
    _told(registry, ACME, 3, verified=False, verify_note="cut")
    _told(registry, ACME, 2, verified=True)
    _told(registry, ACME, 1)
    assert records.read(registry, [ACME])[0].damaged == ""


def test_only_the_newest_few_are_looked_at(registry):
    for days in range(20):
        _told(registry, ACME, 20 - days)
    (acme,) = records.read(registry, [ACME])
    assert [one.taken_at for one in acme.recent] == [AT - days * DAY for days in range(1, 1 + records.RECENT)]
    assert acme.first_at == AT - 20 * DAY


def test_what_lies_on_the_disk(registry):
    since = AT - 28 * DAY
    _told(registry, ACME, 50, file_bytes=1, pruned_at=AT - 30 * DAY)  # gone before
    _told(registry, ACME, 40, file_bytes=2, pruned_at=AT - 10 * DAY, dated_path=None)
    _told(registry, ACME, 30, file_bytes=4, dated_path="/b/acme/dated_backups/a")
    _told(registry, ACME, 20, file_bytes=8)  # not dated: replaced by the next
    _told(registry, ACME, 15, file_bytes=16, kind=BackupKind.SAFETY)
    _told(registry, ACME, 10, file_bytes=32)
    _told(registry, BETA, 12, file_bytes=64, path="/elsewhere/x.sql.gz")
    _told(registry, BETA, 12, file_bytes=128, status="failed")
    found = {one.file_bytes: one for one in records.lying(registry, Path("/b"), since)}
    assert {size: one.until for size, one in found.items()} == {
        2: AT - 10 * DAY,
        4: None,
        8: AT - 10 * DAY,
        16: None,
        32: None,
    }
    seen = pace(list(found.values()), AT)
    assert seen is not None and seen.bytes_a_day * 28 == pytest.approx(8 + 16 + 32 - 2 - 8)


def test_clients_whose_database_was_never_made_are_known_by_what_they_left(registry):
    for slug in ("acme", "beta", "new"):
        register_client(registry, slug)
    update_instance(registry, "acme", container_id="c1")
    _told(registry, BETA, 3)
    _told(registry, NEW, 3, status="failed")
    assert records.provisioned(registry) == [("acme", True), ("beta", True), ("new", False)]


def test_who_is_no_longer_backed_up(registry):
    _told(registry, ACME, 3)
    _told(registry, BETA, 3)
    _told(registry, NEW, 60)
    assert records.no_longer(registry, [ACME], AT - 28 * DAY) == [BETA]


def test_a_server_says_what_it_bears(postgres_server):
    import psycopg

    with postgres_server.connect() as admin:
        admin.execute("DROP ROLE IF EXISTS looker")
        admin.execute("CREATE ROLE looker LOGIN PASSWORD 'looker'")
        admin.execute("GRANT CONNECT ON DATABASE postgres TO looker")
        limit = int(admin.execute("SHOW max_connections").fetchone()[0])
        try:
            with psycopg.connect(
                host=postgres_server.host,
                port=postgres_server.port,
                dbname="postgres",
                user="looker",
                password="looker",
                autocommit=True,
            ) as plain:
                before = fleet.room(plain)
                more = [postgres_server.connect() for _ in range(5)]
                after = fleet.room(plain)
                for one in more:
                    one.close()
        finally:
            admin.execute("DROP OWNED BY looker; DROP ROLE looker")
    assert before.free <= limit - 2 and "postgres" in before.databases
    assert before.free - after.free >= 5 - 2  # others come and go meanwhile, autovacuum for one

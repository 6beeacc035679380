"""The figures of many targets, on both databases of the registry: right, and in as many queries as for one."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, insert
from sqlmodel import Session

from tasks.backups import figures
from tasks.backups.figures import Figures
from tasks.backups.source import Target
from tasks.registry.models import BackupKind, BackupRun, Client, Delivery, Status, ZeroInstance

NIGHT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def add(registry, *rows) -> None:
    with Session(registry) as session:
        for row in rows:
            session.add(row)
            session.flush()
        session.commit()


def client(slug: str, status: Status = Status.RUNNING, container: str | None = "c0") -> list[object]:
    return [Client(slug=slug), ZeroInstance(client=slug, status=status, container_id=container)]


def run(target: str, night: int, status: str = "good", **other) -> BackupRun:
    begun = NIGHT + timedelta(days=night)
    given = {"taken_at": begun + SECOND, "seconds": 2.5, "finished_at": begun + 9 * SECOND, "file_bytes": 1000 + night}
    if status != "good":
        given = {"error": "no room", "finished_at": begun + SECOND}
    return BackupRun(target=target, run_id="r", started_at=begun, status=status, **(given | other))


def test_the_newest_good_one_tells_and_later_failures_running_ones_and_safety_backups_do_not(registry):
    acme = "client:acme"
    add(
        registry,
        *client("acme"),
        run(acme, 0, verified=True, delivery=Delivery.SENT),
        run(acme, 1, verified=False, delivery=Delivery.SENT),
        run(acme, 2, delivery=Delivery.SENT_WITHOUT_FILE),
        run(acme, 3, "failed"),
        run(acme, 4, "running", finished_at=None),
        run(acme, 5, kind=BackupKind.SAFETY),
    )
    fleet = figures.read(registry, [])
    newest = NIGHT + timedelta(days=2) + SECOND
    assert fleet.backups == [
        Figures(
            Target(client="acme"), 3, 1, False, newest, 2.5, 1002, False, Delivery.SENT_WITHOUT_FILE, NIGHT + SECOND
        )
    ]


def test_rows_of_the_first_version_have_a_moment_and_a_duration_too(registry):
    old = run("database:app-database", 0, taken_at=None, seconds=None, verified=True)
    add(registry, old)
    (one,) = figures.read(registry, ["app-database"]).backups
    assert (one.taken_at, one.seconds, one.proven_at) == (NIGHT, 9.0, NIGHT)


def test_who_was_never_backed_up_is_there_and_who_is_gone_is_not(registry):
    add(
        registry,
        *client("made"),
        *client("half", Status.PROVISIONING, container=None),
        *client("failing", Status.ERROR, container=None),
        run("client:failing", 0, "failed"),
        run("client:deprovisioned", 0),
        run("database:deleted-block", 0),
    )
    fleet = figures.read(registry, ["crm", "app-database"])
    assert fleet.backups == [
        Figures(Target(database="app-database")),
        Figures(Target(database="crm")),
        Figures(Target(client="failing"), failed_runs=1, last_run_good=False),
        Figures(Target(client="made")),
    ]
    assert fleet.clients == dict.fromkeys(Status, 0) | {Status.RUNNING: 1, Status.PROVISIONING: 1, Status.ERROR: 1}


@pytest.mark.parametrize("many", [1, 1000])
def test_a_thousand_targets_take_as_many_queries_as_one(registry, many):
    begun = {"run_id": "r", "kind": "regular", "finished_at": NIGHT, "file_bytes": 7, "seconds": 1.0, "taken_at": NIGHT}
    begun |= {"started_at": NIGHT, "status": "good", "delivery": "off", "delivery_attempts": 0}
    with registry.begin() as connection:
        names = [f"c{number}" for number in range(many)]
        connection.execute(insert(Client), [{"slug": name, "created_at": NIGHT} for name in names])
        row = {"spec": {}, "docker_host": "local", "status": "running", "updated_at": NIGHT}
        row |= dict.fromkeys(("failures", "successes", "restart_count"), 0)
        connection.execute(insert(ZeroInstance), [row | {"client": name} for name in names])
        rows = [begun | {"target": f"client:{name}"} for name in names for _ in range(3)]
        connection.execute(insert(BackupRun), rows)
    asked = []
    event.listen(registry, "before_cursor_execute", lambda *given: asked.append(given[2]))
    fleet = figures.read(registry, [])
    assert len(asked) == 2 and len(fleet.backups) == fleet.clients[Status.RUNNING] == many
    assert {one.good_runs for one in fleet.backups} == {3}
    assert not [statement for statement in asked if "row_counts" in statement or "spec" in statement]

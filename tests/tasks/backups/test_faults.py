"""What can go wrong with a dump, one by one: each has its sentence, in the registry too; the previous backup stands, nothing is left."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import Session, select

from tasks.backups import backing_up, inventory, programs, survey
from tasks.backups import dump as dumps
from tasks.backups import manifest as manifests
from tasks.backups.dump import Job
from tasks.backups.keeper import Keeper
from tasks.backups.programs import Programs
from tasks.errors import FleetError, NotConfigured, Refused, Unreachable
from tasks.registry.models import BackupRun
from tasks.sqlstate import NotLetIn

pytestmark = pytest.mark.parametrize("registry", ["sqlite"], indirect=True)  # on both: test_keeping_books.py
PATIENCE = 30.0


@pytest.fixture
def keeper(registry, tmp_path) -> Keeper:
    return Keeper(registry, tmp_path / "locks", "run-1", "UTC")


@pytest.fixture
def fails(keeper, job, postgres_server) -> Iterator[Callable[..., str]]:
    """Back up once well, then hindered: the error's sentence, when all that must hold of a failure does."""

    def expect(kind: type[FleetError], hindered: Job | None = None, first: Callable[[], None] = lambda: None) -> str:
        good = backing_up.back_up(keeper, job, mailed=False).manifest
        first()
        files = _files(job.path.parent)
        with pytest.raises(kind) as caught:
            backing_up.back_up(replace(keeper, run_id="run-2"), hindered or replace(job, run_id="run-2"), mailed=False)
        said = str(caught.value)
        with Session(keeper.engine) as session:
            rows = session.exec(select(BackupRun).order_by(BackupRun.id)).all()
        assert [(row.status, row.error) for row in rows] == [("good", None), ("failed", said)]
        assert job.database.password not in said
        assert _files(job.path.parent) == files and manifests.read(job.path) == good
        with job.path.open("rb") as file:
            manifests.require_same(file, good, job.path)
        return said

    yield expect
    with postgres_server.connect() as admin:
        _until(lambda: not _sessions(admin, job), "a session of ours is left on the server")


def _files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def _until(true: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def _sessions(admin, job: Job, like: str = "%") -> list[int]:
    asked = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND query LIKE %s ORDER BY 1"
    return [pid for (pid,) in admin.execute(asked, (job.database.user, like)).fetchall()]


def _beside(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_wrong_password(fails, job):
    said = fails(NotLetIn, replace(job, database=replace(job.database, password="wrong"), run_id="run-2"))
    assert "refused the password of role" in said and "provision-client for acme" in said


def test_a_right_that_is_missing_on_one_table(fails, job, postgres_server):
    def take_away() -> None:
        with postgres_server.connect(job.database.name) as admin:
            admin.execute("CREATE TABLE hidden (id int)")

    assert "has no right to read public.hidden" in fails(Refused, first=take_away)


def test_a_large_object_that_is_somebody_elses(fails, job, postgres_server):
    """Only pg_dump itself meets it, half-way."""

    def take_away() -> None:
        with postgres_server.connect(job.database.name) as admin:
            admin.execute("SELECT lo_from_bytea(4711, 'x')")

    assert "lacks a right in" in (said := fails(Refused, first=take_away)) and "large object 4711" in said


def test_a_role_whose_own_limits_are_short_is_dumped_nevertheless(keeper, job, postgres_server):
    with postgres_server.connect() as admin:
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            admin.execute(f"ALTER ROLE {job.database.user} SET {limit} = '1ms'")
    assert sum(backing_up.back_up(keeper, job, mailed=False).manifest.rows.values()) == 2013


def test_a_statement_that_takes_too_long(fails, job, tmp_path):
    """pg_dump lifts the role's own limit, so one that hits it is another's, a pooler's say: its words, as it writes them."""
    words = (
        'pg_dump: error: Dumping the contents of table "nobody" failed: PQgetResult() failed.\\n'
        "pg_dump: detail: Error message from server: ERROR:  canceling statement due to statement timeout\\n"
    )
    said = fails(Unreachable, replace(job, run_id="run-2", pg_bin=_program(tmp_path, f"printf '{words}' >&2; exit 1")))
    assert "cancelled a statement of" in said and "took too long" in said


def test_a_statement_that_somebody_cancels(fails, job, postgres_server):
    def cancel() -> None:
        with postgres_server.connect() as other:
            _until(lambda: _sessions(other, job, "LOCK TABLE%"), "no dump came")
            for pid in _sessions(other, job, "LOCK TABLE%"):
                other.execute("SELECT pg_cancel_backend(%s)", (pid,))

    with postgres_server.connect(job.database.name) as admin:
        lock = admin.transaction()

        def hold() -> None:
            lock.__enter__()
            admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")
            threads.append(_beside(cancel))

        threads: list[threading.Thread] = []
        assert "somebody cancelled the dump of" in fails(Unreachable, first=hold)
        lock.__exit__(None, None, None)
        threads[0].join()


def test_a_server_that_is_gone_half_way(fails, job, postgres_server):
    def end() -> None:
        with postgres_server.connect() as other:
            _until(lambda: _sessions(other, job, "LOCK TABLE%"), "no dump came")
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (job.database.user,)
            )

    with postgres_server.connect(job.database.name) as admin:
        lock = admin.transaction()

        def hold() -> None:
            lock.__enter__()
            admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")
            threads.append(_beside(end))

        threads: list[threading.Thread] = []
        assert "went away while" in fails(Unreachable, first=hold)
        lock.__exit__(None, None, None)
        threads[0].join()


def test_a_server_that_goes_while_rows_are_counted(fails, job, postgres_server, monkeypatch):
    def end_then_count(connection, tables):
        with postgres_server.connect() as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return counted(connection, tables)

    counted = survey.count_of_snapshot
    said = fails(Unreachable, first=lambda: monkeypatch.setattr(survey, "count_of_snapshot", end_then_count))
    assert "does not answer (connection lost)" in said


def test_a_server_that_accepts_and_stays_silent(fails, job):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = replace(job.database, port=silent.getsockname()[1])
        said = fails(Unreachable, replace(job, database=hung, timeout_seconds=1, run_id="run-2"))
    assert "does not answer (timed out)" in said


def test_a_session_that_hangs_while_it_dumps(fails, job, postgres_server):
    """As with a server whose disk does not answer: the connection stands, and no byte comes."""
    stopped: list[int] = []
    with postgres_server.connect(job.database.name) as admin:
        lock = admin.transaction()

        def hang() -> None:
            with postgres_server.connect() as other:
                _until(lambda: _sessions(other, job, "LOCK TABLE%"), "no dump came")
                stopped.extend(_sessions(other, job, "LOCK TABLE%"))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            lock.__exit__(None, None, None)

        def hold() -> None:
            lock.__enter__()
            admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")
            threads.append(_beside(hang))

        threads: list[threading.Thread] = []
        try:
            said = fails(Unreachable, replace(job, stall_seconds=5, run_id="run-2"), first=hold)
        finally:
            threads[0].join()
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert "gave no byte for 5 s" in said


def test_a_server_that_never_ends_counting(fails, job, monkeypatch):
    def sleep_then_count(connection, tables):
        connection.execute("SELECT pg_sleep(120)")
        return counted(connection, tables)

    counted = survey.count_of_snapshot
    said = fails(
        Unreachable,
        replace(job, timeout_seconds=8, run_id="run-2"),
        first=lambda: monkeypatch.setattr(survey, "count_of_snapshot", sleep_then_count),
    )
    assert "counting the rows of" in said and "took longer than the dump may" in said


def test_a_backup_that_is_cancelled_while_rows_are_counted(fails, job, monkeypatch):
    cancelled = replace(job, run_id="run-2", cancelled=threading.Event())

    def cancel_then_sleep(connection, tables):
        cancelled.cancelled.set()
        connection.execute("SELECT pg_sleep(120)")
        return counted(connection, tables)

    counted = survey.count_of_snapshot
    said = fails(Refused, cancelled, first=lambda: monkeypatch.setattr(survey, "count_of_snapshot", cancel_then_sleep))
    assert "was cancelled" in said


def test_a_schema_that_changes_without_end(fails, job, monkeypatch):
    dumped = inventory.outline.text
    asked: list[bool] = []

    def another_each_time(fit, database, watch, owners, *given):
        text = dumped(fit, database, watch, owners, *given)
        asked.append(owners)
        return text if owners else text.replace("CREATE TABLE public.nobody", "CREATE TABLE public.somebody")

    said = fails(Unreachable, first=lambda: monkeypatch.setattr(inventory.outline, "text", another_each_time))
    assert "was changed again and again" in said and len(asked) == 6


def test_a_pg_dump_that_is_older_than_the_server(fails, job, monkeypatch):
    old = [Programs(Path("/usr/lib/postgresql/13/bin"), (13, 22))]
    said = fails(NotConfigured, first=lambda: monkeypatch.setattr(programs, "installed", lambda pg_bin=None: old))
    assert "pg_dump 13.22 is older than PostgreSQL 16" in said and "install postgresql-client-16" in said


def test_a_disk_that_fills_up(fails, job, monkeypatch, postgres_server):
    """The disk of the folder is a small one: room for the first backup, none for the next."""
    folder = job.path.parent
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)

    def grow() -> None:
        monkeypatch.setattr(dumps, "NEEDED_OF_DATABASE", 0.0)
        with postgres_server.connect(job.database.name) as admin:
            admin.execute(
                "INSERT INTO drizzle.migrations (note)"
                " SELECT md5(i::text) || md5((-i)::text) FROM generate_series(1, 20000) i"
            )

    monkeypatch.setattr(dumps, "NEEDED_OF_DATABASE", 0.0)
    try:
        assert "no space is left on the disk of" in fails(Refused, first=grow)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _program(folder: Path, script: str) -> Path:
    """A folder with a pg_dump that behaves as told, where the real one cannot be made to."""
    place = folder / "bin"
    place.mkdir()
    for name in ("pg_dump", "psql"):
        (place / name).write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 16.99" && exit 0\n{script}\n'
        )
        (place / name).chmod(0o755)
    return place

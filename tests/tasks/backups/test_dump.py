"""Dumps of a real database, whole and hindered; whatever happens the previous backup stands and no temporary file is left."""

import gzip
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.backups import dump as module
from tasks.backups import manifest as manifests
from tasks.backups.dump import Job, dump
from tasks.backups.programs import Programs, choose
from tasks.errors import Damaged, FleetError, NotConfigured, Refused, Unreachable

OLD = b"the previous backup"


def _files(job: Job) -> set[str]:
    return {path.name for path in job.path.parent.iterdir()}


def _previous(job: Job) -> None:
    job.path.parent.mkdir(parents=True)
    job.path.write_bytes(OLD)


def _fails(job: Job, kind: type[FleetError], words: str) -> None:
    """The dump of ``job`` fails with our sentence, beside an old backup that is left alone."""
    _previous(job)
    with pytest.raises(kind) as caught:
        dump(job)
    assert words in str(caught.value)
    assert job.database.password not in str(caught.value)
    assert job.path.read_bytes() == OLD
    assert _files(job) == {job.path.name}


def test_it_makes_a_whole_dump_with_its_manifest(job):
    made = dump(job)
    held = job.path.read_bytes()
    assert hashlib.sha256(held).hexdigest() == made.sha256 and len(held) == made.file_bytes
    text = gzip.decompress(held)
    assert len(text) == made.raw_bytes and b"PostgreSQL database dump complete" in text
    assert b"OWNER TO" not in text and b"GRANT" not in text
    assert made.rows == {
        "public.mail0_user": 2000,
        'public."Größe ""x"".y"': 7,
        "public.nobody": 0,
        "public.parted_1": 5,
        "drizzle.migrations": 1,
    }
    assert made.large_objects == 3 and made.server_version.startswith("16")
    assert manifests.read(job.path) == made
    assert _files(job) == {job.path.name, job.path.name + ".json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in job.path.parent.iterdir()} == {0o600}
    assert job.database.password not in manifests.beside(job.path).read_text()


def test_it_replaces_the_previous_backup(job, postgres_server):
    first = dump(job)
    with postgres_server.connect(job.database.name) as admin:
        admin.execute("INSERT INTO nobody VALUES (1)")
    second = dump(replace(job, run_id="run-2"))
    assert second.rows["public.nobody"] == 1 and first.rows["public.nobody"] == 0
    assert manifests.read(job.path) == second


def test_it_names_a_wrong_password(job):
    _fails(replace(job, database=replace(job.database, password="wrong")), Refused, "refused the password of role")


def test_it_names_a_server_that_is_gone(job):
    _fails(replace(job, database=replace(job.database, port=1)), Unreachable, "does not answer (connection refused)")


def test_it_names_the_table_that_may_not_be_read(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute("CREATE TABLE hidden (id int)")
    _fails(job, Refused, "has no right to read public.hidden")


def test_it_names_the_table_whose_rows_a_policy_hides(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute("ALTER TABLE nobody ENABLE ROW LEVEL SECURITY; ALTER TABLE nobody FORCE ROW LEVEL SECURITY")
    _fails(job, Refused, "sees not all rows of public.nobody")


def test_it_gives_up_on_a_lock(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin, admin.transaction():
        admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")
        _fails(replace(job, stall_seconds=1), Unreachable, "waited too long for a lock")


def test_it_ends_a_dump_that_takes_too_long(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin, admin.transaction():
        admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        # The lock's own limit is 80 % of the deadlines; cancelling comes first here.
        slow = replace(job, timeout_seconds=30)
        threading.Timer(1.0, slow.cancelled.set).start()
        _fails(slow, Refused, "was cancelled")
        assert time.monotonic() - started < 10
    with postgres_server.connect() as admin:
        left = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        deadline = time.monotonic() + 5
        while admin.execute(left, (job.database.name,)).fetchone() != (0,):
            assert time.monotonic() < deadline, "a session of ours is left on the server"
            time.sleep(0.1)


@pytest.fixture
def fake_pg_dump(tmp_path: Path):
    """Folders with a pg_dump that behaves as told, where the real one cannot be made to (a hang, a silent death)."""

    def make(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("pg_dump", "psql"):
            program = folder / name
            program.write_text(
                f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 16.99" && exit 0\n{script}\n'
            )
            program.chmod(0o755)
        return folder

    return make


def test_it_ends_a_dump_that_gives_no_bytes(job, fake_pg_dump):
    hung = replace(job, pg_bin=fake_pg_dump("echo begun; exec sleep 60"), stall_seconds=1)
    _fails(hung, Unreachable, "gave no byte for 1 s")


def test_it_ends_a_dump_at_its_deadline(job, fake_pg_dump):
    endless = replace(job, pg_bin=fake_pg_dump("while sleep 0.1; do echo more; done"), timeout_seconds=1)
    _fails(endless, Unreachable, "was ended after 1 s")


def test_it_does_not_take_a_dump_without_its_trailer_for_whole(job, fake_pg_dump):
    _fails(replace(job, pg_bin=fake_pg_dump("echo half")), Damaged, "without the mark of a complete one")


def test_it_does_not_take_a_silent_death_for_a_dump(job, fake_pg_dump):
    _fails(replace(job, pg_bin=fake_pg_dump("kill -9 $$")), Refused, "ended with code -9")


def test_it_names_a_server_that_goes_away_half_way(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin, admin.transaction():
        admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")

        def end_sessions() -> None:
            time.sleep(1.5)
            with postgres_server.connect() as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (job.database.user,)
                )

        thread = threading.Thread(target=end_sessions)
        thread.start()
        _fails(job, Unreachable, "went away while")
        thread.join()


@pytest.fixture
def tiny_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_it_sees_beforehand_that_the_disk_is_too_small(job, tiny_disk):
    _fails(replace(job, path=tiny_disk / "acme" / "latest.sql.gz"), Refused, "free where the backup may need")


def test_it_names_a_disk_that_fills_up_while_it_writes(job, tiny_disk, monkeypatch, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(
            "INSERT INTO drizzle.migrations (note)"
            " SELECT md5(i::text) || md5((-i)::text) FROM generate_series(1, 60000) i"
        )
    monkeypatch.setattr("tasks.backups.dump.NEEDED_OF_DATABASE", 0.0)
    _fails(replace(job, path=tiny_disk / "acme" / "latest.sql.gz"), Refused, "no space is left on the disk of")


def test_it_says_that_the_folder_is_a_file(job, tmp_path):
    (tmp_path / "backups").write_text("a file")
    with pytest.raises(Refused, match="is a file, not a folder"):
        dump(job)


def test_it_says_that_the_file_is_a_folder(job):
    job.path.mkdir(parents=True)
    with pytest.raises(Refused, match="is a folder, so no backup can lie there"):
        dump(job)
    assert _files(job) == {job.path.name}


def test_it_wants_a_pg_dump_that_is_not_older_and_takes_the_nearest():
    found = [Programs(Path("/18"), (18, 4)), Programs(Path("/16a"), (16, 2)), Programs(Path("/16b"), (16, 14))]
    assert choose(found, 16, "db").folder == Path("/16b")
    assert choose(found, 17, "db").folder == Path("/18")
    assert choose(found, 14, "db").folder == Path("/16b")
    with pytest.raises(NotConfigured, match=r"pg_dump 18.4 is older than PostgreSQL 19"):
        choose(found, 19, "db")
    with pytest.raises(NotConfigured, match="found neither in PATH"):
        choose([], 16, "db")


KILLED = """
import os, sys, signal
from pathlib import Path
from tasks.backups.dump import Job, dump
from tasks.backups.source import Database, Target
host, port, name, password, path, pg_bin, how = sys.argv[1:]
job = Job(Target(client="acme"), Database(host, int(port), name, name, password), Path(path), "run-killed", pg_bin=Path(pg_bin))
print("begun", flush=True)
dump(job, (lambda: os.kill(os.getpid(), signal.SIGKILL)) if how == "renamed" else (lambda: None))
"""


def _killed(job: Job, how: str) -> subprocess.Popen[str]:
    base = job.database
    arguments = [base.host, str(base.port), base.name, base.password, str(job.path), str(job.pg_bin), how]
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_kill_in_the_middle_leaves_the_previous_backup_and_the_next_run_sweeps(job, postgres_server):
    first = dump(job)
    with postgres_server.connect(job.database.name) as admin, admin.transaction():
        admin.execute("LOCK TABLE nobody IN ACCESS EXCLUSIVE MODE")
        process = _killed(job, "dumping")
        deadline = time.monotonic() + 20
        while not any(name.endswith(".part") for name in _files(job)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # pg_dump ends with its parent and takes its session on the server along, though it waits for a lock.
        with postgres_server.connect() as other:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
            while other.execute(asked, (job.database.user,)).fetchone() != (0,):
                assert time.monotonic() < deadline, "pg_dump outlived its parent"
                time.sleep(0.1)
    assert manifests.read(job.path) == first and hashlib.sha256(job.path.read_bytes()).hexdigest() == first.sha256
    dump(replace(job, run_id="run-2"))
    assert _files(job) == {job.path.name, job.path.name + ".json"}


def test_a_kill_between_the_two_renames_is_settled_by_the_next_look(job):
    first = dump(job)
    assert _killed(job, "renamed").wait() == -signal.SIGKILL
    assert manifests.read(job.path) == first
    manifests.settle(job.path)
    settled = manifests.read(job.path)
    assert settled is not None and settled.run_id == "run-killed"
    assert hashlib.sha256(job.path.read_bytes()).hexdigest() == settled.sha256
    assert _files(job) == {job.path.name, job.path.name + ".json"}


def test_an_announced_manifest_whose_dump_never_came_is_withdrawn(job):
    first = dump(job)
    manifests.announce(job.path, replace(first, run_id="never", sha256="0" * 64))
    manifests.settle(job.path)
    assert manifests.read(job.path) == first
    assert _files(job) == {job.path.name, job.path.name + ".json"}


def test_a_pipe_that_cannot_be_widened_is_not_waited_for(job, monkeypatch):
    with open("/dev/null", "rb") as file:
        assert not module._widen(file.fileno())
    monkeypatch.setattr(module, "_GATHER", 60.0)
    monkeypatch.setattr(module, "_widen", lambda pipe: False)
    assert dump(replace(job, timeout_seconds=30)).raw_bytes > 0

"""Kills at random moments: there is always a good latest backup, and what a killed run left is gone after the next one."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import Session, select

from tasks.backups import archive, backing_up, scratch, survey
from tasks.backups import manifest as manifests
from tasks.backups import trial as trials
from tasks.backups.keeper import Keeper, opened
from tasks.registry.models import BackupRun

pytestmark = pytest.mark.parametrize("registry", ["sqlite"], indirect=True)
PATIENCE = 60.0
PROGRAM = """
import sys
from pathlib import Path
from sqlalchemy import create_engine
from tasks.backups import backing_up, trial
from tasks.backups.dump import Job
from tasks.backups.keeper import Keeper
from tasks.backups.restore import Trial
from tasks.backups.source import Database, Target
what, url, locks, host, port, name, user, password, path, pg_bin, fleet = sys.argv[1:]
keeper = Keeper(create_engine(url), Path(locks), "run-killed", "UTC")
database, target = Database(host, int(port), name, user, password), Target(client="acme")
print("begun", flush=True)
if what == "back up":
    backing_up.back_up(keeper, Job(target, database, Path(path), "run-killed", pg_bin=Path(pg_bin)), False, True)
else:
    trial.verify(keeper, target, Trial(database, fleet, 60, Path(pg_bin)))
"""


@pytest.fixture
def keeper(registry, tmp_path) -> Keeper:
    return Keeper(registry, tmp_path / "locks", "run-1", "UTC")


@pytest.fixture
def filled(job, postgres_server):
    """The job on a database that takes a moment, with an idle look at who is on the server for it."""
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute("SET statement_timeout = 0")
        admin.execute(
            "INSERT INTO mail0_user (name) SELECT md5(i::text) || md5((-i)::text) FROM generate_series(1, 100000) i"
        )
    return job


@pytest.fixture
def dice(request):
    """Random moments; the seed is printed, and can be given again as ZERO_FLEET_SEED."""
    seed = int(os.environ.get("ZERO_FLEET_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
    print(f"ZERO_FLEET_SEED={seed}")
    return random.Random(seed)


def _start(what: str, keeper: Keeper, job, database, trial, tmp: Path) -> subprocess.Popen[str]:
    url = keeper.engine.url.render_as_string(hide_password=False)
    where = [database.host, str(database.port), database.name, database.user, database.password]
    arguments = [what, url, str(keeper.locks), *where, str(job.path), str(job.pg_bin), trial.fleet]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"TMPDIR": str(tmp)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def _ended(process: subprocess.Popen[str], after: float | None = None) -> float:
    """Seconds until the process ended, or was killed."""
    started = time.monotonic()
    try:
        process.wait(PATIENCE if after is None else after)
    except subprocess.TimeoutExpired:
        assert after is not None, "it did not end"
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
    return time.monotonic() - started


def _nobody_on(admin, users: list[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    asked = "SELECT pid, usename, state, query FROM pg_stat_activity WHERE usename = ANY(%s)"
    while left := admin.execute(asked, (users,)).fetchall():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _moments(dice, soak: bool, whole: float, act: Callable[[float], None]) -> None:
    for _ in range(25 if soak else 3):
        after = dice.uniform(0, whole)
        print(f"killed after {after:.3f} s of {whole:.3f} s")
        act(after)


def test_a_killed_backup_leaves_a_good_one_and_the_next_run_cleans_up(
    keeper, filled, trial, postgres_server, dice, soak, tmp_path
):
    job, tmp = filled, tmp_path / "tmp"
    tmp.mkdir()
    whole = _ended(_start("back up", keeper, job, job.database, trial, tmp))
    assert manifests.read(job.path) is not None

    def act(after: float) -> None:
        _ended(_start("back up", keeper, job, job.database, trial, tmp), after)
        with opened(keeper, job.target, job.path) as (file, manifest, _):
            manifests.require_same(file, manifest, job.path)
            archive.prove(file, job.path, manifest.raw_bytes)
        with postgres_server.connect() as admin:
            _nobody_on(admin, [job.database.user])
        for left in tmp.iterdir():  # a password file counts as left when its holder is gone and it is a minute old
            os.utime(left, (0, 0))
        assert _ended(_start("back up", keeper, job, job.database, trial, tmp)) < PATIENCE
        assert [
            path.name for path in job.path.parent.rglob("*") if ".part" in path.name or path.name.startswith(".")
        ] == []
        assert list(tmp.iterdir()) == []
        with Session(keeper.engine) as session:
            rows = session.exec(select(BackupRun).order_by(BackupRun.id)).all()
        assert rows[-1].status == "good" and "running" not in {row.status for row in rows}

    _moments(dice, soak, whole, act)


def test_a_killed_trial_leaves_nothing_on_the_server_after_the_next(
    keeper, filled, trial, provisioner, postgres_server, dice, soak, tmp_path
):
    job, tmp = filled, tmp_path / "tmp"
    tmp.mkdir()
    backing_up.back_up(keeper, job, False)
    whole = _ended(_start("verify", keeper, job, provisioner, trial, tmp))
    place = scratch.scratch_of(trial.fleet, job.target.key)

    def act(after: float) -> None:
        _ended(_start("verify", keeper, job, provisioner, trial, tmp), after)
        found = trials.verify(replace(keeper, run_id="run-2"), job.target, trial)
        assert "compared equal" in found.sentence
        with survey.connected(provisioner, 10) as connection:
            assert scratch.labels(connection) == {}
        with postgres_server.connect() as admin:
            _nobody_on(admin, [place.name, provisioner.user])
            gone = admin.execute("SELECT FROM pg_database WHERE starts_with(datname, 'zero_scratch_')").fetchall()
            assert gone == []

    _moments(dice, soak, whole, act)

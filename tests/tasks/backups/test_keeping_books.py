"""Backups with the registry and the locks, on SQLite and PostgreSQL: what is told of good, failed and killed runs."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import Session, select

from tasks.backups import backing_up, history, scratch, survey
from tasks.backups import keeper as keepers
from tasks.backups import manifest as manifests
from tasks.backups import trial as trials
from tasks.backups.keeper import Keeper
from tasks.backups.source import Target
from tasks.errors import Conflict, Damaged, NotFound, Unreachable
from tasks.registry.models import BackupRun, Delivery


@pytest.fixture
def keeper(registry, tmp_path) -> Keeper:
    return Keeper(registry, tmp_path / "locks", "run-1", "UTC")


def _rows(keeper) -> list[BackupRun]:
    with Session(keeper.engine) as session:
        return list(session.exec(select(BackupRun).order_by(BackupRun.id)))


def test_a_backup_is_told_and_verified(keeper, job, trial):
    made = backing_up.back_up(keeper, job, mailed=False)
    (row,) = _rows(keeper)
    assert (row.status, row.delivery, row.sha256) == ("good", Delivery.OFF, made.manifest.sha256)
    assert row.row_counts == made.manifest.rows and row.finished_at is not None
    trials.verify(keeper, job.target, trial)
    (row,) = _rows(keeper)
    assert row.verified is True and "compared equal" in (row.verify_note or "")
    assert history.targets(keeper.engine) == [job.target]


def test_a_failed_backup_is_told_and_the_previous_one_stays_the_latest(keeper, job):
    made = backing_up.back_up(keeper, job, mailed=False)
    gone = replace(job, database=replace(job.database, port=1))
    with pytest.raises(Unreachable):
        backing_up.back_up(replace(keeper, run_id="run-2"), gone, mailed=False)
    good, failed = _rows(keeper)
    assert (good.status, failed.status) == ("good", "failed") and "does not answer" in (failed.error or "")
    latest = history.latest_good(keeper.engine, job.target)
    assert latest is not None and latest.sha256 == made.manifest.sha256


def test_one_backup_of_a_target_at_a_time(keeper, job, monkeypatch):
    with keeper.hold(job.target.lock, "backup of client acme"):
        hold = keepers.hold
        monkeypatch.setattr(
            keepers,
            "hold",
            lambda engine, name, holder, locks, wait, zone: hold(engine, name, holder, locks, 0.2, zone),
        )
        with pytest.raises(Conflict, match=r"backup-client:acme is held by run run-1 \(backup of client acme\)"):
            backing_up.back_up(keeper, job, mailed=False)


def test_a_damaged_backup_is_told(keeper, job, trial):
    backing_up.back_up(keeper, job, mailed=False)
    job.path.write_bytes(job.path.read_bytes()[:-50])
    with pytest.raises(Damaged, match="it was cut or replaced"):
        trials.verify(keeper, job.target, trial)
    (row,) = _rows(keeper)
    assert row.verified is False and "cut or replaced" in (row.verify_note or "")


def test_a_missing_backup_is_told(keeper, job, trial):
    with pytest.raises(NotFound, match="no good backup of client acme"):
        trials.verify(keeper, job.target, trial)
    backing_up.back_up(keeper, job, mailed=False)
    job.path.unlink()
    with pytest.raises(NotFound, match="there is no backup of client acme at"):
        trials.verify(keeper, job.target, trial)


def test_what_killed_trials_left_goes_with_the_next_trial_of_any_target(keeper, job, trial, provisioner):
    backing_up.back_up(keeper, job, mailed=False)
    left, used = (scratch.scratch_of(trial.fleet, key) for key in ("client:left", "client:used"))
    with survey.connected(provisioner, 10) as connection:
        for one in (left, used):
            scratch._make(connection, provisioner, one, "UTF8")
        with keeper.hold("verify-client:used", "trial restore of client used"):
            trials.verify(keeper, job.target, trial)
            assert set(scratch.labels(connection)) == {used.name}
        scratch.drop(connection, used)


KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import create_engine
from tasks.backups import backing_up, dump, history
from tasks.backups.keeper import Keeper
from tasks.backups.source import Database, Target
url, locks, host, port, name, password, path, pg_bin, when = sys.argv[1:]
die = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
if when == "begun":
    backing_up.dump = die
elif when == "published":
    history.good = die
keeper = Keeper(create_engine(url), Path(locks), "run-killed", "UTC")
job = dump.Job(Target(client="acme"), Database(host, int(port), name, name, password), Path(path), "run-killed", pg_bin=Path(pg_bin))
backing_up.back_up(keeper, job, mailed=True)
die()
"""


@pytest.mark.parametrize(
    ("when", "status", "delivery"),
    [
        ("begun", "failed", Delivery.OFF),
        ("published", "good", Delivery.FAILED),
        ("before the mail", "good", Delivery.FAILED),
    ],
)
def test_the_next_run_tells_what_became_of_a_killed_one(keeper, job, when, status, delivery):
    base = job.database
    url = keeper.engine.url.render_as_string(hide_password=False)
    arguments = [
        url,
        str(keeper.locks),
        base.host,
        str(base.port),
        base.name,
        base.password,
        str(job.path),
        str(job.pg_bin),
    ]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments, when], cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == -signal.SIGKILL
    backing_up.back_up(replace(keeper, run_id="run-2"), replace(job, run_id="run-2"), mailed=False)
    killed, next_run = _rows(keeper)
    assert (killed.status, killed.delivery, next_run.status) == (status, delivery, "good")
    assert "killed" in ((killed.error or "") + (killed.delivery_error or ""))
    assert sorted(os.listdir(job.path.parent)) == [job.path.name, job.path.name + ".json"]
    latest = manifests.read(job.path)
    assert latest is not None and latest.run_id == "run-2"


def test_a_backup_that_somebody_replaced_is_not_taken_for_ours(keeper, job, trial):
    made = backing_up.back_up(keeper, job, mailed=False)
    job.path.write_bytes(b"other")
    manifests.announce(job.path, replace(made.manifest, sha256="0" * 64))
    manifests.confirm(job.path)
    with pytest.raises(Damaged, match="not the backup that the registry knows"):
        trials.verify(keeper, Target(client="acme"), trial)

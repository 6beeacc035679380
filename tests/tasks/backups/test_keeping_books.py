"""Backups with the registry and the locks, on SQLite and PostgreSQL: what is told of good, failed and killed runs."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import Session, select

from tasks.backups import backing_up, dated, history, report, scratch, survey
from tasks.backups import keeper as keepers
from tasks.backups import manifest as manifests
from tasks.backups import trial as trials
from tasks.backups.keeper import Keeper
from tasks.backups.source import Target
from tasks.errors import Conflict, Damaged, NotFound, Refused, Unreachable
from tasks.registry.models import BackupKind, BackupRun, Delivery
from tests.tasks.backups import dying


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
    facts = made.manifest
    assert (row.taken_at, row.seconds, row.database_bytes) == (facts.taken_at, facts.seconds, facts.database_bytes)
    assert row.dated_path is None and dated.listed(job.path) == []
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


def _again(keeper: Keeper, job, number: int) -> tuple[Keeper, object]:
    return replace(keeper, run_id=f"run-{number}"), replace(job, run_id=f"run-{number}")


def test_every_backup_stays_under_its_date(keeper, job):
    made = [backing_up.back_up(*_again(keeper, job, number), mailed=False, keep_dated=True) for number in (1, 2, 3)]
    listed = dated.listed(job.path)
    assert [one.manifest for one in reversed(listed)] == [one.manifest for one in made]
    assert [row.dated_path for row in _rows(keeper)] == [str(one.path) for one in reversed(listed)]
    assert listed[0].path.samefile(job.path) and all(one.undated is None for one in made)
    for one in listed:
        assert hashlib.sha256(one.path.read_bytes()).hexdigest() == one.manifest.sha256


def test_the_latest_of_a_killed_run_or_another_policy_is_dated_before_it_is_replaced(keeper, job):
    first = backing_up.back_up(keeper, job, mailed=False)
    assert dated.listed(job.path) == []
    second = backing_up.back_up(*_again(keeper, job, 2), mailed=False, keep_dated=True)
    assert [one.manifest for one in dated.listed(job.path)] == [second.manifest, first.manifest]
    assert all(row.dated_path and os.path.exists(row.dated_path) for row in _rows(keeper))


def test_a_dated_file_that_cannot_be_made_is_told_and_the_backup_is_good(keeper, job):
    first = backing_up.back_up(keeper, job, mailed=False)
    dated.folder(job.path).write_text("somebody's file")
    made = backing_up.back_up(*_again(keeper, job, 2), mailed=False, keep_dated=True)
    assert manifests.read(job.path) == made.manifest != first.manifest
    assert _rows(keeper)[-1].status == "good" and _rows(keeper)[-1].dated_path is None
    with pytest.raises(
        Refused,
        match=r"^the backup is good: client acme is backed up in .*; but the dated file of .* could not be made: ",
    ):
        report.backed_up(made, None)
    dated.folder(job.path).unlink()
    third = backing_up.back_up(*_again(keeper, job, 3), mailed=False, keep_dated=True)
    assert third.undated is None and len(dated.listed(job.path)) == 2


def test_a_safety_backup_is_a_dated_file_of_its_own(keeper, job, trial):
    first = backing_up.back_up(keeper, job, mailed=False)
    safety = backing_up.back_up(keeper, replace(job, taken_for="safety"), mailed=False)
    (one,) = dated.listed(job.path)
    assert one.safety and one.path == safety.path and one.manifest == safety.manifest and one.whole
    assert one.path.name.startswith("before-restore-acme-")
    assert manifests.read(job.path) == first.manifest
    row = _rows(keeper)[-1]
    assert (row.kind, row.status, row.path, row.dated_path) == (BackupKind.SAFETY, "good", str(one.path), str(one.path))
    trials.verify(keeper, job.target, trial)
    assert [row.verified for row in _rows(keeper)] == [True, None]


def _intact(job) -> bool:
    """Whether a whole backup lies at the latest's place: the one that its manifest tells, or the one that is announced."""
    held = hashlib.sha256(job.path.read_bytes()).hexdigest()
    told = [manifests.beside(job.path), manifests._next(job.path)]
    return held in [manifests.Manifest.from_json(path.read_text(), path).sha256 for path in told if path.exists()]


def test_a_kill_at_any_point_of_a_backup_leaves_a_whole_latest_and_the_next_one_dates_them_all(keeper, job, soak):
    below = job.path.parents[1]

    def act(number: int):
        return lambda engine: backing_up.back_up(
            *_again(replace(keeper, engine=engine), job, number), mailed=False, keep_dated=True
        )

    backing_up.back_up(keeper, job, mailed=False, keep_dated=True)
    points = dying.run(keeper.engine, act(2), below)
    assert points is not None and points > 10
    dice = random.Random(4)
    # The end is where the files change places.
    chosen = (
        range(1, points + 1)
        if soak
        else [*dice.sample(range(1, points - 8), 1), *dice.sample(range(points - 8, points + 1), 3)]
    )
    moments = [dice.uniform(0.02, 1.5) for _ in range(25 if soak else 2)]
    deaths = [{"point": point} for point in chosen] + [{"seconds": seconds} for seconds in moments]
    for number, death in enumerate(deaths, start=3):
        dying.run(keeper.engine, act(number), below, **death)
        assert _intact(job), death
        made = backing_up.back_up(*_again(keeper, job, 1000 + number), mailed=False, keep_dated=True)
        assert manifests.read(job.path) == made.manifest
        files = [path.name for path in job.path.parent.iterdir() if path.is_file()]
        assert sorted(files) == [job.path.name, job.path.name + ".json"], death
        listed = dated.listed(job.path)
        good = [row for row in reversed(_rows(keeper)) if row.status == "good"]
        assert [str(one.path) for one in listed] == [row.dated_path for row in good], death
        assert len(list(dated.folder(job.path).iterdir())) == 2 * len(listed), death
        assert all(one.whole for one in listed)
        assert {row.status for row in _rows(keeper)} <= {"good", "failed"}

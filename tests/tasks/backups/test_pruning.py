"""Pruning with the registry and the locks, on SQLite and PostgreSQL: what goes, what stays, what is told, and kills."""

import errno
import os
import random
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from tasks.backups import dated, history, pruning
from tasks.backups import keeper as keepers
from tasks.backups import manifest as manifests
from tasks.backups.keeper import Keeper
from tasks.backups.manifest import Manifest
from tasks.backups.retention import NEWEST_ONLY, SAFETY_DAYS, Retention
from tasks.errors import Conflict, Refused
from tasks.registry.models import BackupKind, BackupRun, Delivery
from tests.tasks.backups import dying
from tests.tasks.backups.dated_files import ACME, latest_of, names, publish

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
DAILY = Retention(3, 0, 0)


@pytest.fixture
def keeper(registry, tmp_path) -> Keeper:
    return Keeper(registry, tmp_path / "locks", "run-prune", "UTC")


@pytest.fixture(autouse=True)
def _today(monkeypatch) -> None:
    monkeypatch.setattr(pruning, "now", lambda: NOW)


@pytest.fixture
def latest(tmp_path: Path) -> Path:
    return latest_of(tmp_path / "backups")


def _back_up(engine: Engine, latest: Path, taken_at: datetime, **other) -> Manifest:
    """What a backup leaves: the latest, its twin and a row."""
    run_id = f"run-{taken_at:%m%d%H%M%S}"
    row_id = history.begin(engine, ACME, run_id, latest)
    made = publish(latest, taken_at, run_id=run_id, **other)
    history.good(engine, row_id, made, latest, Delivery.OFF, dated.ensure(latest, ACME))
    return made


def _days(engine: Engine, latest: Path, count: int) -> list[Manifest]:
    """One backup a day, until this morning; the oldest first."""
    return [_back_up(engine, latest, NOW.replace(hour=2) - timedelta(days=n)) for n in reversed(range(count))]


def _rows(engine: Engine) -> list[BackupRun]:
    with Session(engine) as session:
        return list(session.exec(select(BackupRun).order_by(BackupRun.id)))


def _verify(engine: Engine, made: Manifest, well: bool = True) -> None:
    (row,) = [row for row in _rows(engine) if row.sha256 == made.sha256]
    assert row.id is not None
    history.verified(engine, row.id, well, "by a test")


def _there(latest: Path) -> list[Manifest]:
    return [one.manifest for one in reversed(dated.listed(latest))]


def test_nothing_goes_before_something_newer_is_proven_and_the_sentence_says_so(keeper, latest):
    made = _days(keeper.engine, latest, 10)
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert (found.removed, found.kept, found.waiting) == (0, 10, 7) and _there(latest) == made
    assert "0 dated backups removed (0 bytes freed), 10 kept (7 wait for a verify-backup)" in pruning.sentence([found])
    _verify(keeper.engine, made[4])
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert (found.removed, found.kept, found.waiting) == (4, 6, 3) and _there(latest) == made[4:]
    _verify(keeper.engine, made[9])
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert (found.removed, found.kept, found.waiting, found.remarks) == (3, 3, 0, ())
    assert _there(latest) == made[7:] and found.freed == sum(one.file_bytes for one in made[4:7])
    assert found.used == sum(one.file_bytes for one in made[7:])
    pruned = [row.pruned_at is not None and row.dated_path is None for row in _rows(keeper.engine)]
    assert pruned == [True] * 7 + [False] * 3
    assert all(Path(row.dated_path or "").exists() for row in _rows(keeper.engine)[7:])


def test_a_verified_backup_that_is_gone_or_cut_proves_nothing(keeper, latest):
    made = _days(keeper.engine, latest, 6)
    _verify(keeper.engine, made[3])
    proven = next(one for one in dated.listed(latest) if one.manifest == made[3])
    proven.path.write_bytes(b"cut")
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert found.removed == 0 and found.kept == 5 and proven.path.exists()
    assert found.remarks == (f"{proven.path} left alone, being not as long as its manifest says",)
    proven.path.unlink()
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert found.removed == 0 and found.remarks == (f"{proven.path} gone from the disk, and not by a prune",)
    assert pruning.prune(keeper, ACME, latest, DAILY).remarks == ()
    assert Counter(row.dated_path is None for row in _rows(keeper.engine)) == {False: 5, True: 1}


def test_a_backup_that_was_found_bad_proves_nothing(keeper, latest):
    made = _days(keeper.engine, latest, 6)
    _verify(keeper.engine, made[5], well=False)
    assert pruning.prune(keeper, ACME, latest, DAILY).removed == 0


def test_the_same_bytes_on_two_days_are_two_files_that_one_trial_proves(keeper, latest):
    made = [_back_up(keeper.engine, latest, NOW - timedelta(days=n), text="unchanged") for n in (5, 4, 3, 2, 1)]
    assert len({one.sha256 for one in made}) == 1 and _there(latest) == made
    row_id = _rows(keeper.engine)[-1].id
    assert row_id is not None
    history.verified(keeper.engine, row_id, True, "by a test")
    assert pruning.prune(keeper, ACME, latest, DAILY).removed == 2
    assert _there(latest) == made[2:]
    assert [row.dated_path is not None for row in _rows(keeper.engine)] == [False] * 2 + [True] * 3


def test_latest_only_leaves_the_latest(keeper, latest):
    made = _days(keeper.engine, latest, 4)
    run_id = "run-undated"  # made under the other policy
    row_id = history.begin(keeper.engine, ACME, run_id, latest)
    newest = publish(latest, NOW - timedelta(hours=1), run_id=run_id)
    history.good(keeper.engine, row_id, newest, latest, Delivery.OFF)
    found = pruning.prune(keeper, ACME, latest, NEWEST_ONLY, keep_dated=False)
    assert (found.removed, found.kept, found.waiting) == (0, 4, 4) and _there(latest) == made
    _verify(keeper.engine, newest)
    found = pruning.prune(keeper, ACME, latest, NEWEST_ONLY, keep_dated=False)
    assert (found.removed, found.kept) == (4, 0) and names(latest) == [] and manifests.read(latest) == newest


def test_dated_again_the_latest_gets_its_twin(keeper, latest):
    made = publish(latest, NOW - timedelta(hours=1), run_id="run-undated")
    row_id = history.begin(keeper.engine, ACME, "run-undated", latest)
    history.good(keeper.engine, row_id, made, latest, Delivery.OFF)
    assert pruning.prune(keeper, ACME, latest, DAILY).kept == 1
    (row,) = _rows(keeper.engine)
    assert row.dated_path == str(dated.dated_path(latest, ACME, made)) and row.pruned_at is None


def test_a_safety_backup_goes_after_its_days(keeper, latest):
    _days(keeper.engine, latest, 1)
    old, young = (
        _safety(keeper.engine, latest, NOW - timedelta(days=SAFETY_DAYS) + timedelta(hours=n), f"run-{n}")
        for n in (-1, 1)
    )
    newest = history.latest_good(keeper.engine, ACME)
    assert newest is not None and newest.kind is BackupKind.REGULAR
    assert history.targets(keeper.engine) == [ACME]
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert (found.kept, found.waiting) == (3, 1)
    _verify(keeper.engine, _there(latest)[-1])
    assert pruning.prune(keeper, ACME, latest, DAILY).removed == 1
    assert young in _there(latest) and old not in _there(latest)
    by_sha = {row.sha256: row for row in _rows(keeper.engine)}
    assert by_sha[old.sha256].dated_path is None and by_sha[young.sha256].pruned_at is None


def _safety(engine: Engine, latest: Path, taken_at: datetime, run_id: str) -> Manifest:
    """A backup before a restore, as a run that was killed after publishing it leaves it; settled by the next."""
    history.begin(engine, ACME, run_id, latest, BackupKind.SAFETY)
    aside = latest.parent / "aside" / latest.name
    made = replace(publish(aside, taken_at, run_id=run_id), taken_for="safety")
    path = dated.dated_path(latest, ACME, made)
    manifests.announce(path, made)
    manifests.confirm(path)
    aside.rename(path)
    history.settle(engine, ACME, latest)
    row = _rows(engine)[-1]
    assert (row.status, row.kind, row.dated_path, row.path) == ("good", BackupKind.SAFETY, str(path), str(path))
    return made


def test_what_a_wrong_clock_dated_hinders_nothing_and_is_told(keeper, latest):
    ahead = _back_up(keeper.engine, latest, NOW + timedelta(days=400))
    _verify(keeper.engine, ahead)
    made = _days(keeper.engine, latest, 5)
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert (found.removed, found.kept, found.waiting) == (0, 6, 2)
    assert "from later than this machine's clock says (2026-03-31 12:00)" in found.remarks[0]
    _verify(keeper.engine, made[-1])
    assert pruning.prune(keeper, ACME, latest, DAILY).removed == 2
    assert _there(latest) == [*made[2:], ahead]


def test_a_clock_that_went_back_prunes_nothing_and_the_latest_stays_the_latest(keeper, latest, monkeypatch):
    made = _days(keeper.engine, latest, 6)
    _verify(keeper.engine, made[-1])
    monkeypatch.setattr(pruning, "now", lambda: NOW - timedelta(days=300))
    back = _back_up(keeper.engine, latest, NOW - timedelta(days=301))
    assert pruning.prune(keeper, ACME, latest, NEWEST_ONLY).removed == 0
    monkeypatch.setattr(pruning, "now", lambda: NOW)
    # The clock is right again: the backup that it dated wrongly is the latest one, and stays.
    pruning.prune(keeper, ACME, latest, NEWEST_ONLY)
    assert _there(latest) == [back, made[-1]]


def test_another_targets_file_is_not_ours_to_remove(keeper, latest):
    made = _days(keeper.engine, latest, 5)
    foreign = replace(made[0], target="client:beta", run_id="of-beta")
    path = dated.folder(latest) / f"beta-20200101T020000Z-{'b' * 8}.sql.gz"
    path.write_bytes(b"x" * foreign.file_bytes)
    manifests.announce(path, foreign)
    manifests.confirm(path)
    _verify(keeper.engine, made[-1])
    assert pruning.prune(keeper, ACME, latest, DAILY).removed == 2
    assert path.exists() and manifests.beside(path).exists()


def test_a_dump_whose_manifest_somebody_removed_is_told_and_stays(keeper, latest):
    made = _days(keeper.engine, latest, 5)
    _verify(keeper.engine, made[-1])
    oldest = dated.listed(latest)[-1].path
    manifests.beside(oldest).unlink()
    found = pruning.prune(keeper, ACME, latest, DAILY)
    assert (found.removed, found.kept) == (1, 3) and oldest.exists()
    assert found.remarks == (f"{oldest} left alone, having no readable manifest",)


def test_a_changed_folder_is_told_and_its_files_stay(keeper, latest, tmp_path):
    made = _days(keeper.engine, latest, 5)
    _verify(keeper.engine, made[-1])
    moved = latest_of(tmp_path / "new place")
    found = pruning.prune(keeper, ACME, moved, DAILY)
    assert (found.removed, found.kept) == (0, 0) and len(names(latest)) == 10
    assert (
        "lying where the backups lay before" in found.remarks[0] and " and " not in found.remarks[0].split(" left")[0]
    )
    assert all(row.dated_path for row in _rows(keeper.engine))


def test_a_killed_prune_that_only_announced_is_taken_back_when_the_policy_keeps_more(keeper, latest):
    made = _days(keeper.engine, latest, 5)
    _verify(keeper.engine, made[-1])
    history.prunes(keeper.engine, ACME, dated.listed(latest)[-1])
    assert _rows(keeper.engine)[0].pruned_at is not None
    assert pruning.prune(keeper, ACME, latest, Retention(7, 0, 0)).removed == 0
    assert _rows(keeper.engine)[0].pruned_at is None and _rows(keeper.engine)[0].dated_path


def test_it_waits_for_a_backup_under_way_and_then_says_who(keeper, latest, monkeypatch):
    _days(keeper.engine, latest, 1)
    hold = keepers.hold
    monkeypatch.setattr(keepers, "hold", lambda *given: hold(*given[:4], 0.2, *given[5:]))
    with (
        keeper.hold(ACME.lock, "backup of client acme"),
        pytest.raises(Conflict, match=r"backup-client:acme is held by run run-prun \(backup of client acme\)"),
    ):
        pruning.prune(keeper, ACME, latest, DAILY)


def test_a_folder_that_cannot_be_written_is_told(keeper, latest):
    publish(latest)
    dated.folder(latest).write_text("")
    with pytest.raises(Refused, match="dated_backups or a part of its path is a file, not a folder"):
        pruning.prune(keeper, ACME, latest, DAILY)


def _settled(engine: Engine, latest: Path, kept: list[Manifest]) -> None:
    """The latest is whole, what is dated is exactly ``kept``, nothing else lies there, and the rows say the same."""
    newest = manifests.read(latest)
    assert newest == kept[-1] and latest.stat().st_size == newest.file_bytes
    assert _there(latest) == kept and all(one.whole for one in dated.listed(latest))
    assert len(names(latest)) == 2 * len(kept)
    assert sorted(path.name for path in latest.parent.iterdir() if path.is_file()) == [
        latest.name,
        latest.name + ".json",
    ]
    on_disk = {one.manifest.sha256: str(one.path) for one in dated.listed(latest)}
    for row in _rows(engine):
        assert row.dated_path == on_disk.get(row.sha256 or "")
        assert (row.pruned_at is None) == (row.dated_path is not None)


def test_a_kill_at_any_moment_of_a_prune_loses_nothing_and_the_next_one_ends_it(keeper, tmp_path, soak):
    def world(name: str) -> tuple[Path, list[Manifest]]:
        with Session(keeper.engine) as session:
            for row in session.exec(select(BackupRun)).all():
                session.delete(row)
            session.commit()
        latest = latest_of(tmp_path / name)
        made = _days(keeper.engine, latest, 7)
        _verify(keeper.engine, made[-1])
        return latest, made

    def prune(latest: Path):
        return lambda engine: pruning.prune(replace(keeper, engine=engine), ACME, latest, DAILY)

    latest, made = world("whole")
    began = time.monotonic()
    points = dying.run(keeper.engine, prune(latest), tmp_path / "whole")
    usual = time.monotonic() - began
    _settled(keeper.engine, latest, made[4:])
    assert points is not None and points >= 4 * 4  # of each: announced, dump, manifest, told
    chance = random.Random(4)
    at_points = range(1, points + 1) if soak else chance.sample(range(1, points + 1), 8)
    kills = [{"point": point} for point in at_points]
    kills += [{"seconds": chance.uniform(0.001, usual)} for _ in range(25 if soak else 3)]
    for number, kill in enumerate(kills):
        below = tmp_path / f"kill-{number}"
        latest, made = world(below.name)
        ended = dying.run(keeper.engine, prune(latest), below, **kill)
        assert ended is None or "seconds" in kill
        assert [one for one in _there(latest) if one in made[4:]] == made[4:]
        found = pruning.prune(keeper, ACME, latest, DAILY)
        assert found.remarks == () and found.kept == 3
        _settled(keeper.engine, latest, made[4:])


@pytest.mark.parametrize("copied", [False, True], ids=["linked", "copied"])
def test_a_kill_at_any_point_of_keeping_the_twin_leaves_no_half_of_it(keeper, tmp_path, monkeypatch, copied):
    if copied:
        monkeypatch.setattr(os, "link", _no_link)
    ended, point = None, 0
    while ended is None:
        point += 1
        below = tmp_path / f"point-{point}"
        latest = latest_of(below)
        first = publish(latest, NOW - timedelta(days=2))
        dated.ensure(latest, ACME)
        second = publish(latest, NOW - timedelta(days=1))
        ended = dying.run(keeper.engine, lambda _, latest=latest: dated.ensure(latest, ACME), below, point)
        assert _there(latest) in ([[first, second]] if ended else [[first], [first, second]])
        assert all(one.whole for one in dated.listed(latest))
        dated.settle(latest, ACME)
        assert _there(latest) == [first, second] and len(names(latest)) == 4
    assert point > 4


def _no_link(*_) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

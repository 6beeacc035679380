"""Dated twins of the latest backup: linked or copied, whole or not there at all."""

import errno
import hashlib
import os
import shutil
import stat
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import pytest

from tasks.backups import dated
from tasks.backups import manifest as manifests
from tasks.backups.source import Target
from tasks.errors import Damaged, Refused
from tests.tasks.backups.dated_files import ACME, AT, latest_of, names, publish


@pytest.fixture
def latest(tmp_path: Path) -> Path:
    return latest_of(tmp_path / "backups")


def test_the_latest_is_linked_with_its_manifest_and_costs_nothing(latest):
    made = publish(latest)
    twin = dated.ensure(latest, ACME)
    assert twin == latest.parent / "dated_backups" / f"acme-20261120T020000Z-{made.sha256[:8]}.sql.gz"
    assert twin.samefile(latest) and manifests.beside(twin).samefile(manifests.beside(latest))
    assert names(latest) == [twin.name, twin.name + ".json"]
    assert stat.S_IMODE(twin.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in twin.parent.iterdir()} == {0o600}
    assert dated.used_bytes(latest) == made.file_bytes
    assert dated.ensure(latest, ACME) == twin and names(latest) == [twin.name, twin.name + ".json"]
    (one,) = dated.listed(latest)
    assert one == dated.Dated(twin, made) and one.whole and not one.safety


def test_a_dated_backup_outlives_the_latest_that_it_was(latest):
    first = publish(latest)
    twin = dated.ensure(latest, ACME)
    second = publish(latest, AT + timedelta(days=1))
    dated.ensure(latest, ACME)
    assert hashlib.sha256(twin.read_bytes()).hexdigest() == first.sha256 and manifests.read(twin) == first
    assert [one.manifest for one in dated.listed(latest)] == [second, first]
    assert dated.used_bytes(latest) == first.file_bytes + second.file_bytes


def _cannot_link(code):
    def link(*_):
        raise OSError(code, os.strerror(code))

    return link


@pytest.mark.parametrize(
    "code",
    [errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK],
    ids=lambda code: errno.errorcode[code],
)
def test_it_copies_where_the_file_system_does_not_link(latest, monkeypatch, code):
    made = publish(latest)
    monkeypatch.setattr(os, "link", _cannot_link(code))
    twin = dated.ensure(latest, ACME)
    assert not twin.samefile(latest) and hashlib.sha256(twin.read_bytes()).hexdigest() == made.sha256
    assert manifests.read(twin) == made and names(latest) == [twin.name, twin.name + ".json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in twin.parent.iterdir()} == {0o600}
    before = twin.stat().st_ino
    assert dated.ensure(latest, ACME) == twin and twin.stat().st_ino == before
    assert dated.used_bytes(latest) == 2 * made.file_bytes


def test_it_copies_to_a_folder_on_another_disk(latest, tmp_path):
    other = Path(f"/dev/shm/zero-fleet-test-{os.getpid()}")
    other.mkdir(mode=0o700)
    try:
        assert other.stat().st_dev != tmp_path.stat().st_dev
        made = publish(latest)
        dated.folder(latest).symlink_to(other)
        twin = dated.ensure(latest, ACME)
        assert manifests.read(twin) == made and twin.read_bytes() == latest.read_bytes()
        assert len(list(other.iterdir())) == 2
    finally:
        shutil.rmtree(other)


def test_another_error_than_of_links_is_told_and_nothing_half_made_stays(latest, monkeypatch):
    publish(latest)
    monkeypatch.setattr(os, "link", _cannot_link(errno.ENOSPC))
    with pytest.raises(Refused, match=r"no space is left on the disk of .*dated_backups"):
        dated.ensure(latest, ACME)
    assert names(latest) == []


def test_a_copy_of_an_altered_file_is_refused_and_goes(latest, monkeypatch):
    publish(latest)
    held = bytearray(latest.read_bytes())
    held[-5] ^= 1
    latest.write_bytes(held)
    monkeypatch.setattr(os, "link", _cannot_link(errno.EXDEV))
    with pytest.raises(Damaged, match="another SHA-256"):
        dated.ensure(latest, ACME)
    assert [name for name in names(latest) if not name.endswith(".json")] == []
    dated.sweep(latest)
    assert names(latest) == []


def test_a_latest_that_is_cut_or_nameless_gets_no_twin(latest):
    with pytest.raises(Damaged, match="no manifest beside it"):
        dated.ensure(latest, ACME)
    publish(latest)
    latest.write_bytes(latest.read_bytes()[:-3])
    with pytest.raises(Damaged, match="it was cut or replaced"):
        dated.ensure(latest, ACME)
    assert dated.settle(latest, ACME) is None and names(latest) == []


def test_a_folder_that_is_a_file_is_told(latest):
    publish(latest)
    dated.folder(latest).write_text("")
    with pytest.raises(Refused, match="dated_backups is a file, not a folder"):
        dated.ensure(latest, ACME)
    with pytest.raises(Refused, match="is a file, not a folder"):
        dated.listed(latest)


def test_two_of_one_second_lie_side_by_side(latest):
    for microseconds, text in ((0, "one"), (999_999, "two")):
        publish(latest, AT.replace(microsecond=microseconds), text=text)
        dated.ensure(latest, ACME)
    newest, older = dated.listed(latest)
    assert newest.path.name[:21] == older.path.name[:21] and newest.path != older.path
    assert newest.manifest.taken_at.microsecond == 999_999 and newest.whole and older.whole


def test_two_of_one_second_and_the_same_bytes_are_one_file_with_the_newer_manifest(latest):
    publish(latest, text="same")
    first = dated.ensure(latest, ACME)
    made = publish(latest, AT.replace(microsecond=999_999), run_id="run-2", text="same")
    assert dated.ensure(latest, ACME) == first
    (one,) = dated.listed(latest)
    assert one.manifest == made and names(latest) == [first.name, first.name + ".json"]


def test_the_name_has_the_moment_in_utc_whatever_zone_it_was_told_in(latest):
    made = publish(latest)
    there = replace(made, taken_at=AT.astimezone(timezone(timedelta(hours=-9, minutes=-30))))
    assert dated.dated_path(latest, ACME, there) == dated.dated_path(latest, ACME, made)


def test_a_safety_backup_and_a_blocks_have_names_of_their_own(tmp_path):
    crm = Target(database="crm")
    latest = latest_of(tmp_path, crm)
    made = replace(publish(latest, target=crm), taken_for="safety")
    path = dated.dated_path(latest, crm, made)
    assert (
        path
        == tmp_path / "database_crm/dated_backups" / f"before-restore-crm-20261120T020000Z-{made.sha256[:8]}.sql.gz"
    )
    twin = dated.ensure(latest, crm)
    manifests.announce(twin, made)
    manifests.confirm(twin)
    twin.rename(path)
    manifests.beside(twin).rename(manifests.beside(path))
    (one,) = dated.listed(latest)
    assert one.safety and one.path == path


def test_what_killed_runs_left_is_swept_and_the_missing_twin_is_made(latest):
    made = publish(latest)
    twin = dated.ensure(latest, ACME)
    twin.unlink()  # killed between manifest and dump
    for stray in (f".{twin.name}.77.part", ".safety.78.part", f".{twin.name}.next.json"):
        (twin.parent / stray).write_text("half")
    gone = twin.parent / f"acme-20260101T020000Z-{'a' * 8}.sql.gz.json"
    gone.write_text("{}")
    assert dated.listed(latest) == []
    assert dated.settle(latest, ACME) == dated.Dated(twin, made)
    assert names(latest) == [twin.name, twin.name + ".json"]


def test_what_somebody_put_there_is_left_alone(latest):
    publish(latest)
    folder = dated.ensure(latest, ACME).parent
    nameless = folder / f"acme-20260101T020000Z-{'a' * 8}.sql.gz"
    nameless.write_bytes(b"somebody removed my manifest")
    unreadable = folder / f"acme-20260102T020000Z-{'b' * 8}.sql.gz"
    unreadable.write_bytes(b"somebody wrote into my manifest")
    manifests.beside(unreadable).write_text("{")
    for name in ("notes.txt", "notes.json", ".hidden", "my.sql.gz"):
        (folder / name).write_text("mine")
    before = names(latest)
    dated.settle(latest, ACME)
    assert names(latest) == before and len(dated.listed(latest)) == 1
    assert dated.unreadable(latest) == [nameless, unreadable]


def test_a_copy_that_somebody_cut_is_put_right_while_the_latest_is_there(latest, monkeypatch):
    publish(latest)
    monkeypatch.setattr(os, "link", _cannot_link(errno.EXDEV))
    twin = dated.ensure(latest, ACME)
    twin.write_bytes(b"cut")
    assert not dated.listed(latest)[0].whole
    dated.settle(latest, ACME)
    assert dated.listed(latest)[0].whole and twin.read_bytes() == latest.read_bytes()


def test_removing_gives_back_what_nothing_else_shares_and_open_files_stay_readable(latest):
    first = publish(latest)
    dated.ensure(latest, ACME)
    publish(latest, AT + timedelta(days=1))
    dated.ensure(latest, ACME)
    newest, older = dated.listed(latest)
    with older.path.open("rb") as file:
        assert dated.remove(older) == first.file_bytes
        assert hashlib.file_digest(file, "sha256").hexdigest() == first.sha256
    assert dated.remove(newest) == 0 and latest.exists() and manifests.read(latest) == newest.manifest
    assert names(latest) == []


def test_the_folders_tell_whose_backups_lie_there(tmp_path):
    whose = [Target(client="acme"), Target(database="app-database"), Target(database="crm")]
    for one in whose:
        latest = latest_of(tmp_path, one)
        publish(latest, target=one)
        dated.ensure(latest, one)
    (tmp_path / "no client" / dated.FOLDER).mkdir(parents=True)
    (tmp_path / "never-backed-up").mkdir()
    assert sorted(dated.targets_in(tmp_path), key=lambda one: one.key) == whose
    assert dated.targets_in(tmp_path / "none") == []

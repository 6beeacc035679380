"""What somebody's hand, or a bad disk, did to files of backups: each is named, none is passed on, none stops what is sound."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import Session

from tasks.backups import archive, backing_up, dated, delivery, encryption, mailing
from tasks.backups import manifest as manifests
from tasks.backups.keeper import Keeper, opened
from tasks.backups.mail import Account
from tasks.backups.message import address
from tasks.backups.source import Target, place
from tasks.errors import Damaged, InvalidInput
from tasks.registry.models import BackupRun, Delivery
from tests.tasks.backups.posting import post

NONSENSE = {
    "no text": b"\xff\xfe\x00",
    "nested without end": b"[" * 100_000,
    "a word for a size": b'{"file_bytes": "many"}',
    "rows in a list": b'{"rows": [1]}',
    "a version that is none": b'{"server_version": "abc"}',
    "empty": b"",
}


@pytest.fixture
def keeper(registry, tmp_path) -> Keeper:
    return Keeper(registry, tmp_path / "locks", "run-1", "UTC")


@pytest.fixture
def made(keeper, job) -> manifests.Made:
    return backing_up.back_up(keeper, job, mailed=True, keep_dated=True)


def _spoil(path: Path, nonsense: bytes) -> None:
    """``nonsense`` instead of the manifest at ``path``; of a JSON object only those fields."""
    if nonsense.startswith(b"{"):
        whole = path.read_bytes().rstrip()
        nonsense = whole.removesuffix(b"}") + b"," + nonsense.removeprefix(b"{")
    path.unlink()
    path.write_bytes(nonsense)


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_a_manifest_that_is_none_is_named_and_the_next_backup_mends_it(keeper, job, made, nonsense):
    _spoil(manifests.beside(job.path), nonsense)
    with pytest.raises(Damaged, match=r"the manifest .* cannot be read"), opened(keeper, job.target, job.path):
        pass
    backing_up.back_up(replace(keeper, run_id="run-2"), replace(job, run_id="run-2"), mailed=False, keep_dated=True)
    with opened(keeper, job.target, job.path) as (_, manifest, _row):
        assert manifest.run_id == "run-2"


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_a_dated_manifest_that_is_none_is_told_and_hides_no_other(keeper, job, made, nonsense):
    again = backing_up.back_up(keeper, job, mailed=False, keep_dated=True)
    spoilt = dated.dated_path(job.path, job.target, made.manifest)
    _spoil(manifests.beside(spoilt), nonsense)
    assert dated.unreadable(job.path) == [spoilt]
    assert [one.path for one in dated.listed(job.path)] == [dated.dated_path(job.path, job.target, again.manifest)]


def _mail(keeper: Keeper, made: manifests.Made) -> delivery.Delivered:
    """Through a server that is not there: whoever gets so far says so."""
    account, given = Account("127.0.0.1", 1, "PLAIN"), post("ops@example.org")
    return mailing.deliver(keeper, made, account, replace(given, mark=f"backup.{made.row_id}"), lambda step: None)


@pytest.mark.parametrize("harm", ["altered", "cut", "longer"])
def test_a_file_that_is_not_what_its_manifest_says_is_not_mailed(keeper, job, made, harm):
    held = job.path.read_bytes()
    job.path.unlink()  # the dated twin keeps the true one
    job.path.write_bytes(
        {"altered": held[:90] + bytes([held[90] ^ 1]) + held[91:], "cut": held[:-9], "longer": held + b"x"}[harm]
    )
    came = _mail(keeper, made)
    assert came.state == Delivery.FAILED
    assert ("was altered" if harm == "altered" else "was cut or replaced") in came.sentence


def test_a_file_that_a_trial_restore_found_bad_is_not_mailed(keeper, job, made):
    with Session(keeper.engine) as session:
        row = session.get_one(BackupRun, made.row_id)
        row.verified, row.verify_note = False, "3 rows instead of 4"
        session.add(row)
        session.commit()
    assert "found it not good (3 rows instead of 4)" in _mail(keeper, made).sentence


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(keeper, job, made):
    for path in (job.path, manifests.beside(job.path)):
        path.unlink()
        os.mkfifo(path)
        found = []

        def look(path: Path = path, found: list[str] = found) -> None:
            with pytest.raises(Damaged) as caught:
                archive.opened(path)
            found.append(str(caught.value))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(30)
        assert found and "is no regular file" in found[0]
        path.unlink()


@pytest.mark.parametrize("name", ["latest_backup.sql.gz.json", "x.age", "x.part", "é" * 120])
def test_a_name_that_would_meet_a_file_beside_it_is_refused(name):
    with pytest.raises(InvalidInput, match="is not a plain name"):
        place(Target(client="acme"), Path("/b"), name)


@pytest.mark.parametrize("folder", ["/b/" + "x" * 300, "/b\0c"])
def test_a_folder_that_no_file_system_takes_is_refused(folder):
    with pytest.raises(InvalidInput, match="is no path that a file system takes"):
        place(Target(client="acme"), Path(folder), "latest.sql.gz")


@pytest.mark.parametrize("given", [[""], [" ", ""], ["\n"]])
def test_an_empty_line_where_a_key_belongs_does_not_mean_in_the_clear(given):
    with pytest.raises(InvalidInput, match="holds an empty line and no key"):
        encryption.keys(given)


@pytest.mark.parametrize("two", ["a@example.org,b@example.org", "a@example.org, b@example.org", "a@b@example.org"])
def test_two_addresses_are_not_one(two):
    with pytest.raises(InvalidInput, match="is no e-mail address"):
        address(two, "recipient")

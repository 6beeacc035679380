"""Which file a restore means, and what is refused before anything is touched."""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from tasks.backups import chosen, dated, proof
from tasks.backups import manifest as manifests
from tasks.backups.chosen import Restoration
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target
from tasks.errors import Damaged, FleetError, InvalidInput, NotFound, Refused

ACME = Target(client="acme")
DUMP = (
    b"--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 16.4\n-- Dumped by pg_dump version 16.4\n\n"
    b"CREATE TABLE t (a int);\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
)


def put(path: Path, text: bytes = DUMP, told: bool = True, **other: object) -> Manifest:
    """A file at ``path`` with its manifest beside it, unless it is not ``told``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text, mtime=0))  # the same text, the same file
    with path.open("rb") as file:
        digest = manifests.archive.sha256(file)
    given = {
        "target": ACME.key, "run_id": "r", "database": "d", "server": "h:1", "taken_at": datetime(2026, 11, 20, 2, 0, 9, tzinfo=UTC),
        "seconds": 1.0, "server_version": "16.4", "pg_dump_version": "16.4", "database_bytes": 100, "raw_bytes": len(text),
        "file_bytes": path.stat().st_size, "sha256": digest, "encoding": "UTF8", "rows": {}, "large_objects": 0, "extensions": [],
    } | other  # fmt: skip
    made = Manifest(**given)
    if told:
        manifests.beside(path).write_text(made.to_json())
    return made


def put_dated(latest: Path, moment: datetime, **other: object) -> Path:
    """A dated file beside ``latest``."""
    made = put(dated.folder(latest) / "x", DUMP + moment.isoformat().encode(), taken_at=moment, **other)
    path = dated.dated_path(latest, ACME, made)
    (dated.folder(latest) / "x").rename(path)
    (dated.folder(latest) / "x.json").rename(manifests.beside(path))
    return path


@pytest.fixture
def latest(tmp_path: Path) -> Path:
    return tmp_path / "acme" / "latest_backup.sql.gz"


def found(latest: Path, backup: str, time_zone: str = "UTC") -> Path:
    return chosen.find(Restoration(ACME, backup), latest, time_zone)


def test_a_date_means_the_newest_of_that_day_and_never_one_made_before_a_restore(latest):
    put(latest, taken_at=datetime(2026, 11, 21, 3, tzinfo=UTC))
    early = put_dated(latest, datetime(2026, 11, 20, 2, 0, 30, tzinfo=UTC))
    late = put_dated(latest, datetime(2026, 11, 20, 22, 30, tzinfo=UTC))
    before = put_dated(latest, datetime(2026, 11, 20, 23, tzinfo=UTC), taken_for=dated.SAFETY)
    assert found(latest, "latest") == found(latest, "2026-11-21") == latest
    assert found(latest, "2026-11-20") == found(latest, "2026-11-20 22:30") == late
    assert found(latest, "2026-11-20 02:00") == found(latest, "2026-11-20 22:29") == early
    # In Vienna 22:30 is half past eleven, and 23:00 the next day.
    assert found(latest, "2026-11-20 23:30", "Europe/Vienna") == late
    assert found(latest, before.name) == before and found(latest, early.name) == early
    assert found(latest, latest.name) == latest and found(latest, str(late)) == late
    for backup in ("2026-11-20 01:59", "2026-11-19"):
        with pytest.raises(
            NotFound, match=r"choose one that there is: 2026-11-21 03:00, 2026-11-20 22:30, 2026-11-20 02:00"
        ):
            found(latest, backup)


def test_what_is_not_there_is_said_with_what_is(latest, tmp_path):
    with pytest.raises(NotFound, match="run backup-database for client acme first"):
        found(latest, "latest")
    with pytest.raises(NotFound, match="none yet; run backup-database"):
        found(latest, "2026-11-20")
    with pytest.raises(NotFound, match="as the worker's machine sees it"):
        found(latest, str(tmp_path / "nothing.gz"))
    with pytest.raises(NotFound, match=r"called or taken 'nothing.gz'"):
        found(latest, "nothing.gz")


@pytest.mark.parametrize("backup", ["", "..", "a/b", "./x", "x\n", "2026-11-31", "2026-11-20 25:00"])
def test_what_can_be_no_backup_is_refused(backup):
    with pytest.raises(InvalidInput):
        chosen.meaning(backup)


@pytest.mark.parametrize(
    "name", ["A", "1a", "a-b", "a" * 64, "zero_client_x", "zero_scratch_x", "zero_restore_x", "a\n", "ä"]
)
def test_a_new_database_cannot_be_called_anything(name):
    with pytest.raises(InvalidInput):
        chosen.restoration("acme", None, "latest", name, "")


def prove(path: Path, over: bool = True, server: int = 16) -> proof.Proven:
    with path.open("rb") as file:
        return proof.prove(file, path, ACME, over, server, "db:5432")


def test_a_whole_dump_is_taken_with_and_without_its_manifest(latest, tmp_path):
    made = put(latest)
    assert prove(latest) == proof.Proven(latest, made, len(DUMP))
    assert prove(latest).words("Europe/Vienna") == f"{latest} (taken 2026-11-20 03:00 Europe/Vienna)"
    alone = tmp_path / "alone.sql.gz"
    put(alone, told=False)
    assert prove(alone) == proof.Proven(alone, None, len(DUMP))
    assert prove(alone).words("UTC") == f"{alone} (without a manifest)"
    assert (prove(latest).needed, prove(alone).needed) == (130, 2 * len(DUMP))


def test_each_file_that_cannot_be_restored_has_its_own_sentence(tmp_path):
    path = tmp_path / "x.sql.gz"

    def refused(kind: type[FleetError], words: str, **given: object) -> None:
        with pytest.raises(kind, match=words):
            prove(path, **given)  # type: ignore[arg-type]

    made = put(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    refused(
        Damaged,
        r"x.sql.gz has \d+ bytes where its manifest says \d+: it was cut or replaced, so nothing was restored; give another",
    )
    path.write_bytes(whole[:-9] + bytes(9))
    refused(Damaged, "has another SHA-256 than its manifest says: it was altered")
    manifests.beside(path).unlink()
    refused(Damaged, r"x.sql.gz is damaged \(.*\), so nothing was restored")
    put(path, DUMP[:-60], told=False)
    refused(Damaged, r"is no complete dump \(its end is missing\), so nothing was restored")
    put(path, b"SELECT 1;", told=False)
    refused(Damaged, "is no dump of a PostgreSQL database")
    put(path, b"--\n-- PostgreSQL database cluster dump\n--\n", told=False)
    refused(Refused, "is a dump of a whole server")
    put(path, DUMP.replace(b"CREATE TABLE", b"CREATE DATABASE x;\n\\connect x\nCREATE TABLE"), told=False)
    refused(Refused, "would connect to a database of its own choice")
    put(path, server_version="17.1")
    refused(Refused, "came from PostgreSQL 17, and the server db:5432 is 16: it cannot take what a newer one wrote")
    manifests.beside(path).unlink()
    refused(Refused, "came from PostgreSQL 16, and the server db:5432 is 15", server=15)
    put(path, target="client:beta")
    refused(Refused, "is a backup of client beta, not of client acme; restore it into a new database")
    assert prove(path, over=False).manifest == replace(made, target="client:beta")
    manifests.beside(path).write_text(json.dumps({"format": 99}))
    refused(Damaged, "was written by a newer Zero Fleet .* so nothing was restored")
    manifests.beside(path).unlink()
    path.write_bytes(b"")
    refused(Damaged, "is no gzip file")
    path.write_bytes(DUMP)
    refused(Refused, "is not compressed; compress it with: gzip -k x.sql.gz")
    path.write_bytes(b"PGDMP\x01\x0e")
    refused(Refused, "is an archive of pg_dump -Fc")


@pytest.mark.parametrize("armored", [False, True])
def test_an_encrypted_file_is_refused_with_how_to_decrypt_it(tmp_path, armored):
    path = tmp_path / "latest_backup.sql.gz.age"
    recipient = pyrage.x25519.Identity.generate().to_public()
    path.write_bytes(pyrage.encrypt(gzip.compress(DUMP), [recipient], armored=armored))
    with pytest.raises(
        Refused, match=r"age -d -i KEY -o latest_backup.sql.gz latest_backup.sql.gz.age\) and give that file"
    ):
        prove(path)

"""Trial restores on a real server, under a provisioner that is no superuser."""

import gzip
import os
import random
import threading
from dataclasses import replace

import psycopg
import pytest

from tasks.backups import manifest as manifests
from tasks.backups import scratch, survey
from tasks.backups.dump import dump
from tasks.backups.restore import compare, fitted, verify
from tasks.errors import Conflict, Damaged, Refused, Unreachable


def _scratches(provisioner) -> set[str]:
    with survey.connected(provisioner, 10) as connection:
        return set(scratch.labels(connection)) | {
            name
            for (name,) in connection.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, 'zero_scratch_')"
            )
        }


def _verify(job, trial, made):
    with job.path.open("rb") as file:
        return verify(file, job.path, made, trial)


def test_a_restored_copy_compares_equal_and_nothing_is_left(job, trial, provisioner):
    made = dump(job)
    seen = _verify(job, trial, made)
    assert (seen.tables, seen.rows, seen.large_objects) == (5, 2013, 3)
    assert "5 tables with 2013 rows, 3 large objects and the schema's " in seen.sentence
    assert seen.objects == len(made.schema) > 10 and "free disk of the server not known" in seen.sentence
    assert _scratches(provisioner) == set()


def test_it_refuses_a_truncated_an_altered_and_a_hollow_file(job, trial):
    made = dump(job)
    whole = job.path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (whole[:-100], bytes(flipped), b"", gzip.compress(b"SELECT 1;")):
        job.path.write_bytes(broken)
        with pytest.raises(Damaged):
            _verify(job, trial, made)
    # Even with a manifest that fits the broken bytes, the file itself is read.
    for broken, words in ((whole[:-100], "damaged|no complete"), (gzip.compress(b"SELECT 1;"), "no complete dump")):
        job.path.write_bytes(broken)
        with job.path.open("rb") as file:
            fitting = replace(made, file_bytes=len(broken), sha256=manifests.archive.sha256(file))
        with pytest.raises(Damaged, match=words):
            _verify(job, trial, fitting)


def test_random_damage_never_passes(job, trial):
    """Cuts and flips at seeded places, each with a manifest that fits the damaged bytes."""
    made = dump(job)
    whole = job.path.read_bytes()
    dice = random.Random(20)
    for _ in range(30):
        broken = bytearray(whole)
        if dice.random() < 0.5:
            broken = broken[: dice.randrange(len(whole) - 1)]
        else:
            broken[dice.randrange(12, len(whole))] ^= 1 << dice.randrange(8)
        job.path.write_bytes(broken)
        with job.path.open("rb") as file:
            fitting = replace(made, file_bytes=len(broken), sha256=manifests.archive.sha256(file))
            with pytest.raises(Damaged):
                manifests.archive.prove(file, job.path, fitting.raw_bytes)


def test_it_sees_a_row_too_few(job, trial, provisioner):
    made = dump(job)
    with pytest.raises(Damaged, match=r"public.nobody has 0 rows instead of 1"):
        _verify(job, trial, replace(made, rows={**made.rows, "public.nobody": 1}))
    assert _scratches(provisioner) == set()


def test_it_compares_tables_rows_and_large_objects(job):
    made = dump(job)
    assert compare(made, made.rows, 3) == []
    rows = {**made.rows, "public.extra": 1}
    del rows["public.nobody"]
    assert compare(made, rows, 2) == [
        "table public.nobody is missing",
        "table public.extra is too much",
        "2 large objects instead of 3",
    ]


def test_what_a_killed_trial_left_is_dropped_by_the_next(job, trial, provisioner):
    made = dump(job)
    place = scratch.scratch_of(trial.fleet, made.target)
    with survey.connected(provisioner, 10) as connection:
        scratch._make(connection, provisioner, place, "UTF8")
    assert _scratches(provisioner) == {place.name}
    _verify(job, trial, made)
    assert _scratches(provisioner) == set()


def test_it_never_drops_what_is_not_ours(job, trial, provisioner):
    made = dump(job)
    place = scratch.scratch_of(trial.fleet, made.target)
    with survey.connected(provisioner, 10) as connection:
        connection.execute(f"CREATE DATABASE {place.name}")
        with pytest.raises(Conflict, match="no trial restore of ours made"):
            _verify(job, trial, made)
        connection.execute(f"DROP DATABASE {place.name}")


def test_a_scratch_database_is_closed_to_others(job, trial, provisioner, source):
    place = scratch.scratch_of(trial.fleet, "client:closed")
    with (
        scratch.made(provisioner, place, "UTF8", 10),
        pytest.raises(psycopg.OperationalError, match="permission denied"),
    ):
        psycopg.connect(
            host=source.host, port=source.port, dbname=place.name, user=source.user, password=source.password
        )


def test_it_refuses_a_dump_from_a_newer_server(job, trial):
    made = replace(dump(job), server_version="19.1")
    with pytest.raises(Refused, match="came from PostgreSQL 19, and the trial server"):
        _verify(job, trial, made)


def test_it_ends_a_restore_that_takes_too_long(job, trial, provisioner, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute("CREATE FUNCTION slow() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(60)'")
        admin.execute("CREATE MATERIALIZED VIEW sleepy AS SELECT slow() WITH NO DATA")
    made = dump(job)
    # A view that is populated is refreshed by its restore; ours sleeps then.
    text = gzip.decompress(job.path.read_bytes())
    slow = text.replace(
        b"\n--\n-- PostgreSQL database dump complete",
        b"\nSELECT public.slow();\n--\n-- PostgreSQL database dump complete",
    )
    job.path.write_bytes(gzip.compress(slow))
    with job.path.open("rb") as file:
        fitting = replace(
            made, file_bytes=os.path.getsize(job.path), raw_bytes=len(slow), sha256=manifests.archive.sha256(file)
        )
    with pytest.raises(Unreachable, match="was ended after 3 s"):
        _verify(job, replace(trial, seconds=3), fitting)
    assert _scratches(provisioner) == set()


def test_it_says_what_the_server_did_not_take(job, trial):
    made = dump(job)
    text = gzip.decompress(job.path.read_bytes()).replace(
        b"CREATE TABLE public.nobody (", b"CREATE TABLE public.nobody nonsense (", 1
    )
    job.path.write_bytes(gzip.compress(text))
    with job.path.open("rb") as file:
        fitting = replace(
            made, file_bytes=os.path.getsize(job.path), raw_bytes=len(text), sha256=manifests.archive.sha256(file)
        )
    with pytest.raises(Damaged, match=r"does not restore \(syntax error at or near .nonsense"):
        _verify(job, trial, fitting)


def test_only_the_head_of_a_dump_is_fitted_to_an_older_server():
    line = b"\nSET transaction_timeout = 0;\n"
    data = b"x" * 70_000 + line
    assert b"".join(fitted(iter([b"a" + line, data]), 16, False)) == b"a\n" + data
    assert b"".join(fitted(iter([b"a" + line, data]), 17, False)) == b"a" + line + data


def test_what_a_killed_trial_has_still_under_way_is_waited_for(job, trial, provisioner, postgres_server):
    """The server goes on with a CREATE DATABASE whose client was killed; until it is there it cannot be dropped, nor its owner."""
    made = dump(job)
    place = scratch.scratch_of(trial.fleet, made.target)
    with survey.connected(provisioner, 30) as connection:
        scratch._make(connection, provisioner, place, "UTF8")
        connection.execute(f"DROP DATABASE {place.name}")
    with postgres_server.connect() as admin:  # it hinders the role's end as such a database does, for a second
        admin.execute(f"CREATE SCHEMA {place.name} AUTHORIZATION {place.name}")
        ended = threading.Timer(1.0, admin.execute, (f"DROP SCHEMA {place.name}",))
        ended.start()
        _verify(job, trial, made)
        ended.join()
    assert _scratches(provisioner) == set()

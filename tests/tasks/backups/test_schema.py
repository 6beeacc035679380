"""Schemas are compared object by object: what is another thing is named, what is only worded anew is not."""

from dataclasses import replace

import pytest

from tasks.backups import programs, schema
from tasks.backups.dump import dump
from tasks.backups.restore import verify
from tasks.errors import Damaged

# Each of these reads otherwise in a dump of its own restored copy, or under other settings.
WORDED_ANEW = """
CREATE TYPE mood AS ENUM ('well', 'ill');
CREATE TABLE worded (
    state varchar(20) CHECK (state IN ('a', 'b')), other varchar CHECK (other <> ALL (ARRAY['x', 'y'])), price numeric(10, 2) DEFAULT -1,
    at timestamptz DEFAULT '2026-01-01 00:00:00+00' CHECK (at > '2000-01-01 00:00:00+00'), raw bytea DEFAULT '\\x00ff', how mood DEFAULT 'well');
CREATE INDEX some_states ON worded (price) WHERE state IN ('a', 'b', 'c');
CREATE VIEW chosen AS SELECT CASE WHEN state IN ('a', 'b') THEN 1 ELSE (SELECT max(price) FROM worded w) END AS "case" FROM worded;
CREATE TABLE by_day (at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE by_day_1 PARTITION OF by_day FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');
CREATE TABLE forebear (a int, b int); CREATE TABLE heir (c int, b int, a int) INHERITS (forebear);
CREATE RULE nothing AS ON DELETE TO worded WHERE old.state IN ('a', 'b') DO INSTEAD NOTHING;
CREATE POLICY few ON worded USING (state IN ('a', 'b'));
"""


def _verify(job, trial, made):
    with job.path.open("rb") as file:
        return verify(file, job.path, made, trial)


def test_what_is_only_worded_anew_is_no_difference(job, trial, postgres_server):
    with postgres_server.connect() as admin:
        for setting in ("timezone = 'Asia/Kathmandu'", "bytea_output = 'escape'", "quote_all_identifiers = on"):
            admin.execute(f"ALTER ROLE {job.database.user} SET {setting}")
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute(WORDED_ANEW)
    seen = _verify(job, trial, made := dump(job))
    assert seen.objects == len(made.schema) and not seen.uncompared
    assert {"INDEX public.some_states", "VIEW public.chosen", "POLICY public.worded few"} < set(made.schema)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DROP INDEX few", "index public.few is too much"),
        ("CREATE INDEX other ON nobody (id)", "index public.other is missing"),
        ("ALTER TABLE nobody ALTER id SET NOT NULL", "table public.nobody differs"),
        ("ALTER TABLE nobody ALTER id TYPE bigint", "table public.nobody differs"),
        ("ALTER TABLE nobody ALTER id SET DEFAULT 7", "table public.nobody differs"),
        ("COMMENT ON TABLE drizzle.migrations IS 'Größer'", "comment drizzle.TABLE migrations differs"),
        ("CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'", "function public.one() differs"),
        ("CREATE TABLE parted_2 PARTITION OF parted DEFAULT", "table public.parted_2 is missing"),
    ],
)
def test_what_is_another_thing_is_named(job, trial, postgres_server, change, words):
    """The file is of before a change and the manifest of after it."""
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute("CREATE INDEX few ON nobody (id)")
        admin.execute("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    other = replace(job, path=job.path.with_name("other.sql.gz"))
    made = dump(job)
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute(change)
    with pytest.raises(Damaged, match="the restored copy of") as caught:
        _verify(job, trial, replace(made, schema=dump(other).schema))
    assert words in str(caught.value)


def test_an_old_manifest_has_no_schema_and_that_is_said(job, trial):
    seen = _verify(job, trial, replace(dump(job), schema={}))
    assert "5 tables with 2013 rows and 3 large objects restored and compared equal" in seen.sentence
    assert "but the schema was not compared (its manifest has none" in seen.sentence


def test_another_major_version_writes_it_otherwise_and_that_is_said(job, trial, monkeypatch):
    made = dump(job)
    seen = _verify(job, trial, replace(made, server_version="15.4"))
    assert (
        "but the schema was not compared (PostgreSQL 15 and the trial server 16 do not write it alike)" in seen.sentence
    )
    newer = [one for one in programs.installed(job.pg_bin) if one.version[0] == 18]
    assert newer, "the wheel carries 18 too"
    monkeypatch.setattr(programs, "installed", lambda pg_bin=None: newer)
    seen = _verify(job, trial, made)
    assert "(pg_dump 16 and the pg_dump 18 of the trial do not write it alike)" in seen.sentence


def test_a_database_without_a_thing_in_it(job, trial, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute("DROP SCHEMA public, drizzle CASCADE; CREATE SCHEMA public")
        admin.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    made = dump(job)
    assert (made.rows, made.large_objects) == ({}, 0)
    assert "0 tables with 0 rows" in _verify(job, trial, made).sentence


@pytest.mark.parametrize(("encoding", "word"), [("LATIN1", "Größe"), ("SQL_ASCII", "Größe")])
def test_a_database_in_another_encoding(job, trial, postgres_server, encoding, word):
    name = f"{job.database.name}_e"
    with postgres_server.connect() as admin:
        admin.execute(
            f"CREATE DATABASE {name} OWNER {job.database.user} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    try:
        with postgres_server.connect(name, client_encoding="UTF8") as admin:
            admin.execute(
                f'SET ROLE {job.database.user}; CREATE TABLE "{word}" (id int); INSERT INTO "{word}" VALUES (1), (2)'
            )
        made = dump(replace(job, database=replace(job.database, name=name)))
        assert made.rows == {f'public."{word}"': 2} and f'"{word}" OWNER TO' in made.grants
        seen = _verify(job, trial, made)
        assert (seen.tables, seen.rows, seen.objects) == (1, 2, len(made.schema))
    finally:
        with postgres_server.connect() as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_key_that_two_objects_share_holds_both():
    one = "--\n-- Name: CAST (a AS b); Type: CAST; Schema: -; Owner: -\n--\n\nCREATE CAST 1;\n\n\n"
    two = one.replace("CAST 1", "CAST 2")
    assert schema.digests(one + two) == schema.digests(two + one)
    assert schema.digests(one + two).keys() == schema.digests(one).keys()
    assert len({str(schema.digests(text)) for text in (one, two, one + two)}) == 3

"""A dump read piece by piece: the schema in it, and rows where the server cannot be asked any more."""

import gzip
import random

import pytest

from tasks.backups import dump as dumps
from tasks.backups import dumped, outline, programs, schema
from tasks.backups.dump import dump
from tasks.backups.restore import verify

ROWS = {
    ("public", "select"): 3,
    ("public", "mail0_user"): 2000,
    ("public", 'Größe "x".y'): 7,
    ("public", "nobody"): 0,
    ("public", "parted_1"): 5,
    ("drizzle", "migrations"): 1,
    ("public", "gone"): 0,
}
# Rows and a function that look like what the reader looks for, in a table whose name and columns are hard to read.
ODD = r"""
CREATE TABLE "select" ("a (b" text, "c)""d" text);
INSERT INTO "select" SELECT E'\\.', E'--\n-- Name: x; Type: TABLE; Schema: public; Owner: -\n--\n\\.\n' FROM generate_series(1, 3);
CREATE FUNCTION odd() RETURNS text LANGUAGE sql AS 'SELECT $$
COPY public.nobody (id) FROM stdin;
1
$$';
"""


def _pieces(text: bytes, size: int | None, dice: random.Random) -> list[bytes]:
    pieces, at = [], 0
    while at < len(text):
        step = size or dice.randrange(1, 4000)
        pieces.append(text[at : at + step])
        at += step
    return pieces


def test_rows_and_schema_are_the_same_whatever_the_pieces_are(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute(ODD)
    made = dump(job)
    text = gzip.decompress(job.path.read_bytes())
    assert sum(made.rows.values()) == sum(ROWS.values())
    fit = programs.choose(programs.installed(job.pg_bin), 16, "")
    expected = schema.digests(outline.text(fit, job.database, lambda: None))
    assert made.schema == expected and "FUNCTION public.odd()" in expected
    dice = random.Random(7)
    for size in (1, 3, 100, 1 << 20, None, None):
        reader = dumped.Reader(ROWS)
        for piece in _pieces(text, size, dice):
            reader.feed(piece)
        assert reader.rows == ROWS, size
        assert schema.digests(reader.schema()) == expected, size


def test_large_objects_are_not_held(job, postgres_server):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute("SELECT lo_from_bytea(0, convert_to(repeat('x', 500000), 'UTF8')) FROM generate_series(1, 5)")
        admin.execute("SELECT format('COMMENT ON LARGE OBJECT %s IS %L', min(oid), 'x') FROM pg_largeobject_metadata")
    made = dump(job)
    reader = dumped.Reader()
    for piece in _pieces(gzip.decompress(job.path.read_bytes()), 1 << 16, random.Random(1)):
        reader.feed(piece)
    text = reader.schema()
    assert "lowrite" not in text and len(text) < 100_000
    assert made.large_objects == 8 and not any("LARGE OBJECT" in key or "BLOB" in key for key in made.schema)


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE mail0_user CASCADE",
        "DROP TABLE mail0_user CASCADE",
        "ALTER TABLE mail0_user RENAME TO moved; CREATE TABLE mail0_user (id int)",
        "ALTER TABLE nobody ALTER COLUMN id TYPE numeric",
        "ALTER SCHEMA drizzle RENAME TO elsewhere",
        "DROP TABLE nobody; RESET ROLE; CREATE TABLE nobody (id int); GRANT SELECT ON nobody TO PUBLIC",
        "VACUUM FULL mail0_user",
    ],
)
def test_what_changes_right_after_the_dump_does_not_change_its_manifest(
    job, trial, postgres_server, monkeypatch, change
):
    """Who waited for pg_dump's locks comes before us."""
    before = dump(job)
    stream = dumps._stream

    def then_change(*given):
        came = stream(*given)
        with postgres_server.connect(job.database.name) as admin:
            admin.execute(f"SET ROLE {job.database.user}")
            for one in change.split("; "):
                admin.execute(one)
        return came

    monkeypatch.setattr(dumps, "_stream", then_change)
    made = dump(job)
    assert (made.rows, made.schema) == (before.rows, before.schema)
    with job.path.open("rb") as file:
        verify(file, job.path, made, trial)

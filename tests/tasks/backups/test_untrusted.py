"""A dump is a program that somebody else wrote: what it can do while it is loaded."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.backups import dump, halfmade, loading, proof
from tasks.backups.programs import choose, installed
from tasks.backups.restore import fitted
from tasks.errors import Conflict, Damaged

EVIL = """
CREATE FUNCTION evil(i int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN EXECUTE 'ALTER ROLE {role} CREATEDB'; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$;
CREATE TABLE aaa (i int CHECK (evil(i)));
INSERT INTO aaa VALUES (1);
"""


@pytest.fixture
def half() -> halfmade.HalfMade:
    return halfmade.of("tuntrusted", "client:acme")


@pytest.fixture
def beside(provisioner, half):
    """An empty database of a role of its own, as restore-database makes it for a client."""
    with halfmade.connected(provisioner) as connection:
        halfmade.make(connection, half, "UTF8", "", "pass-word")
        yield replace(provisioner, name=half.name, user=half.name, password="pass-word")
        halfmade.drop(connection, half)


def _load(path: Path, job, database) -> loading.Loaded:
    with path.open("rb") as file:
        proven = proof.prove(file, path, job.target, False, 16, "here")
        return loading.load(file, proven, loading.Loading(database, 60, job.pg_bin))


def test_what_a_client_wrote_into_its_database_gets_no_rights_from_being_restored(
    job, beside, provisioner, postgres_server
):
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"SET ROLE {job.database.user}")
        admin.execute(EVIL.format(role=job.database.user))
    dump.dump(job)
    assert _load(job.path, job, beside).rows > 2000
    with postgres_server.connect() as admin:
        asked = "SELECT rolcreatedb FROM pg_roles WHERE rolname = %s"
        assert admin.execute(asked, (job.database.user,)).fetchone() == (False,)
        owners = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
        assert admin.execute(owners, (beside.name,)).fetchone() == (beside.user,)
    with postgres_server.connect(beside.name) as admin:
        made_by = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert admin.execute(made_by).fetchall() == [(beside.user,)]


def test_the_role_takes_the_databases_name_and_goes_with_it_when_it_was_half_made(
    provisioner, half, beside, postgres_server
):
    with halfmade.connected(provisioner) as connection:
        postgres = postgres_server.username
        with pytest.raises(Conflict, match="there is a role postgres at"):
            halfmade.refuse_role(connection, provisioner, postgres)
        halfmade.give_name(connection, half, "looked_at_here", "client acme: restored", False)
        found = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'looked_at_here'"
        assert connection.execute(found).fetchone() == ("looked_at_here",)
        connection.execute("DROP DATABASE looked_at_here")
        connection.execute("DROP ROLE looked_at_here")
        assert halfmade.drop(connection, half) is False


@pytest.mark.parametrize("guarded", [True, False], ids=["as pg_dump writes it", "without restrict"])
@pytest.mark.parametrize("place", ["first", "middle", "after an unrestrict"])
def test_a_command_of_psql_in_a_dump_starts_nothing(job, beside, tmp_path, guarded, place):
    fit = choose(installed(job.pg_bin), 16, "here")
    assert fit.restricts  # else this would show nothing
    dump.dump(job)
    text = gzip.decompress(job.path.read_bytes()).decode()
    key = text.partition("\\restrict ")[2].partition("\n")[0]
    command = f"\\! touch {tmp_path}/started\n"
    if place == "after an unrestrict":
        command = f"\\unrestrict {key}\n{command}"
    if not guarded:
        text = text.replace(f"\\restrict {key}\n", "").replace(f"\\unrestrict {key}\n", "")
    marker = "SET statement_timeout = 0;\n"
    text = command + text if place == "first" else text.replace(marker, marker + command, 1)
    path = tmp_path / "foreign.sql.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(Damaged):
        _load(path, job, beside)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_dump_keeps_its_bytes_but_for_the_key(job, size):
    dump.dump(job)
    whole = gzip.decompress(job.path.read_bytes())
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)] if size > 1 else [whole]
    given = b"".join(fitted(iter(pieces), 17, True))
    key, _, rest = given.removeprefix(b"\\restrict ").partition(b"\n")
    own = whole.partition(b"\\restrict ")[2].partition(b"\n")[0]
    expected = whole.replace(b"\\restrict " + own + b"\n", b"", 1)
    expected = expected[: expected.rindex(b"\n\\unrestrict " + own)] + b"\n"
    assert rest == expected + b"\n\\unrestrict " + key + b"\n" and own not in given

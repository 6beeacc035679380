"""The parts of the backups' benchmark: the database is of the size asked for, the sink takes all, memory is seen from outside."""

import secrets

import pytest

from tasks.backups.source import Database
from tests.bench.backups import dump, mail, source
from tests.bench.backups.dump import Backup, Other
from tests.bench.backups.memory import alone
from tests.bench.figures import Pair


@pytest.fixture
def filled(postgres_server):
    name = f"bench_{secrets.token_hex(4)}"
    database = Database(
        postgres_server.host, postgres_server.port, name, postgres_server.username, postgres_server.password
    )
    source._make(database, 92)
    yield database
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_the_database_has_the_size_asked_for_in_text_blobs_and_jsonb_and_a_dump_of_it_is_measured(
    filled, tmp_path, pg_bin
):
    with source.connect(filled) as connection:
        size = connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]
        rows = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in source.SHARES]
        twice = connection.execute(
            "SELECT count(*) FROM files a JOIN files b USING (data) WHERE a.id < b.id"
        ).fetchone()
    assert 80_000_000 < size < 105_000_000
    assert rows == [2 * count for count in source.SHARES.values()]
    assert twice == (source.SHARES["files"],)
    given = {"database": filled.__dict__, "path": str(tmp_path / "b.gz"), "pg_bin": str(pg_bin)}
    held = alone("dump", given)
    assert held.ours > held.beside > 5 and held.seen["pg_dump MiB"] > 1
    here = source.Source(filled, filled, tmp_path, pg_bin, {"PGPASSWORD": filled.password})
    backup, other = dump._backup(here), dump._other(here, dump._gzip(here).replace("-6", "-1"))
    assert 0 < backup.written < backup.whole and 0.5 < backup.size / other.size < 1.5
    assert (tmp_path / "latest.sql.gz").stat().st_size == backup.size and not (tmp_path / "beside").exists()


def test_figures_of_the_same_two_sides_read_the_same_rounds(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(dump, "_backup", lambda source: said.append("ours") or Backup(1.0, 2.0, 100))
    monkeypatch.setattr(dump, "_other", lambda source, line: said.append(line) or Other(4.0, 80))
    here = source.Source(Database("h", 1, "d", "u", "p"), Database("h", 1, "d", "u", "p"), tmp_path, tmp_path, {})
    monkeypatch.setattr(source.SOURCE, "get", lambda: here)
    with dump._beside(dump._gzip, dump._whole) as time, dump._beside(dump._gzip, dump._size) as size:
        assert [time(1), size(1), size(2), time(2)] == [Pair(2.0, 4.0), Pair(100, 80), Pair(100, 80), Pair(2.0, 4.0)]
    line = dump._gzip(here)
    assert said == ["ours", line, line, "ours"]  # the order changes from round to round
    monkeypatch.setattr(dump, "_other", lambda source, line: Other(0.1, 20))
    with dump._beside(dump._pigz, dump._whole, "sh") as cut, pytest.raises(RuntimeError, match="pg_dump failed"):
        cut(1)


def test_a_program_that_cannot_be_installed_is_named(monkeypatch):
    monkeypatch.setattr(dump.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="pigz is not installed"):
        dump._require("pigz")


def test_the_sink_takes_a_mail_and_the_same_bytes_without_smtp_and_a_mails_memory_is_seen(monkeypatch):
    monkeypatch.setattr(mail, "SIZE", 3_000_000)
    with mail._time() as one:
        pair = one(1)
        assert pair.ours > 0 and pair.beside > 0
    with mail._memory() as one:
        assert one(1).ours > one(2).beside > 5

"""The databases that all figures of this trade stand on: one server of our own, filled once and taken away after the last.

About 2 GB of what a mail service holds: text, base64 blobs, jsonb. One part of about 50 MB is made, and copied until the size
is reached: gzip sees no copy, because its window is 32 KiB. ``ZERO_FLEET_BENCH_MB=60`` makes a small one, for work on the
benchmark itself; its figures mean nothing.
"""

import base64
import json
import os
import random
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from deployments.one_machine.embedded_postgres import OWN_FOLDER, EmbeddedPostgres, client_programs
from tasks.backups.source import Database
from tests.bench.figures import Shared

MEGABYTES = int(os.environ.get("ZERO_FLEET_BENCH_MB", "2000"))
SMALL = 200
"""Of the second database, which the memory of a dump must not tell from the first."""
PART = 45.7
"""Megabytes in the database of the part that is copied."""
_ROOT = OWN_FOLDER if os.geteuid() == 0 else Path(tempfile.gettempdir())
_STEP = 1_000_000
SHARES = {"mails": 15_000, "files": 400, "events": 55_000}
"""Rows of each table in that part."""
TABLES = """
CREATE TABLE mails (id bigint PRIMARY KEY, subject text NOT NULL, body text NOT NULL, headers jsonb NOT NULL);
CREATE TABLE files (id bigint PRIMARY KEY, name text NOT NULL, data text NOT NULL);
CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL, event jsonb NOT NULL);
"""
_WORDS = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what "
    "all were we when your can said there use an each which she do how their if will up other about out many then them these "
    "so some her would make like him into time has look two more write go see number no way could people my than first water "
    "invoice meeting tomorrow attached regards thanks please review contract deadline project customer delivery account order "
    "Zoë Größe naïve café résumé Übung Straße señor façade jalapeño"
)


@dataclass(frozen=True)
class Source:
    """Where the filled databases are, and a folder for what is made of them."""

    large: Database
    small: Database
    folder: Path
    pg_bin: Path
    env: dict[str, str]
    """For programs of PostgreSQL, so that they find the password."""
    kept: dict[Any, Any] = field(default_factory=dict)
    """Rounds that were measured and that a second figure reads from the other side."""

    def pg_dump(self, *options: str) -> list[str]:
        """The command that dumps the large database to its standard output."""
        database = self.large
        where = ["-h", database.host, "-p", str(database.port), "-U", database.user]
        return [str(self.pg_bin / "pg_dump"), *where, *options, database.name]


@contextmanager
def _opened() -> Iterator[Source]:
    _sweep()
    base = _ROOT / f"bench-{os.getpid()}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = EmbeddedPostgres(base / "postgres", port, secrets.token_hex(8))
    try:
        server.start()
        folder = base / "files"
        folder.mkdir()
        # The database twice for a moment (its log), a backup and its successor, and what stands beside it.
        needed, free = MEGABYTES * 4_000_000, shutil.disk_usage(folder).free
        if free < needed:
            raise RuntimeError(f"{_ROOT} has {free >> 20} MiB free where {needed >> 20} MiB are needed")
        large, small = (
            Database("127.0.0.1", port, name, "postgres", server.superuser_password) for name in ("large", "small")
        )
        _make(large, MEGABYTES)
        _make(small, min(SMALL, MEGABYTES))
        passfile = folder / "pgpass"
        passfile.touch(0o600)
        passfile.write_text(f"*:*:*:*:{server.superuser_password}\n")
        yield Source(large, small, folder, client_programs(), {**os.environ, "PGPASSFILE": str(passfile)})
    finally:
        server.remove()
        shutil.rmtree(base, ignore_errors=True)


SOURCE = Shared(_opened)


def _sweep() -> None:
    """What killed runs of the benchmark left: each has a server and 2 GB."""
    for folder in _ROOT.glob("bench-*"):
        pid = folder.name.partition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            EmbeddedPostgres(folder / "postgres", 0, "").remove()
            shutil.rmtree(folder, ignore_errors=True)


def connect(database: Database, name: str | None = None) -> psycopg.Connection:
    """A connection in autocommit mode to ``database``, or to another on its server."""
    return psycopg.connect(
        host=database.host,
        port=database.port,
        dbname=name or database.name,
        user=database.user,
        password=database.password,
        autocommit=True,
    )


def _make(database: Database, megabytes: int) -> None:
    with connect(database, "postgres") as connection:
        connection.execute(f"CREATE DATABASE {database.name}")
    with connect(database) as connection:
        connection.execute(TABLES)
        _part(connection)
        for table, columns in (("mails", "subject, body, headers"), ("files", "name, data"), ("events", "at, event")):
            for copy in range(1, max(1, round(megabytes / PART))):  # one after the other, far out of gzip's sight
                connection.execute(
                    f"INSERT INTO {table} SELECT id + {copy * _STEP}, {columns} FROM {table} WHERE id < {_STEP} ORDER BY id"
                )
        connection.execute("VACUUM ANALYZE")  # what autovacuum would do in the middle of a figure
        connection.execute("CHECKPOINT")


def _part(connection: psycopg.Connection) -> None:
    chance = random.Random(4)

    known = _WORDS.split()

    def words(count: int) -> str:
        return " ".join(chance.choices(known, k=count))

    with connection.cursor() as cursor:
        with cursor.copy("COPY mails FROM STDIN") as copy:
            for number in range(SHARES["mails"]):
                headers = {"from": f"{words(1)}@example.org", "message-id": chance.randbytes(12).hex(), "size": number}
                copy.write_row(
                    (
                        number,
                        words(6),
                        words(chance.randrange(20, 420)),
                        json.dumps(headers | {"labels": ["inbox", words(1)]}),
                    )
                )
        with cursor.copy("COPY files FROM STDIN") as copy:
            for number in range(SHARES["files"]):
                data = base64.encodebytes(chance.randbytes(chance.randrange(2_000, 38_000))).decode()
                copy.write_row((number, f"{words(2)}.pdf", data))
        with cursor.copy("COPY events FROM STDIN") as copy:
            for number in range(SHARES["events"]):
                event = {
                    "kind": words(1),
                    "user": chance.randrange(10_000),
                    "trace": chance.randbytes(8).hex(),
                    "tags": words(8).split(),
                    "read": number % 3 == 0,
                    "score": chance.random(),
                }
                at = datetime.fromtimestamp(1_767_225_600 + number, UTC)
                copy.write_row((number, at, json.dumps(event)))

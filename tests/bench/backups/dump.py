"""A whole backup (dump, compress, hash, fsync, read back, publish, count rows) beside `pg_dump | gzip -6`.

The database is about 200 MB of text, base64 and jsonb; the larger one belongs to the issue that deepens backups.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.figures import Figure, Measure, in_turns

ROWS = 100_000
FILL = f"""
SELECT setseed(0.5);
CREATE TABLE mails AS SELECT i AS id, 'Subject ' || i AS subject,
    (SELECT string_agg((ARRAY['lorem', 'ipsum', 'dolor', 'sit', 'amet', 'elit', 'sed', 'magna', md5((i * j)::text)])
                       [1 + floor(random() * 9)], ' ') FROM generate_series(1, 120) j) AS body,
    encode(decode((SELECT string_agg(md5((i * 40 + j)::text), '') FROM generate_series(1, 40) j), 'hex'), 'base64') AS blob,
    jsonb_build_object('from', md5(i::text), 'labels', jsonb_build_array('inbox', i % 7)) AS headers
FROM generate_series(1, {ROWS}) i;
CHECKPOINT;
"""


@contextmanager
def _beside(pipeline: Callable[[list[str], dict[str, str], Path], float]) -> Iterator[Measure]:
    import psycopg

    from deployments.one_machine.embedded_postgres import OWN_FOLDER, EmbeddedPostgres, client_programs
    from tasks.backups.dump import Job, dump
    from tasks.backups.source import Database, Target

    base = Path(OWN_FOLDER if os.geteuid() == 0 else tempfile.gettempdir()) / f"bench-{os.getpid()}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = EmbeddedPostgres(base / "postgres", port, secrets.token_hex(8), ("127.0.0.1",), ())
    folder = Path(tempfile.mkdtemp(prefix="zero-fleet-bench-"))
    try:
        server.start()
        source = Database("127.0.0.1", port, "postgres", "postgres", server.superuser_password)
        with psycopg.connect(
            host=source.host, port=port, dbname=source.name, user=source.user, password=source.password, autocommit=True
        ) as connection:
            connection.execute(FILL)
        job = Job(Target(client="bench"), source, folder / "latest.sql.gz", "bench", pg_bin=client_programs())
        passfile = folder / "pgpass"
        passfile.write_text(f"*:*:*:*:{source.password}\n")
        passfile.chmod(0o600)
        env = {**os.environ, "PGPASSFILE": str(passfile)}
        command = [str(client_programs() / "pg_dump"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "postgres"]

        def ours() -> float:
            started = time.perf_counter()
            dump(job)
            return time.perf_counter() - started

        with in_turns(ours, lambda: pipeline(command, env, folder)) as one:
            yield one
    finally:
        server.remove()
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _to_gzip(command: list[str], env: dict[str, str], folder: Path) -> float:
    started = time.perf_counter()
    with (
        (folder / "beside.gz").open("wb") as file,
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as dumping,
    ):
        subprocess.run(["gzip", "-6"], stdin=dumping.stdout, stdout=file, check=True)
    return time.perf_counter() - started


FIGURES = [
    Figure(
        "faster-than-gzip",
        "wall time of `pg_dump | gzip -6` / of the same whole backup",
        4.0,
        partial(_beside, _to_gzip),
        reach=True,
        rounds=3,
    ),
]

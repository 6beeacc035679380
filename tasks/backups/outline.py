"""The schema of a database as pg_dump writes it, taken beside other work."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tasks import children
from tasks.backups import programs
from tasks.backups.dumped import text_of
from tasks.backups.source import Database

_TICK = 0.3


def text(
    fit: programs.Programs,
    database: Database,
    watch: Callable[[], None],
    owners: bool = False,
    snapshot: str = "",
    lock_seconds: float = 30,
    encoding: str = "",
) -> str:
    """What ``pg_dump --schema-only`` writes of ``database``.

    Args:
        fit: whose pg_dump.
        watch: called a few times a second; what it raises ends pg_dump.
        owners: with owners and privileges.
        snapshot: an exported one, whose transaction is open.
        lock_seconds: how long to wait for a table's lock.
        encoding: PostgreSQL's name of one; empty: the database's own, which a dump is in.

    Raises:
        Refused, Unreachable: what pg_dump said, in words.
    """
    arguments: list[str | Path] = [
        fit.pg_dump,
        "--schema-only",
        "--no-password",
        f"--lock-wait-timeout={max(1, int(lock_seconds * 1000))}",
        *([] if owners else ["--no-owner", "--no-privileges"]),
        *([f"--snapshot={snapshot}"] if snapshot else []),
        *([f"--encoding={encoding}"] if encoding else []),
    ]
    with programs.pgpass(database.password) as passfile:
        env = programs.environment(database, passfile, programs.WRITTEN_ALIKE)
        child = children.start(arguments, env, stdout=subprocess.PIPE)
        try:
            while True:
                watch()
                with suppress(subprocess.TimeoutExpired):
                    written, said = child.communicate(timeout=_TICK)
                    break
        finally:
            children.stop(child)
    if child.returncode != 0:
        raise programs.pg_dump_error(said.decode(errors="replace"), child.returncode, database)
    return text_of(written)

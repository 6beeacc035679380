"""What a manifest says of a database besides its dump: rows, roles and grants, in the dump's own snapshot.

It is asked for after the dump has come, while the file is read back: beside the dump it would slow it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from tasks.backups import outline, ownership, programs, survey
from tasks.backups.source import Database
from tasks.errors import Refused, Unreachable

_TICK = 0.3
_TRIES = 3
"""For two dumps of the schema, with owners and without, that are of one schema."""


@dataclass(frozen=True)
class Asked:
    """Of what, with what, and until when."""

    database: Database
    tables: list[tuple[str, str]]
    fit: programs.Programs
    snapshot: str
    """Exported by the transaction of the connection that goes with this."""
    lock_seconds: float
    deadline: float
    """On the monotonic clock."""
    cancelled: threading.Event


@dataclass(frozen=True)
class Inventory:
    """What a manifest says besides the dump."""

    rows: dict[str, int]
    uncounted: list[tuple[str, str]]
    """Tables that were truncated, rewritten or dropped since the snapshot: only the dump itself still knows their rows."""
    roles: str
    grants: str


@contextmanager
def beside(asked: Asked, connection: psycopg.Connection) -> Iterator[Callable[[], Inventory]]:
    """Begin to ask; what is yielded waits for the answers. Nobody else may use ``connection`` meanwhile.

    Raises:
        Refused, Unreachable: from what is yielded: what the server or pg_dump said, or that it took too long.
    """
    ended = threading.Event()

    def watch() -> None:
        if ended.is_set() or asked.cancelled.is_set():
            raise Refused("the backup was cancelled, the previous one is untouched", "run it again when you want it")
        if time.monotonic() >= asked.deadline:
            raise Unreachable(
                f"counting the rows of {asked.database.name} at {asked.database.server} and reading its schema took longer "
                "than the dump may",
                "raise DB_BACKUP_TIMEOUT (Timeout in the block backup-policy), or run it when the server has less load",
            )

    def text(owners: bool, snapshot: str) -> str:
        return outline.text(asked.fit, asked.database, watch, owners, snapshot, asked.lock_seconds, "UTF8")

    def asked_of_server() -> tuple[dict[str, int], list[tuple[str, str]], ownership.Owners]:
        return (*survey.count_of_snapshot(connection, asked.tables), ownership.read(connection))

    with ThreadPoolExecutor(3, "inventory") as pool:
        answers = pool.submit(asked_of_server)
        texts = [pool.submit(text, owners, asked.snapshot) for owners in (False, True)]

        def result() -> Inventory:
            _await([answers], watch)
            rows, uncounted, owners = answers.result()
            asked_now = texts
            for left in reversed(range(_TRIES)):
                try:
                    _await(asked_now, watch)
                    grants = ownership.grants(asked_now[1].result(), asked_now[0].result(), owners)
                    return Inventory(rows, uncounted, ownership.roles(owners, grants), grants)
                except (ownership.Unlike, Refused) as error:
                    watch()
                    if not left and isinstance(error, Refused):
                        raise
                # No snapshot hides a change of the schema, so it is as well without.
                asked_now = [pool.submit(text, owned, "") for owned in (False, True)] if left else []
            raise Unreachable(
                f"the schema of {asked.database.name} at {asked.database.server} was changed again and again while its owners "
                "and rights were read, the previous backup is untouched",
                "run again when nobody changes it",
            )

        try:
            yield result
        finally:
            ended.set()
            if not answers.done():
                survey.interrupt(connection, lambda: not wait([answers], 5).not_done)


def _await(asked: Sequence[Future[Any]], watch: Callable[[], None]) -> None:
    """Return when all of ``asked`` are answered; the first that failed is raised at once."""
    left = True
    while left:
        done, not_done = wait(asked, _TICK, FIRST_EXCEPTION)
        for one in done:
            one.result()
        left = bool(not_done)
        if left:
            watch()

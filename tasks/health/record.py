"""Writing a poll down: one transaction, Core executemany (10,000 rows: 0.11 s; row by row 10 s)."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Engine, bindparam, insert, update
from sqlmodel import Session, col, select

from tasks.health.judgement import Verdict
from tasks.health.samples import Stored
from tasks.registry.models import HealthTransition, Status, ZeroInstance
from tasks.registry.queries import instances


def read(engine: Engine) -> list[Stored]:
    """What the registry knows of every client, by client; not of one whose first run has only reserved a port so far."""
    return [Stored.of(row) for row in instances(engine) if row.spec or row.status is not Status.UNKNOWN]


def write(
    engine: Engine,
    at: datetime,
    stored: Mapping[str, Stored],
    verdicts: Mapping[str, Verdict],
    latencies: Mapping[str, float | None],
) -> frozenset[str]:
    """Write all verdicts of the poll that began ``at``, and a transition for each status that changed.

    A row that somebody else touched since it was read (an operation on the client, another poll) is left as it is:
    what was seen is older than what is written there. So a change is made, and its transition recorded, exactly once.

    Args:
        engine: the registry's.
        at: the moment of the poll; no two polls have the same.
        stored: what was read when the poll began.
        verdicts: what became of each client.
        latencies: milliseconds, None where none was measured.

    Returns:
        The clients whose verdict was written.
    """
    if not verdicts:
        return frozenset()
    # Through the table, not the entity: the ORM refuses conditions of our own in a bulk update by primary key.
    table = ZeroInstance.__table__  # type: ignore[attr-defined]
    statement = (
        update(table)
        .where(
            table.c.client == bindparam("of_client"),
            table.c.status == bindparam("old_status"),
            table.c.updated_at == bindparam("read_at"),
        )
        .values(
            {
                name: bindparam(f"new_{name}")
                for name in (
                    "status",
                    "failures",
                    "successes",
                    "restart_count",
                    "last_error",
                    "latency_ms",
                    "updated_at",
                    "checked_at",
                )
            }
        )
    )
    rows = [
        {
            "of_client": slug,
            "old_status": stored[slug].status,
            "read_at": stored[slug].updated_at,
            "new_status": verdict.status,
            "new_failures": verdict.failures,
            "new_successes": verdict.successes,
            "new_restart_count": verdict.restart_count,
            "new_last_error": verdict.last_error,
            "new_latency_ms": latencies.get(slug),
            # When the status began; a poll that changes nothing leaves it.
            "new_updated_at": at if verdict.status is not stored[slug].status else stored[slug].updated_at,
            "new_checked_at": at,
        }
        for slug, verdict in verdicts.items()
    ]
    with Session(engine) as session:
        session.connection().execute(statement, rows)
        # The moment marks the rows that were ours to change.
        written = frozenset(session.exec(select(ZeroInstance.client).where(col(ZeroInstance.checked_at) == at)))
        changes = [
            {
                "client": slug,
                "at": at,
                "old": stored[slug].status,
                "new": verdict.status,
                "reason": verdict.reason,
            }
            for slug, verdict in verdicts.items()
            if slug in written and verdict.status is not stored[slug].status
        ]
        if changes:
            session.connection().execute(insert(HealthTransition.__table__), changes)  # type: ignore[attr-defined]
        session.commit()
    return written

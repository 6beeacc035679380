"""The step journal: what an operation on a client did when, readable after a kill (an entry without an end was cut off)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tasks.clock import now
from tasks.registry.models import StepJournal


@dataclass
class Entry:
    """A running step: say what came of it, and what of its time went to the world outside."""

    outcome: str = "done"
    outside_seconds: float = field(default=0.0)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Count the time inside this block as Docker's, PostgreSQL's or the service's, not ours."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.outside_seconds += time.monotonic() - started


@contextmanager
def step(engine: Engine, client: str, run_id: str, operation: str, name: str) -> Iterator[Entry]:
    """Journal the step ``name`` of ``operation`` on ``client``: begun before, ended after, also when it fails."""
    row = StepJournal(client=client, run_id=run_id, operation=operation, step=name, started_at=now())
    with Session(engine, expire_on_commit=False) as session:
        session.add(row)
        session.commit()
    entry = Entry()
    try:
        yield entry
    except BaseException as error:
        entry.outcome = f"failed: {type(error).__name__}"
        raise
    finally:
        with Session(engine) as session:
            row.ended_at, row.outcome, row.outside_seconds = now(), entry.outcome, entry.outside_seconds
            session.merge(row)
            session.commit()


def of_run(engine: Engine, run_id: str) -> list[StepJournal]:
    """The journal of one run, oldest first."""
    with Session(engine) as session:
        return list(session.exec(select(StepJournal).where(StepJournal.run_id == run_id).order_by(col(StepJournal.id))))


def latest(engine: Engine, client: str, count: int = 20) -> list[StepJournal]:
    """The last ``count`` steps on ``client``, newest first."""
    with Session(engine) as session:
        statement = (
            select(StepJournal).where(StepJournal.client == client).order_by(col(StepJournal.id).desc()).limit(count)
        )
        return list(session.exec(statement))

"""Who holds a name right now: asked of the lock itself, since the table may still name one that was killed."""

import threading

import pytest
from sqlmodel import Session

from tasks.clock import now
from tasks.registry.lock import hold, holder_now
from tasks.registry.models import Hold


def test_a_holder_is_named_while_it_holds_and_not_when_only_the_table_still_names_it(registry, tmp_path):
    assert holder_now(registry, "acme", tmp_path) is None
    with hold(registry, "acme", "run 1 (upgrade acme)", tmp_path):
        said = holder_now(registry, "acme", tmp_path)
        assert said is not None and said.startswith("run 1 (upgrade acme) since ")
        assert holder_now(registry, "beta", tmp_path) is None
    with Session(registry) as session:
        session.merge(Hold(name="acme", holder="run 2 (killed)", since=now()))
        session.commit()
    assert holder_now(registry, "acme", tmp_path) is None


@pytest.mark.parametrize("registry", ["postgresql"], indirect=True)
def test_the_row_of_a_killed_holder_that_is_written_only_now_is_taken_over(registry, tmp_path):
    # What PostgreSQL still has to commit for a process that is gone; SQLite writes in that process itself.
    late = registry.connect()
    late.execute(Hold.__table__.insert().values(name="acme", holder="run 2 (killed)", since=now()))
    commit = threading.Timer(0.5, late.commit)
    commit.start()
    with hold(registry, "acme", "run 3 (upgrade acme)", tmp_path):
        said = holder_now(registry, "acme", tmp_path)
        assert said is not None and said.startswith("run 3 (upgrade acme) since ")
    commit.join()
    late.close()
    with Session(registry) as session:
        assert session.get(Hold, "acme") is None

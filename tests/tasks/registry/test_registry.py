"""The registry on SQLite and on PostgreSQL."""

import multiprocessing
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel

from blocks.registry import open_engine
from tasks.clock import now
from tasks.errors import Conflict, InvalidInput, NotConfigured, NotFound
from tasks.registry import journal, lock, queries, revision
from tasks.registry.models import Client, GmailProfile, Hold, Status, ZeroInstance


def test_the_code_speaks_the_newest_revision():
    scripts = ScriptDirectory(str(Path(revision.__file__).parent / "migrations"))
    assert scripts.get_heads() == [revision.HEAD]


def test_the_migrations_make_what_the_models_say(registry):
    with registry.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_migrating_twice_changes_nothing(registry):
    revision.upgrade(registry.url.render_as_string(hide_password=False))
    revision.require_head(registry)


def test_a_registry_without_tables_is_refused_with_what_to_do(tmp_path):
    from sqlalchemy import make_url

    engine = open_engine(make_url(f"sqlite:///{tmp_path}/empty.sqlite"))
    with pytest.raises(NotConfigured, match="run `make up`"):
        revision.require_head(engine)


def test_registering_twice_makes_one_client(registry):
    assert queries.register_client(registry, "acme") is True
    assert queries.register_client(registry, "acme") is False
    assert [row.client for row in queries.instances(registry)] == ["acme"]


@pytest.mark.parametrize("registry", ["postgresql"], indirect=True)
def test_a_client_whose_row_a_killed_run_sent_before_is_registered_once_it_is_there(registry):
    late = registry.connect()
    late.execute(Client.__table__.insert().values(slug="acme", created_at=now()))
    commit = threading.Timer(0.5, late.commit)
    commit.start()
    assert queries.register_client(registry, "acme") is True
    commit.join()
    late.close()
    assert queries.register_client(registry, "acme") is False
    assert [row.client for row in queries.instances(registry)] == ["acme"]


def test_a_forgotten_client_leaves_no_row(registry):
    queries.register_client(registry, "acme")
    queries.forget_client(registry, "acme")
    assert queries.find_instance(registry, "acme") is None
    assert queries.register_client(registry, "acme") is True


def test_two_clients_cannot_have_one_port_on_one_host(registry):
    queries.register_client(registry, "acme")
    queries.register_client(registry, "beta")
    queries.update_instance(registry, "acme", host_port=20000)
    with pytest.raises(IntegrityError):
        queries.update_instance(registry, "beta", host_port=20000)
    queries.update_instance(registry, "beta", host_port=20000, docker_host="other")


def test_words_and_moments_come_back_as_they_went_in(registry):
    queries.register_client(registry, "acme")
    moment = now()
    queries.update_instance(registry, "acme", status=Status.CRASH_LOOP, checked_at=moment)
    row = queries.get_instance(registry, "acme")
    assert row.status is Status.CRASH_LOOP
    assert row.checked_at == moment


def test_a_naive_moment_is_refused(registry):
    queries.register_client(registry, "acme")
    with pytest.raises(Exception, match="naive"):
        queries.update_instance(registry, "acme", checked_at=datetime(2026, 1, 1))


def test_an_unknown_client_is_refused_with_the_known_ones(registry):
    queries.register_client(registry, "acme")
    with pytest.raises(NotFound, match=r"no client 'acmee' \(known: acme\)"):
        queries.get_instance(registry, "acmee")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "clients is empty"),
        (["all", "acme"], "all beside"),
        (["Acme"], "is no slug"),
        (["beta"], "no client 'beta'"),
    ],
)
def test_a_wrong_list_of_clients_is_refused(registry, given, error):
    queries.register_client(registry, "acme")
    with pytest.raises((InvalidInput, NotFound), match=error):
        queries.resolve_clients(registry, given)


def test_all_means_every_client_and_a_name_twice_counts_once(registry):
    for slug in ("acme", "beta"):
        queries.register_client(registry, slug)
    assert queries.resolve_clients(registry, ["all"]) == ["acme", "beta"]
    assert queries.resolve_clients(registry, ["beta", "beta"]) == ["beta"]


def test_the_journal_tells_what_was_cut_off_from_what_failed(registry):
    with journal.step(registry, "acme", "run-1", "provision", "database") as entry, entry.outside():
        time.sleep(0.01)
    with pytest.raises(ValueError, match="x"), journal.step(registry, "acme", "run-1", "provision", "container"):
        raise ValueError("x")
    first, second = journal.of_run(registry, "run-1")
    assert first.outcome == "done" and first.outside_seconds > 0
    assert second.outcome == "failed: ValueError" and second.ended_at is not None
    assert [row.step for row in journal.latest(registry, "acme", 1)] == ["container"]


def test_a_second_holder_waits_and_is_told_who_holds(registry, tmp_path):
    with (
        lock.hold(registry, "acme", "run gentle-owl (upgrade acme)", tmp_path),
        pytest.raises(Conflict, match=r"acme is held by run gentle-owl \(upgrade acme\) since .*; wait or cancel it"),
        lock.hold(registry, "acme", "run y", tmp_path, wait=0.3),
    ):
        pass
    with lock.hold(registry, "acme", "run y", tmp_path, wait=0.3):
        pass
    with Session(registry) as session:
        assert session.get(Hold, "acme") is None


def test_two_names_do_not_hinder_each_other(registry, tmp_path):
    with lock.hold(registry, "acme", "x", tmp_path), lock.hold(registry, "beta", "y", tmp_path, wait=0.2):
        pass


def _hold_for_ever(url: str, folder: Path, ready) -> None:
    from sqlalchemy import make_url

    with lock.hold(open_engine(make_url(url)), "acme", "doomed", folder):
        ready.set()
        time.sleep(60)


def test_a_killed_holder_lets_go_by_itself(registry, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    url = registry.url.render_as_string(hide_password=False)
    process = context.Process(target=_hold_for_ever, args=(url, tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(Conflict, match="doomed"), lock.hold(registry, "acme", "next", tmp_path, wait=0.2):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock.hold(registry, "acme", "next", tmp_path, wait=5):
        pass


def test_the_registry_has_no_column_for_a_secret():
    columns = {column.name for table in SQLModel.metadata.tables.values() for column in table.columns}
    assert not {name for name in columns if any(word in name for word in ("password", "secret", "token", "code"))}
    assert ZeroInstance.__tablename__ and GmailProfile.__tablename__

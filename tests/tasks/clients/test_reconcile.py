"""Which steps lead from what is to what is wanted: pure."""

import pytest

from tasks.clients.containers import Seen
from tasks.clients.postgres import DatabaseState
from tasks.clients.readiness import Answer, dead, fits, reason, verdict
from tasks.clients.reconcile import Step, Wanted, steps_needed
from tasks.registry.spec import Probe

READY = DatabaseState(True, True, ())
NONE = DatabaseState(False, False, ("there is no role",))
FAULTY = DatabaseState(True, True, ("PUBLIC may connect to it",))
WANTED = Wanted(True, "hash", "image")


def container(state: str = "running", **changes) -> Seen:
    made_from = {
        "id": "c", "name": "zero_client_acme", "state": state, "exit_code": 0, "oom_killed": False, "restart_count": 0,
        "image_id": "image", "spec_hash": "hash", "host_port": 20000, "fleet": "f", "client": "acme",
    }  # fmt: skip
    return Seen(**{**made_from, **changes})


@pytest.mark.parametrize(
    ("database", "seen", "serves", "wanted", "steps"),
    [
        (NONE, None, False, WANTED, [Step.DATABASE, Step.CREATE, Step.START, Step.WAIT]),
        (READY, None, False, WANTED, [Step.CREATE, Step.START, Step.WAIT]),
        (READY, container(), True, WANTED, []),
        (READY, container(), False, WANTED, [Step.WAIT]),
        (READY, container("restarting"), False, WANTED, [Step.WAIT]),
        (READY, container("exited"), False, WANTED, [Step.START, Step.WAIT]),
        (READY, container("created"), False, WANTED, [Step.START, Step.WAIT]),
        (READY, container(spec_hash="old"), True, WANTED, [Step.REMOVE, Step.CREATE, Step.START, Step.WAIT]),
        (READY, container(image_id="old"), True, WANTED, [Step.REMOVE, Step.CREATE, Step.START, Step.WAIT]),
        (FAULTY, container(), True, WANTED, [Step.DATABASE]),
        (NONE, container(), True, WANTED, [Step.STOP, Step.DATABASE, Step.START, Step.WAIT]),
        (NONE, container("exited"), False, WANTED, [Step.DATABASE, Step.START, Step.WAIT]),
        (NONE, container("exited"), False, Wanted(False, "hash", "image"), [Step.DATABASE]),
        (READY, container("paused"), False, WANTED, [Step.START, Step.WAIT]),
        (READY, container("paused"), False, Wanted(False, "hash", "image"), [Step.STOP]),
        (READY, container(), True, Wanted(False, "hash", "image"), [Step.STOP]),
        (READY, container("exited"), False, Wanted(False, "hash", "image"), []),
        (READY, None, False, Wanted(False, "hash", "image"), [Step.CREATE]),
    ],
)
def test_the_steps_are_those_missing(database, seen, serves, wanted, steps):
    assert steps_needed(database, seen, serves, wanted) == steps


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (None, "gone"),
        (container("exited", exit_code=1), "exit code 1"),
        (container("exited", exit_code=127), "exit code 127: its start command is not in the image"),
        (container(oom_killed=True), "memory"),
        (container("restarting", restart_count=5), "loop"),
        (container("paused"), "paused"),
    ],
)
def test_a_container_that_will_not_come_is_not_waited_for(seen, says):
    assert says in (dead(seen, 0) or "")


def test_one_restart_is_no_loop_and_old_restarts_do_not_count():
    assert dead(container("restarting", restart_count=1), 0) is None
    assert dead(container(restart_count=50), 50) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Error: connect ECONNREFUSED 172.17.0.1:5432", "does not reach PostgreSQL at 172.17.0.1:5432"),
        ("Error: write CONNECT_TIMEOUT db:5432", "does not reach PostgreSQL at db:5432"),
        ('PostgresError: password authentication failed for user "x"', "refuses its password"),
        ('PostgresError: database "x" does not exist', "does not have its database"),
        ("PostgresError: permission denied for schema drizzle", "role zero_client_acme may not make or use its tables"),
        ("PostgresError: permission denied for table mail0_user", "ALTER … OWNER TO zero_client_acme"),
        ("PostgresError: must be owner of table mail0_user", "REASSIGN OWNED BY … TO zero_client_acme"),
        ("Error: getaddrinfo ENOTFOUND db", "cannot resolve"),
        ("PostgresError: sorry, too many clients already", "no connection left for it"),
        ("Error: ENOSPC: no space left on device, write", "no disk space left"),
        ("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "spec.memory"),
        ("Error: Cannot find module '/app/dist/main.js'", "lacks a part of the program"),
        ("exec /bin/sh: exec format error", "another kind of processor"),
    ],
)
def test_zeros_own_messages_are_understood(line, says):
    found = reason(["Running migrations", line], "zero_client_acme")
    assert found is not None and says in " ".join(found)
    assert says in str(verdict("zero_client_acme", "it ended with exit code 1", [line], 1536))


def test_an_unknown_end_shows_the_last_line():
    assert "it last said: Segmentation fault" in str(
        verdict("c", "it ended with exit code 139", ["Segmentation fault"], 1)
    )


def test_a_probe_takes_code_and_members():
    probe = Probe(path="/api/auth/ok", json_has={"ok": True})
    assert fits(probe, Answer("/api/auth/ok", 200, b'{"ok":true}'))
    assert not fits(probe, Answer("/api/auth/ok", 200, b'{"ok":false}'))
    assert not fits(probe, Answer("/api/auth/ok", 200, b"<html>"))
    assert not fits(probe, Answer("/api/auth/ok", 500, b'{"ok":true}'))
    assert not fits(probe, Answer("/api/auth/ok", cause="connection refused"))

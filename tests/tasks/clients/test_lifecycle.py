"""What starting, stopping and restarting do to what Docker shows, and since when a log is read: pure."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.clients import lifecycle, logs
from tasks.clients.lifecycle import Move
from tasks.clients.outcomes import Outcome, summary
from tasks.errors import Conflict, FleetError, InvalidInput, NotConfigured, NotFound, Refused, Unhealthy
from tests.tasks.clients.test_reconcile import WANTED, container

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seen", "start", "stop", "restart"),
    [
        (container(), Move.LEAVE, Move.STOP, Move.RESTART),
        (container("restarting"), Move.LEAVE, Move.STOP, Move.RESTART),
        (container("paused"), Move.START, Move.STOP, Move.RESTART),
        (container("exited"), Move.START, Move.LEAVE, Move.START),
        (container("created"), Move.START, Move.LEAVE, Move.START),
        (container(spec_hash="older"), Move.LEAVE, Move.STOP, Move.ANEW),
        (container("exited", spec_hash="older"), Move.START, Move.LEAVE, Move.ANEW),
        (container("exited", image_id="older"), Move.START, Move.LEAVE, Move.ANEW),
        (container(spec_hash="", image_id="of a person"), Move.LEAVE, Move.STOP, Move.RESTART),
    ],
)
def test_what_docker_shows_decides(seen, start, stop, restart):
    assert lifecycle.to_start(seen, "acme", 20000) is start
    assert lifecycle.to_stop(seen) is stop
    assert lifecycle.to_restart(seen, WANTED) is restart


@pytest.mark.parametrize(
    ("seen", "error", "says"),
    [
        (None, NotFound, "run provision-client for acme, which makes and starts it"),
        (container("dead"), Conflict, "is dead"),
        (container("exited", host_port=20001), Conflict, "publishes port 20001, and 20000 is reserved for acme"),
        (container(once=True), Conflict, "would drop agent tables again"),
        (container("exited", once=True), Conflict, "run restart-zero or provision-client for acme"),
    ],
)
def test_a_start_makes_nothing_and_says_who_does(seen, error, says):
    with pytest.raises(error, match=says):
        lifecycle.to_start(seen, "acme", 20000)


@pytest.mark.parametrize("seen", [None, container("dead"), container(once=True), container("exited", once=True)])
def test_a_restart_makes_anew_what_cannot_be_started(seen):
    assert lifecycle.to_restart(seen, WANTED) is Move.ANEW


def test_what_is_not_enabled_is_not_started():
    with pytest.raises(
        NotConfigured, match="acme is not enabled, so it is not started; run provision-client with enabled"
    ):
        lifecycle.refuse_disabled("acme", False)


@pytest.mark.parametrize("clients", [["all"], ["acme", "beta"], []])
def test_a_clean_restart_takes_one_client(clients):
    with pytest.raises(InvalidInput, match="one client at a time"):
        lifecycle.check_clean(clients, "acme")


@pytest.mark.parametrize("confirm", ["", "yes", "acme ", "Acme", "beta"])
def test_a_clean_restart_wants_the_very_slug_again(confirm):
    with pytest.raises(InvalidInput, match="repeat the slug in confirm"):
        lifecycle.check_clean(["acme"], confirm)


def test_a_refusal_before_anything_was_touched_says_so_and_keeps_its_kind():
    with (
        pytest.raises(
            Refused, match="the clean restart of acme is refused and nothing was touched: no space"
        ) as caught,
        lifecycle.untouched("the clean restart of acme"),
    ):
        raise Refused("no space", "make some")
    assert caught.value.cure == "make some"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, None),
        ("", None),
        ("90s", AT - timedelta(seconds=90)),
        ("10m", AT - timedelta(minutes=10)),
        ("2h", AT - timedelta(hours=2)),
        ("1d", AT - timedelta(days=1)),
        ("2026-03-01T11:30:00Z", AT - timedelta(minutes=30)),
        ("2026-03-01T12:30", AT - timedelta(minutes=30)),
        ("2026-03-01", AT - timedelta(hours=13)),
    ],
)
def test_since_is_a_time_ago_or_a_moment_on_the_operators_clock(text, moment):
    assert logs.since_when(text, AT, "Europe/Vienna") == moment


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesterday", "is no moment; write it like 10m"),
        ("10", "is no moment"),
        ("-5m", "is no moment"),
        ("10m\n", "is no moment"),
        ("999999d", "is no moment"),
        ("2026-13-01", "is no moment"),
        ("2030-01-01", "lies ahead of 2026-03-01 12:00"),
        ("0001-01-01", "is before 1970|is no moment"),
    ],
)
def test_a_since_that_means_nothing_is_refused_in_words(text, says):
    with pytest.raises(InvalidInput, match=says):
        logs.since_when(text, AT, "UTC")


@given(st.text(max_size=40))
def test_whatever_is_typed_as_since_is_a_moment_or_a_sentence(text):
    try:
        moment = logs.since_when(text, AT, "UTC")
    except FleetError:
        return
    assert moment is None or moment <= AT


def test_no_line_of_a_log_ends_the_pages_fence():
    page = logs.markdown("2 lines", "running", ["````", "# no heading"], AT, "UTC")
    assert "`````text\n````\n# no heading\n`````\n" in page


def test_no_clients_at_all_is_a_sentence_and_one_failure_is_told_whole():
    assert summary([], "started") == "there are no clients to be started; run provision-client to make one."
    with pytest.raises(
        Unhealthy, match="1 of 2 started; not acme: the port is taken; mend what each one names"
    ) as caught:
        summary([Outcome("acme", False, "acme: the port is taken"), Outcome("beta", True, "beta: started")], "started")
    assert "beta" not in str(caught.value)

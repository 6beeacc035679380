"""What a person reads after a look."""

from datetime import UTC, datetime, timedelta

from tasks.health import judgement, report
from tasks.health.judgement import Policy
from tasks.health.probes import Answer, Failure
from tasks.health.report import Outcome
from tasks.health.samples import Container, Sample, Stored
from tasks.registry.models import Status, ZeroInstance

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UP = Container("zero_client_x", "running", uptime=9000.0)
GOOD = Sample(UP, Answer(None, "/health answered 200", "/health", 200, 11.6))
TIMED_OUT = Sample(UP, Answer(Failure.TIMEOUT, "/health did not answer within 5 s"))


def outcome(slug: str, sample: Sample = GOOD, status: Status = Status.RUNNING) -> Outcome:
    row = ZeroInstance(
        client=slug, status=status, host_port=20000, updated_at=AT - timedelta(days=1), checked_at=AT, spec={}
    )
    stored = Stored.of(row)
    seen = judgement.observe(stored, sample)
    return Outcome(stored, sample, seen, judgement.judge(stored, sample, seen, Policy(), AT))


def test_a_well_fleet_is_one_short_sentence() -> None:
    assert report.sentence([outcome(slug) for slug in "abc"], 0.42, {}) == "3 of 3 healthy in 0.4 s."


def test_an_empty_fleet_is_told_how_to_begin() -> None:
    assert report.sentence([], 0.1, {}) == "there are no clients yet; run provision-client to make one."


def test_one_cause_is_said_once_however_many_it_hits() -> None:
    lost = Sample(UP, GOOD.answer, database="PostgreSQL at db:5432 does not answer")
    said = report.sentence([outcome(slug, lost) for slug in "abcdefg"], 1, {})
    assert said == "0 of 7 healthy in 1.0 s; a, b, c, d, e and 2 more: PostgreSQL at db:5432 does not answer."


def test_a_host_in_trouble_is_one_sentence() -> None:
    trouble = "the Docker engine does not answer"
    outcomes = [outcome(slug, Sample(unreachable=trouble)) for slug in "abc"]
    assert report.sentence(outcomes, 0.1, {"local": trouble}) == f"0 of 3 healthy in 0.1 s; {trouble}."


def test_those_stopped_on_purpose_are_counted_apart() -> None:
    said = report.sentence([outcome("a"), outcome("b", Sample(), Status.STOPPED)], 0.1, {})
    assert said == "1 of 1 healthy in 0.1 s; 1 not meant to run."


def test_the_table_shows_what_is_not_well_first_and_dates_in_the_operators_zone() -> None:
    rows = report.table([outcome("a"), outcome("b", TIMED_OUT)], AT, "Europe/Vienna")
    assert [row["client"] for row in rows] == ["b", "a"]
    assert rows[1] == {
        "client": "a",
        "status": "running",
        "URL": "http://localhost:20000",
        "latency": "12 ms",
        "since": "2026-01-01 04:04",
        "last error": "",
        "checked": "2026-01-02 04:04:05",
    }
    assert rows[0]["last error"].startswith("/health did not answer within 5 s")


def test_the_table_of_a_large_fleet_is_cut_and_says_so() -> None:
    outcomes = [outcome(f"c{number}") for number in range(report.MOST_ROWS + 1)]
    assert len(report.table(outcomes, AT, "UTC")) == report.MOST_ROWS
    assert report.table_words(outcomes, "x.") == "x. The first 200 of 201 clients, those not well first."


def test_every_client_has_its_line() -> None:
    said = report.lines(
        [outcome("a"), outcome("b", TIMED_OUT), outcome("c", Sample()), outcome("d", Sample(), Status.STOPPED)]
    )
    assert said == [
        "a: healthy, /health answered 200 in 12 ms",
        "b: unhealthy, /health did not answer within 5 s; read docker logs zero_client_x",
        "c: missing, its container does not exist; run provision-client for c",
        "d: stopped, not meant to run",
    ]


def test_the_table_shows_the_sentence_and_not_the_log_behind_it() -> None:
    row = ZeroInstance(
        client="a", status=Status.ERROR, last_error="it ended.\nLast lines:\nRunning migrations", spec={}
    )
    stored = Stored.of(row)
    verdict = judgement.judge(stored, TIMED_OUT, judgement.observe(stored, TIMED_OUT), Policy(), AT)
    shown = report.table([Outcome(stored, TIMED_OUT, None, verdict)], AT, "UTC")
    assert shown[0]["last error"] == "it ended."

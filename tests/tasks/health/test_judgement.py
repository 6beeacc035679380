"""What a poll's samples mean."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.health.judgement import Policy, Seen, doubt_hosts, judge, observe, superseded
from tasks.health.probes import Answer, Failure
from tasks.health.samples import Container, Sample, Stored
from tasks.registry.models import Status
from tasks.registry.spec import ZeroSpec

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
POLICY = Policy()
UP = Container("zero_client_acme", "running", uptime=4000.0, published=(("127.0.0.1", 20000),))
YES = Answer(None, "/health answered 200", "/health", 200, 12.0)
NO = Answer(Failure.REFUSED, "port 20000 on 127.0.0.1 refuses connections")
GOOD = Sample(UP, YES)
REFUSED = Sample(UP, NO)
GONE = Sample()
NO_DATABASE = Sample(UP, YES, database="its database zero_client_acme does not exist")
NO_ENGINE = Sample(unreachable="the Docker engine does not answer")
OURS = Sample(UP, Answer(Failure.OURS, "this machine could not ask (Too many open files)"))
EXITED = Sample(replace(UP, state="exited", exit_code=137, out_of_memory=True))
RESTARTING = Sample(replace(UP, state="restarting", exit_code=1, restarts=4))


def client(status: Status = Status.RUNNING, **other) -> Stored:
    given = {
        "client": "acme",
        "status": status,
        "enabled": True,
        "updated_at": AT - timedelta(days=1),
        "checked_at": AT - timedelta(minutes=1),
        "failures": 0,
        "successes": 0,
        "restart_count": 0,
        "maintenance_until": None,
        "last_error": None,
        "docker_host": "local",
        "host_port": 20000,
        "host_ip": "127.0.0.1",
        "url": "http://localhost:20000",
        "ready_within": 180,
        "probes": tuple(ZeroSpec().probe),
    }
    return Stored(**{**given, **other})


def after(stored: Stored, *samples: Sample, policy: Policy = POLICY) -> tuple[Stored, list[tuple[Status, Status]]]:
    """What is stored after polls a minute apart that saw these samples, and the transitions that they made."""
    changes = []
    at = AT
    for sample in samples:
        verdict = judge(stored, sample, observe(stored, sample), policy, at)
        if verdict.status is not stored.status:
            changes.append((stored.status, verdict.status))
        stored = replace(
            stored,
            status=verdict.status,
            failures=verdict.failures,
            successes=verdict.successes,
            restart_count=verdict.restart_count,
            last_error=verdict.last_error,
            updated_at=at if verdict.status is not stored.status else stored.updated_at,
            checked_at=at,
        )
        at += timedelta(minutes=1)
    return stored, changes


def test_two_failures_are_borne_and_the_third_makes_it_unhealthy() -> None:
    assert after(client(), REFUSED, REFUSED)[0].status is Status.RUNNING
    stored, changes = after(client(), REFUSED, REFUSED, REFUSED)
    assert changes == [(Status.RUNNING, Status.UNHEALTHY)]
    assert "refuses connections" in (stored.last_error or "")


def test_a_good_sample_between_two_failures_starts_the_count_again() -> None:
    assert after(client(), REFUSED, REFUSED, GOOD, REFUSED, REFUSED)[1] == []


def test_one_good_sample_is_not_enough_and_the_second_makes_it_running() -> None:
    assert after(client(Status.UNHEALTHY), GOOD)[1] == []
    stored, changes = after(client(Status.UNHEALTHY, last_error="x"), GOOD, GOOD)
    assert changes == [(Status.UNHEALTHY, Status.RUNNING)]
    assert stored.last_error is None


@pytest.mark.parametrize("status", [Status.PROVISIONING, Status.STARTING])
def test_the_first_good_poll_after_provisioning_makes_it_running_at_once(status: Status) -> None:
    assert after(client(status, updated_at=AT), GOOD)[1] == [(status, Status.RUNNING)]


def test_a_client_never_looked_at_is_running_at_its_first_good_poll() -> None:
    assert after(client(Status.UNKNOWN, checked_at=None), GOOD)[1] == [(Status.UNKNOWN, Status.RUNNING)]


def test_while_it_is_provisioned_nothing_is_said_of_what_does_not_answer_yet() -> None:
    assert after(client(Status.PROVISIONING, updated_at=AT), GONE, REFUSED, REFUSED, REFUSED)[1] == []


def test_a_provisioning_that_was_killed_is_not_believed_for_ever() -> None:
    old = client(Status.PROVISIONING, updated_at=AT - timedelta(hours=1))
    assert after(old, GONE)[1] == [(Status.PROVISIONING, Status.MISSING)]


def test_a_missing_container_is_missing_at_once() -> None:
    stored, changes = after(client(), GONE)
    assert changes == [(Status.RUNNING, Status.MISSING)]
    assert "run provision-client for acme" in (stored.last_error or "")


@pytest.mark.parametrize("sample", [GONE, EXITED, REFUSED, NO_ENGINE])
def test_a_client_stopped_on_purpose_stays_stopped_silently(sample: Sample) -> None:
    stored, changes = after(client(Status.STOPPED), *[sample] * 5)
    assert changes == [] and stored.last_error is None


def test_a_stop_that_was_killed_after_the_container_ended_is_a_stop() -> None:
    at_work = client(Status.STOPPING, updated_at=AT)
    assert after(at_work, EXITED)[1] == [], "the run may still say it itself"
    killed = client(Status.STOPPING, updated_at=AT - timedelta(hours=1))
    assert after(killed, EXITED, EXITED, EXITED, EXITED)[1] == [(Status.STOPPING, Status.STOPPED)]
    assert after(killed, GOOD, GOOD)[1] == [(Status.STOPPING, Status.RUNNING)], "it never came to the container"


def test_a_container_that_somebody_else_stopped_is_an_incident() -> None:
    assert after(client(), EXITED, EXITED, EXITED)[1] == [(Status.RUNNING, Status.UNHEALTHY)]


def test_a_stopped_client_that_somebody_started_is_running() -> None:
    assert after(client(Status.STOPPED), GOOD, GOOD)[1] == [(Status.STOPPED, Status.RUNNING)]


@pytest.mark.parametrize("stored", [client(Status.DISABLED, enabled=False), client(enabled=False)])
def test_a_disabled_client_is_silent(stored: Stored) -> None:
    assert after(stored, GONE, REFUSED, REFUSED, REFUSED, EXITED)[1] == []


def test_a_client_under_maintenance_is_silent_and_starts_afresh_afterwards() -> None:
    maintained = client(maintenance_until=AT + timedelta(minutes=3), failures=2)
    assert after(maintained, GONE, REFUSED, REFUSED, REFUSED, REFUSED)[1] == []
    assert after(maintained, *[REFUSED] * 6)[1] == [(Status.RUNNING, Status.UNHEALTHY)]


def test_a_lost_database_degrades_it_though_the_service_answers() -> None:
    assert after(client(), *[NO_DATABASE] * 3)[1] == [(Status.RUNNING, Status.DEGRADED)]


def test_when_docker_is_unreachable_clients_become_unknown_and_come_back() -> None:
    changes = after(client(), *[NO_ENGINE] * 3, GOOD, GOOD)[1]
    assert changes == [(Status.RUNNING, Status.UNKNOWN), (Status.UNKNOWN, Status.RUNNING)]


def test_our_own_lack_of_files_counts_for_nothing() -> None:
    stored, changes = after(client(failures=2), OURS)
    assert changes == [] and stored.failures == 2


def test_a_container_that_says_running_but_restarts_at_every_look_is_in_a_crash_loop() -> None:
    looks = [Sample(replace(UP, uptime=2.0, restarts=count), YES) for count in (3, 5, 6)]
    stored, changes = after(client(), *looks)
    assert changes == [(Status.RUNNING, Status.CRASH_LOOP)]
    assert "keeps ending" in (stored.last_error or "")


def test_one_restart_is_no_crash_loop() -> None:
    assert after(client(), Sample(replace(UP, uptime=2.0, restarts=1), YES), GOOD, GOOD, GOOD)[1] == []


def test_a_restart_count_that_starts_again_from_zero_was_a_person() -> None:
    stored, changes = after(client(restart_count=9), *[Sample(replace(UP, uptime=2.0, restarts=0), YES)] * 3)
    assert changes == [] and stored.restart_count == 0 and stored.failures == 0


def test_out_of_memory_is_said_in_words() -> None:
    seen = observe(client(), EXITED)
    assert seen is not None and seen.status is Status.UNHEALTHY
    assert (
        seen.reason
        == "its container ended with code 137 because it ran out of memory; read docker logs zero_client_acme"
    )


def test_a_container_that_somebody_stopped_is_to_be_started() -> None:
    seen = observe(client(), Sample(replace(EXITED.container, exit_code=143, out_of_memory=False)))
    assert seen is not None and seen.reason == (
        "its container ended with code 143; run start-zero if somebody stopped it, else read docker logs zero_client_acme"
    )


def test_a_provisioning_that_failed_keeps_its_sentence_until_the_service_answers() -> None:
    failed = client(Status.ERROR, last_error="image x is found nowhere")
    stored, changes = after(failed, GONE, REFUSED, REFUSED, REFUSED)
    assert changes == [] and stored.last_error == "image x is found nowhere"
    assert after(failed, GOOD, GOOD)[1] == [(Status.ERROR, Status.RUNNING)]


def _fleet(
    size: int, failing: int, status: Status = Status.RUNNING
) -> tuple[dict[str, Stored], dict[str, Seen | None]]:
    stored = {f"c{number}": client(status, client=f"c{number}") for number in range(size)}
    bad = Seen(Status.UNHEALTHY, "refused")
    seen: dict[str, Seen | None] = {
        slug: bad if number < failing else Seen(Status.RUNNING) for number, slug in enumerate(stored)
    }
    return stored, seen


def test_when_over_half_of_a_host_fails_its_failing_clients_are_unknown_in_one_sentence() -> None:
    stored, seen = _fleet(10, 6)
    corrected, troubles = doubt_hosts(stored, seen, AT)
    assert list(troubles.values()) == ["6 of 10 clients on Docker host local fail at once: look at the host"]
    assert [one.status for one in corrected.values() if one] == [Status.UNKNOWN] * 6 + [Status.RUNNING] * 4


@pytest.mark.parametrize(("size", "failing"), [(10, 5), (4, 4), (1, 1)])
def test_half_of_a_host_or_a_handful_of_clients_fail_by_themselves(size: int, failing: int) -> None:
    stored, seen = _fleet(size, failing)
    assert doubt_hosts(stored, seen, AT) == (seen, {})


def test_clients_long_unwell_say_nothing_about_their_host() -> None:
    stored, seen = _fleet(10, 6, Status.UNHEALTHY)
    assert doubt_hosts(stored, seen, AT) == (seen, {})


def test_databases_that_are_gone_say_nothing_about_the_docker_host() -> None:
    stored, seen = _fleet(10, 0)
    assert doubt_hosts(stored, dict.fromkeys(seen, Seen(Status.DEGRADED, "PostgreSQL does not answer")), AT)[1] == {}


def test_a_poll_a_minute_late_is_superseded_and_one_in_time_is_not() -> None:
    assert superseded(AT, AT + timedelta(seconds=60), "12:00") is None
    sentence = superseded(AT, AT + timedelta(seconds=90), "12:00:00")
    assert sentence == (
        "superseded: due at 12:00:00, started 90 s late, and a newer poll sees more; nothing was asked."
    )


SAMPLES = st.sampled_from([GOOD, REFUSED, EXITED, RESTARTING, NO_DATABASE, NO_ENGINE, OURS])
STATUSES = st.sampled_from([Status.RUNNING, Status.DEGRADED, Status.UNHEALTHY, Status.CRASH_LOOP, Status.MISSING])


@settings(max_examples=150, deadline=None)
@given(STATUSES, st.lists(SAMPLES, max_size=25), st.integers(1, 5), st.integers(1, 5))
def test_no_status_flaps_faster_than_the_policy_and_transitions_chain(
    status: Status, samples: list[Sample], failures: int, successes: int
) -> None:
    stored = client(status, restart_count=4)
    agree = {id(GOOD): True}
    contradicting = 0
    last_good: bool | None = None
    for sample in samples:
        good = agree.get(id(sample), False)
        before = stored
        stored, changes = after(before, sample, policy=Policy(failures, successes))
        seen = observe(before, sample)
        if seen is None:
            assert changes == []
            continue
        contradicting = 0 if seen.status is before.status else contradicting + 1 if good is last_good else 1
        last_good = good
        if changes:
            assert changes == [(before.status, seen.status)]
            assert contradicting >= (successes if good else failures)
            contradicting = 0
        else:
            assert stored.status is before.status
            assert contradicting < (successes if good else failures)

"""What a poll's samples mean: pure decisions, without a clock, a network or a registry of their own.

One rule holds nearly everything: a status changes only after ``failures`` (or ``successes``) samples in a row that
contradict it, counted from the last change. So nothing flaps faster than the policy says, in no direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.health.probes import Failure
from tasks.health.samples import Container, Sample, Stored
from tasks.registry.models import Status

GRACE = 60.0
"""Seconds beyond ``ready_within`` that an operation's word (provisioning, starting, stopping) is believed."""
LATE = 60.0
"""Seconds after its time from which a poll is superseded by the next."""
HOST_MINIMUM = 5
"""Clients; under so few, half of them failing says nothing about their host."""
STOPPED = (0, 137, 143)
"""Exit codes of a container that somebody stopped; 137 also of one that was killed."""
UNDER_WAY = frozenset({Status.PROVISIONING, Status.STARTING, Status.STOPPING})


@dataclass(frozen=True, slots=True)
class Policy:
    """How many samples in a row change a status, and how many good ones change it back."""

    failures: int = 3
    successes: int = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What a sample alone says."""

    status: Status
    reason: str = ""
    """One sentence without its full stop; empty when all is well."""

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return self.status is Status.RUNNING


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to write about a client after a poll."""

    status: Status
    failures: int
    successes: int
    restart_count: int
    last_error: str | None
    reason: str = ""
    """Of the change, when the status changed."""


def superseded(scheduled: datetime, at: datetime, time_words: str) -> str | None:
    """The sentence that ends a poll which starts too late, or None when it is in time.

    Args:
        scheduled: when it should have started.
        at: now.
        time_words: ``scheduled`` as the operator reads it.
    """
    late = (at - scheduled).total_seconds()
    if late <= LATE:
        return None
    return f"superseded: due at {time_words}, started {late:.0f} s late, and a newer poll sees more; nothing was asked."


def restarts_since(stored: Stored, container: Container) -> int:
    """How often Docker restarted the container since the last poll.

    The engine's count starts again from 0 when somebody starts the container by hand or makes it anew.
    """
    if container.restarts is None:
        return 0
    return container.restarts - (stored.restart_count if container.restarts >= stored.restart_count else 0)


def observe(stored: Stored, sample: Sample) -> Seen | None:
    """What ``sample`` alone says of the client, or None when it says nothing (our own trouble)."""
    if sample.unreachable:
        return Seen(Status.UNKNOWN, sample.unreachable)
    container = sample.container
    if container is None:
        return Seen(Status.MISSING, f"its container does not exist; run provision-client for {stored.client}")
    restarts = restarts_since(stored, container)
    memory = " because it ran out of memory" if container.out_of_memory else ""
    if container.state == "restarting" or restarts > 0:
        # While it loops the engine mostly says "running", and between two crashes the service may even answer.
        times = f", restarted {restarts} times since the last look" if restarts > 1 else ""
        code = f" with code {container.exit_code}" if container.exit_code else ""
        return Seen(Status.CRASH_LOOP, f"its container keeps ending{code}{memory}{times}; read {_logs(container)}")
    if container.state in ("exited", "dead"):
        return Seen(
            Status.UNHEALTHY,
            f"its container ended with code {container.exit_code if container.exit_code is not None else 'unknown'}"
            f"{memory}; {'' if memory or container.exit_code not in STOPPED else 'run start-zero if somebody stopped it, else '}"
            f"read {_logs(container)}",
        )
    if container.state != "running":
        why = f" ({container.error})" if container.error else ""
        return Seen(
            Status.UNHEALTHY, f"its container is {container.state}, not running{why}; run provision-client again"
        )
    if sample.answer is None:
        return Seen(Status.UNHEALTHY, "its container publishes no port to ask; run provision-client again")
    if sample.answer.failure is Failure.OURS:
        return None
    if not sample.answer.well:
        return Seen(Status.UNHEALTHY, f"{sample.answer.words}; read {_logs(container)}")
    if sample.database:
        return Seen(Status.DEGRADED, sample.database)
    if container.health == "unhealthy":
        return Seen(Status.DEGRADED, f"its image's own health check says unhealthy; read {_logs(container)}")
    return Seen(Status.RUNNING)


def _logs(container: Container) -> str:
    return f"docker logs {container.name}"


def silent(stored: Stored, at: datetime) -> bool:
    """Whether nothing is said of the client, whatever is seen: disabled, or under maintenance."""
    maintained = stored.maintenance_until is not None and stored.maintenance_until > at
    return not stored.enabled or stored.status is Status.DISABLED or maintained


def under_way(stored: Stored, at: datetime) -> bool:
    """Whether an operation on the client may still be at work (a killed one is believed no longer than this)."""
    patience = timedelta(seconds=stored.ready_within + GRACE)
    return stored.status in UNDER_WAY and at < stored.updated_at + patience


def doubt_hosts(
    stored: Mapping[str, Stored], seen: Mapping[str, Seen | None], at: datetime
) -> tuple[dict[str, Seen | None], dict[str, str]]:
    """Take what fails on a host where over half fails for ``unknown``: the host is ill, not its clients.

    Those long known to be unwell count on neither side.

    Returns:
        What was seen, so corrected, and one sentence per host that is in trouble.
    """
    corrected = dict(seen)
    troubles: dict[str, str] = {}
    for host in {one.docker_host for one in stored.values()}:
        asked = [
            slug
            for slug, one in stored.items()
            if one.docker_host == host
            and seen.get(slug) is not None
            and not silent(one, at)
            and not under_way(one, at)
            and one.status in (Status.RUNNING, Status.DEGRADED, Status.UNKNOWN)
        ]
        # A database is elsewhere, so `degraded` says nothing about the host.
        failing = [
            slug for slug in asked if (what := seen[slug]) and what.status not in (Status.RUNNING, Status.DEGRADED)
        ]
        if len(asked) >= HOST_MINIMUM and len(failing) * 2 > len(asked):
            troubles[host] = (
                f"{len(failing)} of {len(asked)} clients on Docker host {host} fail at once: look at the host"
            )
            corrected |= {slug: Seen(Status.UNKNOWN, troubles[host]) for slug in failing}
    return corrected, troubles


def judge(stored: Stored, sample: Sample, seen: Seen | None, policy: Policy, at: datetime) -> Verdict:
    """What becomes of a client's status and streaks after one poll.

    Args:
        stored: what was known before.
        sample: what was seen.
        seen: what that means (``observe``, corrected by ``doubt_hosts``); None when it means nothing.
        policy: the thresholds.
        at: the moment of the poll.
    """
    container = sample.container
    count = stored.restart_count if container is None or container.restarts is None else container.restarts

    def stay(failures: int = 0, successes: int = 0, last_error: str | None = stored.last_error) -> Verdict:
        return Verdict(stored.status, failures, successes, count, last_error)

    def change(to: Seen) -> Verdict:
        return Verdict(to.status, 0, 0, count, to.reason or None, to.reason or "answers again as it should")

    if silent(stored, at):
        return stay()
    if seen is None:
        return stay(stored.failures, stored.successes)
    fresh = stored.status in UNDER_WAY or (stored.status is Status.UNKNOWN and stored.checked_at is None)
    if seen.well and fresh and stored.status is not Status.STOPPING:
        return Verdict(Status.RUNNING, 0, 0, count, None, "ready")
    if under_way(stored, at):
        return stay()
    if stored.status is Status.STOPPING and container is not None and container.state in ("created", "exited", "dead"):
        # The run that stopped it was killed before it could say so.
        return Verdict(Status.STOPPED, 0, 0, count, None, "stopped as it was asked to be")
    if seen.status is stored.status:
        return stay(last_error=seen.reason or None)
    if seen.well:
        successes = stored.successes + 1
        return change(seen) if successes >= policy.successes else stay(successes=successes)
    if stored.status in (Status.STOPPED, Status.ERROR):
        # Stopped on purpose, or failed with a sentence that says more than a probe can.
        return stay()
    if seen.status is Status.MISSING:
        # The engine's own word, not a probe that may have missed.
        return change(seen)
    failures = stored.failures + 1
    return change(seen) if failures >= policy.failures else stay(failures=failures, last_error=seen.reason)

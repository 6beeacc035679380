"""What a person reads after a poll or a check: one sentence, a table, a line per client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.clock import spoken
from tasks.health.judgement import Seen, Verdict
from tasks.health.samples import Sample, Stored
from tasks.registry.models import Status

MOST_ROWS = 200
"""Rows of the table artifact; Prefect keeps every version of it, one a minute."""
MOST_NAMED = 5
"""Clients that a sentence names."""
MOST_LINES = 50
"""Lines of a state message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One client after a look at it."""

    stored: Stored
    sample: Sample
    seen: Seen | None
    verdict: Verdict

    @property
    def counts(self) -> bool:
        """Whether it is meant to run, so that not being well is a failure."""
        return not self.stored.on_purpose_down()

    @property
    def well(self) -> bool:
        """Whether it was seen well now."""
        return self.seen is not None and self.seen.well

    @property
    def latency_ms(self) -> float | None:
        """Of the probe that answered, in milliseconds."""
        return self.sample.answer.latency_ms if self.sample.answer else None


def table(outcomes: Sequence[Outcome], at: datetime, time_zone: str) -> list[dict[str, str]]:
    """The fleet's table, those that are not well first, at most ``MOST_ROWS`` rows.

    Args:
        outcomes: of every client.
        at: the moment of the poll.
        time_zone: of the dates.
    """
    ordered = sorted(outcomes, key=lambda one: (not one.counts, one.well, one.stored.client))
    return [
        {
            "client": one.stored.client,
            "status": one.verdict.status.value,
            "URL": one.stored.url,
            "latency": f"{one.latency_ms:.0f} ms" if one.latency_ms is not None else "",
            "since": spoken(one.stored.updated_at if one.verdict.status is one.stored.status else at, time_zone),
            "last error": (one.verdict.last_error or "").partition("\n")[0],  # behind it stands the end of its log
            "checked": spoken(at, time_zone, seconds=True),
        }
        for one in ordered[:MOST_ROWS]
    ]


def table_words(outcomes: Sequence[Outcome], sentence: str) -> str:
    """What stands above the table."""
    more = (
        f" The first {MOST_ROWS} of {len(outcomes)} clients, those not well first." if len(outcomes) > MOST_ROWS else ""
    )
    return f"{sentence}{more}"


def sentence(
    outcomes: Sequence[Outcome], seconds: float, troubles: Mapping[str, str], notes: Sequence[str] = ()
) -> str:
    """A look at the fleet in one sentence: ``3 of 3 healthy in 0.4 s.``

    Args:
        outcomes: of the clients looked at.
        seconds: that it took.
        troubles: one sentence per host that is ill; its clients are then not named one by one.
        notes: what else must be said: what could not be looked at.
    """
    if not outcomes:
        return "; ".join(["there are no clients yet; run provision-client to make one", *notes]) + "."
    meant = [one for one in outcomes if one.counts]
    well = sum(one.well for one in meant)
    parts = [f"{well} of {len(meant)} healthy in {seconds:.1f} s"]
    parts += dict.fromkeys(troubles.values())
    causes: dict[str, list[str]] = {}
    for one in meant:
        if not one.well and _why(one) not in parts:
            causes.setdefault(_why(one), []).append(one.stored.client)
    parts += [f"{named(clients)}: {why}" for why, clients in list(causes.items())[:MOST_NAMED]]
    if len(causes) > MOST_NAMED:
        parts.append(f"and {len(causes) - MOST_NAMED} other causes")
    if len(meant) < len(outcomes):
        parts.append(f"{len(outcomes) - len(meant)} not meant to run")
    return "; ".join([*parts, *notes]) + "."


def named(clients: Sequence[str]) -> str:
    """Some clients by name, the rest by number.

    >>> named(["a", "b"]), named(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    rest = f" and {len(clients) - MOST_NAMED} more" if len(clients) > MOST_NAMED else ""
    return ", ".join(clients[:MOST_NAMED]) + rest


def complaint(ill: Sequence[str], looked_at: int, said: Sequence[str]) -> tuple[str, str]:
    """What failed and what to do, when ``ill`` of the clients looked at are not healthy; every client has its line.

    >>> complaint(["b"], 2, ["a: healthy", "b: missing"])
    ('1 of 2 not healthy: b', 'do what its line says:\\na: healthy\\nb: missing')
    """
    return f"{len(ill)} of {looked_at} not healthy: {named(ill)}", message("do what its line says:", said)


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """One line per client, in words."""
    return [_line(one) for one in outcomes]


def message(headline: str, said: Sequence[str]) -> str:
    """A state message of a headline and a line per client, cut to ``MOST_LINES``."""
    more = [f"and {len(said) - MOST_LINES} more; see the log"] if len(said) > MOST_LINES else []
    return "\n".join([headline, *said[:MOST_LINES], *more])


def _line(one: Outcome) -> str:
    name = one.stored.client
    if not one.counts:
        return f"{name}: {one.stored.status.value}, not meant to run"
    if one.well and one.sample.answer is not None:
        return f"{name}: healthy, {one.sample.answer.words} in {one.latency_ms:.0f} ms"
    return f"{name}: {one.seen.status.value if one.seen else Status.UNKNOWN.value}, {_why(one)}"


def _why(one: Outcome) -> str:
    if one.seen is not None:
        return one.seen.reason
    return one.sample.answer.words if one.sample.answer else "not seen"

"""Upgrading a fleet in waves: one client first, then several at once, until too many have failed. Pure."""

from collections.abc import Collection, Sequence

from tasks.clients.outcomes import SHOWN, Outcome
from tasks.errors import Unhealthy


def next_wave(left: Sequence[str], tried: Collection[str], wave: int) -> list[str]:
    """The clients to upgrade now: one alone until one was tried at all, then ``wave`` at once.

    >>> next_wave(["acme", "beta", "gamma"], (), 2), next_wave(["beta", "gamma"], {"acme"}, 2)
    (['acme'], ['beta', 'gamma'])
    """
    return list(left[: wave if tried else 1])


def too_many(outcomes: Sequence[Outcome], tried: Collection[str], abort_ratio: float) -> bool:
    """Whether more than ``abort_ratio`` of those attempted have failed.

    Args:
        tried: clients whose upgrade began; one that failed before counts as attempted too.

    >>> too_many([Outcome("acme", False, "")], {"acme"}, 0.5), too_many([], (), 0.0)
    (True, False)
    """
    failed = {one.client for one in outcomes if not one.good}
    return len(failed) > abort_ratio * len(failed | set(tried))


def summary(outcomes: Sequence[Outcome], tried: Collection[str], not_attempted: Sequence[str], image: str) -> str:
    """One sentence for all: who was upgraded, who stays as it was, who failed and why, and who was not attempted.

    Args:
        tried: clients whose upgrade began.

    Raises:
        Unhealthy: some failed.
    """
    if not outcomes:
        return "there are no clients to be upgraded; run provision-client to make one."
    if len(outcomes) == 1 and outcomes[0].good and not not_attempted:
        return outcomes[0].sentence
    upgraded = [one.client for one in outcomes if one.good and one.client in tried]
    kept = [one for one in outcomes if one.good and one.client not in tried]
    failed = [one for one in outcomes if not one.good]
    said = [f"{len(upgraded)} of {len(outcomes) + len(not_attempted)} upgraded to {image}{_named(upgraded)}"]
    if kept:
        said.append(f"{len(kept)} not to be upgraded: " + " | ".join(_bare(one.sentence) for one in kept[:SHOWN]))
    if not failed:
        return "; ".join(said) + "."
    said.append(f"{len(failed)} failed: " + " | ".join(_bare(one.sentence) for one in failed[:SHOWN]))
    if not_attempted:
        said.append(f"stopped there, {len(not_attempted)} not attempted{_named(not_attempted)}")
    if len(outcomes) == 1 and not not_attempted:
        what, _, cure = _bare(failed[0].sentence).rpartition("; ")
        raise Unhealthy(what, cure)
    raise Unhealthy("; ".join(said), "mend what each one names and run again; who is upgraded already is left alone")


def _bare(sentence: str) -> str:
    return sentence.rstrip(". ")


def _named(clients: Sequence[str]) -> str:
    if not clients:
        return ""
    more = f" and {len(clients) - SHOWN} more" if len(clients) > SHOWN else ""
    return f": {', '.join(clients[:SHOWN])}{more}"

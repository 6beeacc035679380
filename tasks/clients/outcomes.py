"""What came of one operation on several clients: a sentence for each, and one for all. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import Unhealthy

SHOWN = 20
"""So many clients are named in a state message; the log has all of them."""
FEW = 5
"""So many are named in the name of a run."""


@dataclass(frozen=True)
class Outcome:
    """What came of one client."""

    client: str
    good: bool
    sentence: str


def summary(outcomes: Sequence[Outcome], done: str) -> str:
    """One sentence for all, when all went well; a single client's own sentence when there is one.

    Args:
        done: what was done, as a past participle: ``started``.

    Raises:
        Unhealthy: some did not; each of those with its sentence, behind how many did.

    >>> summary([Outcome("acme", True, "acme: started"), Outcome("beta", True, "beta: started")], "started")
    '2 of 2 started: acme, beta.'
    """
    ill = [one for one in outcomes if not one.good]
    if not outcomes:
        return f"there are no clients to be {done}; run provision-client to make one."
    if len(outcomes) == 1 and not ill:
        return outcomes[0].sentence
    if not ill:
        named = [one.client for one in outcomes[:SHOWN]]
        rest = len(outcomes) - len(named)
        return f"{len(outcomes)} of {len(outcomes)} {done}: {', '.join(named)}{f' and {rest} more' if rest else ''}."
    said = " | ".join(one.sentence.rstrip(".") for one in ill[:SHOWN])
    if len(outcomes) == 1:
        what, _, cure = said.rpartition("; ")
        raise Unhealthy(what or said, cure or "see the run's log")
    more = f" | and {len(ill) - SHOWN} more" if len(ill) > SHOWN else ""
    raise Unhealthy(
        f"{len(outcomes) - len(ill)} of {len(outcomes)} {done}; not {said}{more}",
        "mend what each one names and run again",
    )


def few(clients: Sequence[str]) -> str:
    """Some clients by name, the rest by number, as a run's name shows them.

    >>> few(["a", "b"]), few(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    rest = f" and {len(clients) - FEW} more" if len(clients) > FEW else ""
    return ", ".join(clients[:FEW]) + rest

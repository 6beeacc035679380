"""The one hierarchy of what can go wrong, in an operator's words.

Every error is one sentence that says what failed, with what value (never a secret), and what to do next; it becomes the
state message of the run (see ``flows/outcome.py``). Raise the class that names the cause where the cause is known, and
write ``from None`` where the cause holds a secret.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


class FleetError(Exception):
    """Something failed and we know what it means.

    Args:
        what: what failed, with the value that matters (never a secret); no final full stop needed.
        cure: what the operator does next; an imperative.

    >>> str(FleetError("port 80 on 127.0.0.1 is taken", "choose another host_port"))
    'port 80 on 127.0.0.1 is taken; choose another host_port.'
    """

    def __init__(self, what: str, cure: str) -> None:
        self.what = what.rstrip(". ")
        self.cure = cure.rstrip(". ")
        super().__init__(f"{self.what}; {self.cure}.")


class InvalidInput(FleetError):
    """A value that a person gave is refused before anything is touched."""


class NotConfigured(FleetError):
    """A block or a setting that this needs is missing or not filled."""


class NotFound(FleetError):
    """The thing named does not exist: a client, a backup, an image."""


class Conflict(FleetError):
    """It exists but is not ours, is taken, or is held by somebody else: a port, a name, a lock."""


class Unreachable(FleetError):
    """A server did not answer: Docker, PostgreSQL, SMTP, Google. Trying again may help."""


class Refused(FleetError):
    """A server answered no: wrong password, missing right, recipient refused."""


class Unhealthy(FleetError):
    """The service did not become or stay ready: exited, out of memory, loops, wrong answers."""

    last_lines: Sequence[str] = ()
    """The end of its log, redacted: for the run's log and the registry, too long for the sentence."""


class ReconnectNeeded(FleetError):
    """A person's grant at Google is gone; only they can give it again."""


class Damaged(FleetError):
    """Data is not what it should be: a dump cut short, a checksum that differs, a restore that compares unequal."""


def of_another_type(kind: str, name: str, types: Iterable[str], cure: str) -> NotConfigured:
    """The error where the block ``name`` exists and is not of the type ``kind``, but of those in ``types``.

    >>> print(of_another_type("PostgreSQL Database", "smtp", ["Email Server Credentials"], "give another name"))
    there is no PostgreSQL Database block 'smtp' (the block of that name is of the type Email Server Credentials); give another name.
    """
    return NotConfigured(
        f"there is no {kind} block {name!r} (the block of that name is of the type {', '.join(types)})", cure
    )


def needed(block: T | None, name: str, cure: str = "") -> T:
    """``block`` if it was found.

    Raises:
        NotConfigured: there is no block ``name``; ``cure`` replaces the general advice.

    >>> needed(None, "smtp")
    Traceback (most recent call last):
    tasks.errors.NotConfigured: the block smtp does not exist; make it in the Prefect UI under Blocks, or fill .env and run `make up`.
    """
    if block is None:
        raise NotConfigured(
            f"the block {name} does not exist",
            cure or "make it in the Prefect UI under Blocks, or fill .env and run `make up`",
        )
    return block

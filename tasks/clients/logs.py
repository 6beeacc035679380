"""What a container said: since when, as a person may put it, and the page that shows it. Pure."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from urllib.parse import unquote

from tasks.clock import spoken, zone
from tasks.errors import InvalidInput

MOST_LINES = 5_000
RECORD = 200
"""Lines that one record of the run's log holds: Prefect drops a record of over a million characters."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_SECRET_VARIABLE = re.compile(r".*(SECRET|TOKEN|PASSWORD|KEY)$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^\s:/@]*:([^\s@]+)@")


def since_when(text: str | None, at: datetime, time_zone: str) -> datetime | None:
    """The moment that ``text`` means; None: no beginning is asked for.

    Args:
        text: like 90s, 10m, 2h or 1d ago, or an ISO moment, in ``time_zone`` when it names no other.
        at: now.

    Raises:
        InvalidInput: it is neither, lies ahead, or before 1970.

    >>> from datetime import UTC
    >>> str(since_when("10m", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "UTC"))
    '2026-01-02 02:54:00+00:00'
    """
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    try:
        moment = at - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone(time_zone))
        seconds = moment.timestamp()
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"since is {text[:60]!r}, which is no moment",
            "write it like 10m, 2h or 1d (ago), or like 2026-01-31T14:00",
        ) from None
    if seconds > at.timestamp():
        raise InvalidInput(
            f"since is {text!r}, which lies ahead of {spoken(at, time_zone)} ({time_zone})",
            "give a moment that has passed",
        )
    if seconds < 1:
        raise InvalidInput(f"since is {text!r}, which is before 1970", "give a later moment, or leave it out")
    return moment


def secret_values(environment: Iterable[str]) -> list[str]:
    """Values of a container's variables that are secret by their names, and passwords in URLs, for redaction: what its blocks hold
    may be newer.

    Args:
        environment: as the engine shows it, ``NAME=value``.

    >>> secret_values(["PATH=/bin", "MY_TOKEN=abcdef", "DATABASE_URL=postgres://u:p@h/d"])
    ['abcdef', 'p']
    """
    pairs = [entry.partition("=") for entry in environment]
    named = [value for name, _, value in pairs if _SECRET_VARIABLE.fullmatch(name)]
    return named + [unquote(found[1]) for _, _, value in pairs if (found := _URL_PASSWORD.search(value))]


def heading(container: str, count: int, since: datetime | None, time_zone: str) -> str:
    """How many lines of what.

    >>> heading("zero_client_acme", 1, None, "UTC")
    "1 line of zero_client_acme's log"
    """
    lines = "1 line" if count == 1 else f"{count} lines" if count else "nothing"
    begun = f" since {spoken(since, time_zone, seconds=True)} ({time_zone})" if since else ""
    return f"{lines} of {container}'s log{begun}"


def markdown(head: str, state: str, lines: Sequence[str], at: datetime, time_zone: str) -> str:
    """The page: the lines as they are, in a fence that none of them can close.

    Args:
        state: the container's, in a word.
    """
    longest = max((len(found) for line in lines for found in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    read = f"Read {spoken(at, time_zone, seconds=True)} ({time_zone}); the container is {state}."
    return "\n".join([f"# {head}", "", read, "", f"{fence}text", *lines, fence, ""])

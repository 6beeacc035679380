"""A diagnosis: a line per check with a verdict, what was seen and what to do; the page and the sentence made of them. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tasks.clock import spoken
from tasks.errors import FleetError, Unhealthy


class Verdict(StrEnum):
    """What a check comes to."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    """It could not be looked at; the line says why."""


class Check(StrEnum):
    """Everything that is looked at, from the ground up: the first one that is bad is most likely the cause of the others."""

    BLOCKS = "Blocks"
    ENGINE = "Docker engine"
    DISK = "Disk space"
    FROM_HERE = "Database from here"
    FROM_INSIDE = "Database from inside"
    RIGHTS = "Rights in the database"
    ISOLATION = "Isolation of the database"
    IMAGE = "Image"
    CONTAINER = "Container"
    PORT = "Port"
    NETWORKS = "Networks"
    DATABASE_URL = "DATABASE_URL inside"
    SECRETS = "Secrets"
    ENVIRONMENT = "Other environment"
    LOG = "Log"
    ANSWER = "Answer"
    REDIRECT = "Redirect URI"
    GOOGLE = "Google client"
    BROWSER = "Address in the browser's code"
    TABLES = "Zero's tables"
    ACCOUNTS = "Accounts in Zero"
    SIZE = "Size of the database"
    RESOURCES = "CPU, memory and network"
    OPERATION = "Operations"
    CLOCK = "Clocks"


@dataclass(frozen=True)
class Line:
    """One check."""

    verdict: Verdict
    check: Check
    seen: str
    cure: str = ""


def good(check: Check, seen: str, cure: str = "") -> Line:
    """As it should be; ``cure`` is advice that may be followed."""
    return Line(Verdict.GOOD, check, seen, cure)


def bad(check: Check, seen: str, cure: str) -> Line:
    """Not as it should be, and what to do."""
    return Line(Verdict.BAD, check, seen, cure)


def unknown(check: Check, seen: str, cure: str = "") -> Line:
    """It could not be looked at, and why."""
    return Line(Verdict.UNKNOWN, check, seen, cure)


def attempt(check: Check, look: Callable[[], Line]) -> Line:
    """What ``look`` finds; whatever it raises becomes a line, so that no other check is lost.

    >>> attempt(Check.LOG, lambda: {}["x"]).seen
    'looking at it failed (KeyError)'
    """
    try:
        return look()
    except Exception as error:
        return failure(check, error)


def failure(check: Check, error: Exception) -> Line:
    """The line for a look that raised; the text of what we do not know is not shown, because it may hold anything."""
    if isinstance(error, FleetError):
        return unknown(check, error.what, error.cure)
    return unknown(check, f"looking at it failed ({type(error).__name__})", "run again; the run's log has no more")


def in_order(lines: Sequence[Line]) -> list[Line]:
    """From the ground up."""
    ranks = {check: rank for rank, check in enumerate(Check)}
    return sorted(lines, key=lambda line: ranks[line.check])


def cleaned(lines: Sequence[Line], redact: Callable[[str], str]) -> list[Line]:
    """The lines with ``redact`` over every word that came from outside."""
    return [Line(line.verdict, line.check, redact(line.seen), redact(line.cure)) for line in lines]


def counts(lines: Sequence[Line]) -> str:
    """How many of each; unknown ones only when there are any.

    >>> counts([good(Check.LOG, ""), unknown(Check.DISK, "")])
    '1 good, 0 bad, 1 unknown'
    """
    number = {verdict: sum(line.verdict is verdict for line in lines) for verdict in Verdict}
    said = f"{number[Verdict.GOOD]} good, {number[Verdict.BAD]} bad"
    return said + (f", {number[Verdict.UNKNOWN]} unknown" if number[Verdict.UNKNOWN] else "")


def summary(client: str, lines: Sequence[Line]) -> str:
    """The diagnosis in a sentence.

    Raises:
        Unhealthy: something is bad; with the one that lies deepest.

    >>> summary("acme", [good(Check.LOG, "no errors")])
    'acme: 1 good, 0 bad'
    """
    ill = [line for line in in_order(lines) if line.verdict is Verdict.BAD]
    if not ill:
        return f"{client}: {counts(lines)}"
    worst = ill[0]
    raise Unhealthy(f"{client}: {worst.check}: {worst.seen} ({counts(lines)})", worst.cure)


def markdown(client: str, lines: Sequence[Line], facts: Mapping[str, str], at: datetime, time_zone: str) -> str:
    """The page: what is bad on top, then everything.

    Args:
        facts: what is registered, by name.
        at: when it was looked at.
    """
    ordered = in_order(lines)
    page = [f"# Diagnosis of {client}", "", f"{counts(lines)}. {spoken(at, time_zone, seconds=True)} ({time_zone})", ""]
    page += [
        f"> **{line.check}**: {_cell(line.seen)}. To do: {_cell(line.cure)}.  "
        for line in ordered
        if line.verdict is Verdict.BAD
    ]
    page += ["", "| verdict | check | seen | to do |", "| --- | --- | --- | --- |"]
    page += [f"| {_WORDS[line.verdict]} | {line.check} | {_cell(line.seen)} | {_cell(line.cure)} |" for line in ordered]
    page += ["", "## Registered", "", "| | |", "| --- | --- |"]
    page += [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value]
    return "\n".join(page) + "\n"


_WORDS = {Verdict.GOOD: "good", Verdict.BAD: "**BAD**", Verdict.UNKNOWN: "unknown"}


def _cell(text: str) -> str:
    """As a table's cell: one line, no bar, and nothing that Markdown would take for a link or a tag.

    >>> _cell("a|b <c>")
    'a\\\\|b &lt;c&gt;'
    """
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")[:1500]


def quantity(count: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> quantity(1, "table"), quantity(2, "table")
    ('1 table', '2 tables')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}".replace(",", " ")


def size(count: float) -> str:
    """Bytes as a person reads them.

    >>> size(1536 << 10), size(12)
    ('1.5 MiB', '12 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A time as a person reads it.

    >>> span(42), span(3660), span(90000)
    ('42 s', '61 min', '25 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"

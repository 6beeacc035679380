"""What an operator reads of a night: one table for the mail and the UI, the mail's text, and the run's sentence. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tasks.backups.alerts import Alert, fell, lasting
from tasks.backups.fleet import Night
from tasks.backups.records import Kept, Record
from tasks.backups.source import many, mib
from tasks.clock import spoken
from tasks.errors import Refused
from tasks.registry.models import Delivery

ARTIFACT = "backups"
"""Key of the table among Prefect's artifacts."""
ARTIFACT_BYTES = 400_000
"""Prefect names no limit of its own; every night's table is kept there, and 500 rows take a third of this."""
LONGEST = 300
"""Characters of what a cell says."""
NAMED = 3
"""Targets that the run's sentence names for each reason."""
MOST_LINES = 200
"""Things to look at that the mail lists."""
COLUMNS = ("client", "size", "change", "duration", "delivered", "verified", "age")
ATTENTION = "attention"
DELIVERED = frozenset({Delivery.SENT, Delivery.SENT_IN_PARTS, Delivery.SENT_WITHOUT_FILE})
_WORDS = {
    Delivery.OFF: "off",
    Delivery.PENDING: "NO",
    Delivery.SENT: "yes",
    Delivery.SENT_IN_PARTS: "in parts",
    Delivery.SENT_WITHOUT_FILE: "report only",
    Delivery.FAILED: "NO",
    Delivery.SUPERSEDED: "NO",
}


@dataclass(frozen=True)
class Line:
    """One target after the night."""

    record: Record
    failed: str = ""
    """Why the night brought no backup."""
    undelivered: str = ""
    """Why the night's backup was not delivered."""
    undated: str = ""
    """Why the night's backup has no dated file."""
    alerts: list[Alert] = field(default_factory=list)
    asides: list[str] = field(default_factory=list)
    """What else went wrong, without touching backup or mail."""

    @property
    def name(self) -> str:
        """As an operator calls it."""
        return self.record.target.spoken

    @property
    def well(self) -> bool:
        """Whether nobody has to look at it."""
        return not (self.failed or self.undelivered or self.undated or self.alerts)

    @property
    def attention(self) -> list[str]:
        """What somebody has to look at, worst first, each with the target's name."""
        found = [f"{self.name}: NOT backed up: {self.failed}"] if self.failed else []
        found += [f"{self.name}: backed up, but not delivered: {self.undelivered}"] if self.undelivered else []
        found += [f"{self.name}: backed up, but {self.undated}"] if self.undated else []
        found += [alert.sentence for alert in self.alerts]
        return found + [f"{self.name}: {aside}" for aside in self.asides]


@dataclass(frozen=True)
class Summary:
    """A whole night."""

    at: datetime
    """When it was summed up."""
    time_zone: str
    seconds: float
    """That dumping and mailing took."""
    lines: list[Line]
    """Those that need somebody first, else in the order of the work."""
    mailing: bool
    disk: list[Alert] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Clients whose database was never made."""
    gone: list[str] = field(default_factory=list)
    """What was backed up in the last weeks and is no target any more."""
    notes: list[str] = field(default_factory=list)
    """What pruning and later deliveries did."""
    troubles: list[str] = field(default_factory=list)
    """What of pruning or later deliveries failed."""

    @property
    def alerts(self) -> list[Alert]:
        """All of them, the disk's first."""
        return [*self.disk, *(alert for line in self.lines for alert in line.alerts)]

    @property
    def failed(self) -> list[Line]:
        """Targets that were not backed up."""
        return [line for line in self.lines if line.failed]

    @property
    def undelivered(self) -> list[Line]:
        """Targets whose backup was not delivered."""
        return [line for line in self.lines if line.undelivered]

    @property
    def undated(self) -> list[Line]:
        """Targets whose backup has no dated file."""
        return [line for line in self.lines if line.undated]

    @property
    def well(self) -> bool:
        """Whether nobody has to look at anything."""
        return not (self.disk or self.troubles) and all(line.well for line in self.lines)


def line(night: Night, record: Record, alerts: list[Alert], mailing: bool, time_zone: str) -> Line:
    """One target after the night, by what the registry says became of the backup and its mail.

    Args:
        night: what was done.
        record: what the registry knows after it.
        alerts: about it.
        mailing: whether the policy mails backups.
        time_zone: of the moments.
    """
    made = next((one for one in record.recent if one.row_id == night.row_id), None)
    lost = bool(mailing and made is not None and made.delivery not in DELIVERED)
    undelivered = _why_undelivered(made, time_zone) if made and lost else ""
    return Line(record, night.error, undelivered, night.undated, alerts, night.asides)


def _why_undelivered(made: Kept, time_zone: str) -> str:
    said = made.delivery_error or "the registry does not say why; see the run's log."
    return f"{said} It is tried again after {spoken(made.deliver_after, time_zone)}." if made.deliver_after else said


def ordered(lines: Iterable[Line]) -> list[Line]:
    """Those that were not backed up first, then not delivered, then with alerts, then the rest; each in the given order."""
    return sorted(
        lines, key=lambda one: (not one.failed, not one.undelivered, not one.alerts, not one.undated, not one.asides)
    )


def table(summary: Summary) -> list[dict[str, str]]:
    """A row for each target, about its newest good backup; what needs somebody first.

    The mail shows these very cells, so that both say the same.
    """
    return [_row(line, summary.at) for line in summary.lines]


def _row(line: Line, at: datetime) -> dict[str, str]:
    record, newest = line.record, line.record.newest
    cells = [line.name, *(_cells(record, newest, at) if newest else ("none", "", "", "", "never", "never"))]
    return dict(zip(COLUMNS, cells, strict=True)) | {ATTENTION: clipped(" / ".join(line.attention))}


def _cells(record: Record, newest: Kept, at: datetime) -> tuple[str, ...]:
    before = record.recent[1] if len(record.recent) > 1 else None
    return (
        mib(newest.file_bytes),
        _change(before, newest) if before else "first",
        f"{newest.seconds:.1f} s" if newest.seconds is not None else "",
        _WORDS[newest.delivery],
        f"{lasting(at - record.proven_at)} old" if record.proven_at else "never",
        lasting(at - newest.taken_at),
    )


def _change(before: Kept, newest: Kept) -> str:
    return f"{round(0 - fell(before.file_bytes, newest.file_bytes), 1) + 0.0:+.1f} %"  # never -0.0


def artifact_rows(rows: Sequence[dict[str, str]], limit: int = ARTIFACT_BYTES) -> list[dict[str, str]]:
    """As many of the table's ``rows`` as fit into ``limit`` bytes; the last one then says how many are left out.

    >>> rows = [dict.fromkeys((*COLUMNS, ATTENTION), "x" * 10)] * 9
    >>> len(artifact_rows(rows)), artifact_rows(rows, 500)[-1]["client"]
    (9, '7 more')
    """
    kept: list[dict[str, str]] = []
    used = 0
    for row in rows:
        used += len(json.dumps(row)) + 2
        if used > limit:
            more = dict.fromkeys((*COLUMNS, ATTENTION), "") | {"client": f"{len(rows) - len(kept)} more"}
            return [*kept, more]
        kept.append(row)
    return kept


def nothing_to_do(left_out: Sequence[str]) -> str:
    """The sentence of a night without a target.

    >>> nothing_to_do(["newco"])
    'there is nothing to back up yet: no PostgreSQL Database block, and no client with a database (newco has none yet).'
    """
    yet = f" ({named(left_out)} {'has' if len(left_out) == 1 else 'have'} none yet)" if left_out else ""
    return f"there is nothing to back up yet: no PostgreSQL Database block, and no client with a database{yet}."


def headline(summary: Summary) -> str:
    """The night in a few words, what needs somebody first; without a full stop.

    It stands first in the mail, and above the table.
    """
    count = len(summary.lines)
    bad = []
    if summary.failed:
        bad.append(f"{len(summary.failed)} of {many(count, 'database')} NOT backed up")
    if summary.undelivered:
        bad.append(f"{many(len(summary.undelivered), 'backup')} NOT delivered")
    if summary.undated:
        bad.append(f"{many(len(summary.undated), 'backup')} without a dated file")
    if summary.alerts:
        bad.append(many(len(summary.alerts), "alert"))
    if summary.troubles:
        bad.append(many(len(summary.troubles), "other trouble"))
    good = count - len(summary.failed)
    size = sum(one.record.newest.file_bytes for one in summary.lines if one.record.newest and not one.failed)
    done = f"{many(good, 'database')} backed up in {summary.seconds:.0f} s ({mib(size)})"
    return "; ".join([*bad, done])


def asides(summary: Summary) -> list[str]:
    """What is to be known and needs nobody; each without a full stop."""
    said = []
    if summary.left_out:
        said.append(f"without a database yet, so left out: {named(summary.left_out)}")
    if summary.gone:
        said.append(f"no longer backed up, since their client or block is gone: {named(summary.gone)}")
    return [*said, *(note.rstrip(". ") for note in summary.notes)]


def title(prefix: str, moment: datetime, time_zone: str) -> str:
    """The summary mail's subject.

    >>> from datetime import UTC
    >>> title("[AgentAssistant] Backup", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "Europe/Vienna")
    '[AgentAssistant] Backup fleet - 2026-01-02 04:04'
    """
    return f"{' '.join(prefix.split())} fleet - {spoken(moment, time_zone)}"


def text(summary: Summary) -> str:
    """The summary mail: what needs somebody, then every database in a line."""
    lines = [f"{headline(summary)}.", ""]
    look = [alert.sentence for alert in summary.disk] + summary.troubles
    look += [said for one in summary.lines for said in one.attention]
    if look:
        lines += ["What needs you:", "", *(f"- {said}" for said in look[:MOST_LINES])]
        if len(look) > MOST_LINES:
            lines += [f"- and {len(look) - MOST_LINES} more; see the artifact {ARTIFACT} in Prefect's UI."]
        lines += [""]
    else:
        lines += ["Nothing needs you.", ""]
    lines += [f"{said[0].upper()}{said[1:]}." for said in asides(summary)]
    moment = f"{spoken(summary.at, summary.time_zone)} {summary.time_zone}"
    lines += ["", f"The newest good backup of each database, as of {moment}:", "", *_columns(summary)]
    return "\n".join(lines) + "\n"


def _columns(summary: Summary) -> list[str]:
    """The table in plain text; a ``!`` before what is spoken of above."""
    rows = [[" ", *COLUMNS]]
    for one, row in zip(summary.lines, table(summary), strict=True):
        rows.append([" " if one.well and not one.asides else "!", *(row[name] for name in COLUMNS)])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def closing(summary: Summary, untold: Sequence[str], mailed: str) -> str:
    """The sentence that the night's run ends with.

    Args:
        summary: the night.
        untold: what went wrong in telling of it: the summary mail, the table, the webhook.
        mailed: whom the summary was mailed to; empty: nobody.

    Raises:
        Refused: a database was not backed up or not delivered, an alert is there, or the summary was not told.
    """
    if summary.well and not untold:
        how = f"the summary was mailed to {mailed}" if mailed else "mailing is off"
        return f"{'; '.join([headline(summary), how, *asides(summary)])}."
    parts = [headline(summary)]
    parts += _named_lines("not backed up", [(one.name, one.failed) for one in summary.failed])
    parts += _named_lines("not delivered", [(one.name, one.undelivered) for one in summary.undelivered])
    parts += _named_lines("without a dated file", [(one.name, one.undated) for one in summary.undated])
    parts += _few("alerts", [alert.what for alert in summary.alerts])
    parts += [clipped(what(trouble)) for trouble in (*summary.troubles, *untold)]
    where = f"the artifact {ARTIFACT}" + (f" and the mail to {mailed}" if mailed else "")
    raise Refused("; ".join(parts), f"see {where} for all of it, mend what is named and run again")


def clipped(text: str) -> str:
    """``text``, cut where it is too long for a cell or a part of a sentence."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def what(sentence: str) -> str:
    """A sentence without what to do next, which the table has.

    >>> what("client a: b is cut; make a new one."), what("unexpected: KeyError")
    ('client a: b is cut', 'unexpected: KeyError')
    """
    plain = sentence.rstrip(". ")
    return plain.rpartition("; ")[0] or plain


def _named_lines(words: str, found: Sequence[tuple[str, str]]) -> list[str]:
    return _few(words, [f"{name} ({what(why)})" for name, why in found])


def _few(words: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return [f"{words}: {' / '.join(found[:NAMED])}{more}"]


def named(names: Sequence[str]) -> str:
    """Some by name, the rest by number.

    >>> named(["a", "b"]), named(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

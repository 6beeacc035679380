"""The client's page in the UI: what there is, where, and what to register with Google. Pure; holds no secret.

How it fares is on the fleet's table, which the poll writes every minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.clock import spoken
from tasks.registry.models import StepJournal


@dataclass(frozen=True)
class Facts:
    """What the page shows."""

    client: str
    enabled: bool
    url: str
    host_ip: str
    port: int
    redirect: str
    database: str
    db_address: str
    container: str
    container_id: str
    image: str
    image_id: str
    spec: dict[str, object]
    warnings: Sequence[str]


def markdown(facts: Facts, steps: Sequence[StepJournal], at: datetime, time_zone: str) -> str:
    """The page.

    Args:
        steps: of the journal, oldest first.
        at: when it was written.
    """
    rows = {
        "URL": facts.url if facts.enabled else f"{facts.url} (not enabled, so not started)",
        "Published on": f"{facts.host_ip}:{facts.port}",
        "Redirect URI to register with Google": f"`{facts.redirect}`",
        "Database and role": f"`{facts.database}` (the container reaches it at {facts.db_address})",
        "Container": f"`{facts.container}` {facts.container_id[:12]}",
        "Image": f"`{facts.image}` {facts.image_id.removeprefix('sha256:')[:12]}",
        "Written": f"{spoken(at, time_zone)} ({time_zone})",
    }
    lines = [f"# {facts.client}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    lines += ["", *(f"> {warning}" for warning in facts.warnings), ""]
    lines += ["## Spec", "", "| field | value |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.spec.items()]
    lines += ["", "## Last steps", "", "| step | began | seconds | outcome |", "| --- | --- | --- | --- |"]
    for step in steps:
        took = f"{(step.ended_at - step.started_at).total_seconds():.2f}" if step.ended_at else ""
        began = spoken(step.started_at, time_zone, seconds=True)
        lines.append(f"| {step.step} | {began} | {took} | {_cell(step.outcome or 'cut off')} |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    """A table's cell: no bar may end it early.

    >>> _cell("a|b"), _cell(None)
    ('a\\\\|b', '')
    """
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")

"""What other systems are told of backups: the events that a webhook carries. Pure; no secret and no names of tables in them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.backups.delivery import Delivered
from tasks.backups.manifest import Made
from tasks.backups.source import Target
from tasks.registry.models import Delivery

FINISHED, ALERT = "backup.finished", "backup.alert"
LONGEST = 2000
"""Characters of a sentence; the specification asks for small events."""


def finished(
    whose: Target, made: Made | None, delivered: Delivered | None, error: str, run_id: str, moment: datetime
) -> dict[str, Any]:
    """The event of a backup that ended.

    Args:
        whose: the database.
        made: the backup; None when it failed.
        delivered: what became of its mail; None when mailing is off.
        error: why it failed.
        run_id: the run that made it.
        moment: when it ended.

    >>> event = finished(Target(client="acme"), None, None, "no room; free some.", "r1", datetime(2026, 1, 2, tzinfo=UTC))
    >>> event["type"], event["timestamp"], event["data"]["status"], event["data"]["error"], event["data"]["sha256"]
    ('backup.finished', '2026-01-02T00:00:00.000Z', 'failed', 'no room; free some.', None)
    """
    data: dict[str, Any] = {
        "target": whose.key,
        "client": whose.client,
        "database": whose.database,
        "status": "good" if made else "failed",
        "error": None if made else error[:LONGEST],
        "run_id": run_id,
    }
    data |= dict.fromkeys(_FACTS) if made is None else _facts(made)
    failed = delivered.error if delivered else None
    data["delivery"] = (delivered.state if delivered else Delivery.OFF).value if made else None
    data["delivery_error"] = str(failed)[:LONGEST] if failed else None
    again = delivered.next_try if delivered else None
    data["delivery_next_try"] = _written(again) if again else None
    return {"type": FINISHED, "timestamp": _written(moment), "data": data}


_FACTS = (
    "path",
    "taken_at",
    "seconds",
    "file_bytes",
    "raw_bytes",
    "database_bytes",
    "sha256",
    "tables",
    "rows",
    "large_objects",
    "server_version",
    "dated_error",
)


def _facts(made: Made) -> dict[str, Any]:
    manifest = made.manifest
    return {
        "path": str(made.path),
        "taken_at": _written(manifest.taken_at),
        "seconds": round(manifest.seconds, 3),
        "file_bytes": manifest.file_bytes,
        "raw_bytes": manifest.raw_bytes,
        "database_bytes": manifest.database_bytes,
        "sha256": manifest.sha256,
        "tables": len(manifest.rows),
        "rows": sum(manifest.rows.values()),
        "large_objects": manifest.large_objects,
        "server_version": manifest.server_version,
        "dated_error": str(made.undated)[:LONGEST] if made.undated else None,
    }


def alert(sentences: Sequence[str], run_id: str, moment: datetime) -> dict[str, Any]:
    """The event of a fleet whose backups need somebody.

    Args:
        sentences: what is wrong, and what to do about it, one for each alert.
        run_id: the run that saw it.
        moment: when.

    >>> alert(["the newest backup of client acme is 3 days old; see why."], "r1", datetime(2026, 1, 2, tzinfo=UTC))["data"]
    {'alerts': ['the newest backup of client acme is 3 days old; see why.'], 'run_id': 'r1'}
    """
    data = {"alerts": [sentence[:LONGEST] for sentence in sentences], "run_id": run_id}
    return {"type": ALERT, "timestamp": _written(moment), "data": data}


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

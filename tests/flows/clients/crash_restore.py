"""A restore that kills itself: ``python -m tests.flows.clients.crash_restore POINT WHOSE BACKUP PG_BIN``.

POINT is as in ``crash``, with ``backups/`` before it for a module of that trade; ``none``: it says ``begun`` when its imports are done,
so that who kills it can choose a moment inside the flow. WHOSE is a client's slug, or ``database:`` and a block's name; a name
after ``into=`` in BACKUP is the new database's.
"""

import asyncio
import sys
from pathlib import Path

from tests.flows.clients.crash import die_at


def main() -> None:
    point, whose, backup, programs = sys.argv[1:5]
    from blocks.installation import installation
    from flows.backups.restore import restore_database

    # What the steps import only when they need it: a moment is to be one of the restore.
    from tasks.backups import loading, replacing, safety, sweeping  # noqa: F401

    installation().pg_bin = Path(programs)
    if point != "none":
        die_at(point)
    backup, _, into = backup.partition("into=")
    block = whose.removeprefix("database:") if whose.startswith("database:") else None
    given = {"client": None if block else whose, "database": block, "backup": backup or "latest"}
    print("begun", flush=True)
    state = asyncio.run(restore_database(**given, into=into, confirm="" if into else block or whose, return_state=True))
    print("STATE", state.type.value, state.message, flush=True)


if __name__ == "__main__":
    main()

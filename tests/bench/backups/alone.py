"""One piece of work in a process of its own: ``python -m tests.bench.backups.alone dump|mail``, told the rest on its standard input.

Prints as JSON how much memory (MiB of resident pages) the process had idle, with everything imported, and at most while it
worked, by the kernel's own high-water mark.
"""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Prepare, look, work, look again."""
    work = {"dump": dumping, "mail": mailing}[sys.argv[1]](json.load(sys.stdin))
    gc.collect()
    idle = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
    work()
    print(json.dumps({"idle": idle, "peak": resident("VmHWM")}))


def resident(name: str, pid: str = "self") -> float:
    """A line of /proc/PID/status, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no {name}")


def dumping(given: dict[str, Any]) -> Callable[[], object]:
    """A whole backup; idle is after one connection."""
    from tasks.backups import survey
    from tasks.backups.dump import Job, dump
    from tasks.backups.source import Database, Target

    database = Database(**given["database"])
    with survey.connected(database, 30) as connection:
        connection.execute("SELECT 1")
    job = Job(Target(client="bench"), database, Path(given["path"]), "bench", 1800, 1800, Path(given["pg_bin"]))
    return lambda: dump(job)


def mailing(given: dict[str, Any]) -> Callable[[], object]:
    """One mail with a file; idle is before TLS and the connection."""
    from tests.bench.backups.letters import mail_file, ours

    account, letter = ours(given["port"], given["ca"], Path(given["path"]))
    return lambda: mail_file(account, letter, Path(given["path"]))


if __name__ == "__main__":
    main()

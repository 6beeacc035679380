"""How much memory a backup takes at most above the same process idle; pg_dump's own is beside it in the JSON file."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.backups.alone import resident
from tests.bench.backups.source import SOURCE
from tests.bench.figures import Figure, Measure, Pair

LOOK = 0.02
"""Seconds between two looks at the children."""


def alone(what: str, given: dict[str, Any]) -> Pair:
    """``what`` in a process of its own: its peak, itself idle, and the peak of each program that it started."""
    children: dict[str, float] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.backups.alone", what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        while process.poll() is None:
            _look(process.pid, children)
            time.sleep(LOOK)
        told = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{what} ended with {process.returncode}")
    held = json.loads(told)
    return Pair(held["peak"], held["idle"], children)


def _look(pid: int, children: dict[str, float]) -> None:
    """Keep the highest mark of each program under ``pid``, by its name."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError, RuntimeError):  # it ends while we look
            for child in (task / "children").read_text().split():
                name = Path(f"/proc/{child}/comm").read_text().strip()
                if not name.startswith("python"):  # not yet the program: its pages are still ours
                    children[f"{name} MiB"] = max(children.get(f"{name} MiB", 0.0), resident("VmHWM", child))


@contextmanager
def _dump(which: str) -> Iterator[Measure]:
    source = SOURCE.get()
    given = {
        "database": asdict(getattr(source, which)),
        "path": str(source.folder / f"alone-{which}.sql.gz"),
        "pg_bin": str(source.pg_bin),
    }
    yield lambda number: alone("dump", given)


FIGURES = [
    Figure(
        f"memory-of-{name}",
        f"MiB of resident memory at most during a whole backup of {name}, less those of the same process idle",
        40,
        partial(_dump, which),
        rounds=rounds,
        unit="MiB",
        warm_up=False,
    )
    for name, which, rounds in (("200-mb", "small", 3), ("2-gb", "large", 2))
]

"""``python -m tests.bench [clients|health|gmail|backups …]``: measure the figures; exit 1 when one is short of its bar."""

import argparse
import json
import os
import pkgutil
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from tests.bench.figures import Figure, Result, measure, sharing

AREAS = ("clients", "health", "gmail", "backups")
RESULTS = Path("bench-results")


def main() -> int:
    """Run what the command line names."""
    given = _arguments()
    results: list[Result] = []
    with sharing():
        for area, figure in figures(given.area or AREAS, given.only):
            result = measure(area, figure, given.rounds)
            print(result.line(), flush=True)
            results.append(result)
    if not results:
        print("no figure is called so", file=sys.stderr)
        return 2
    where = write(results, given.json)
    short = [f"{one.area}/{one.figure.name}" for one in results if not one.held]
    print(f"{len(results) - len(short)} of {len(results)} held; {where}")
    return 1 if short else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("area", nargs="*", choices=[*AREAS, []], help="which trades; all when none is named")
    parser.add_argument("--only", default="", help="figures whose name has this in it")
    parser.add_argument("--rounds", type=int, help="counted rounds of each figure instead of its own number")
    parser.add_argument("--json", type=Path, help="the file to write (bench-results/<time>.json)")
    return parser.parse_args()


def figures(areas: list[str] | tuple[str, ...], only: str = "") -> Iterator[tuple[str, Figure]]:
    """The figures of the modules in tests/bench/<area>/, by area and module."""
    for area in areas:
        package = import_module(f"tests.bench.{area}")
        for module in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
            # A module without FIGURES is a part of another.
            for figure in getattr(import_module(f"tests.bench.{area}.{module}"), "FIGURES", ()):
                if only in figure.name:
                    yield area, figure


def write(results: list[Result], where: Path | None = None) -> Path:
    """Write ``results`` with what must be known to compare them later."""
    at = datetime.now(UTC)
    path = where or RESULTS / f"{at:%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "at": at.isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "prefect": version("prefect"),
        },
        "figures": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(told, indent=2) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())

"""``python -m deployments.one_machine up|down|status|logs|clean|password|demo|idle``; the Makefile calls it."""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import stamina
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.one_machine import ports
from deployments.one_machine import stack as one
from deployments.one_machine.settings import ROOT, Stack, stack
from tasks.errors import FleetError


def main() -> int:
    """Do what the command line says; 0 when it was seen to hold, 1 with one sentence when not."""
    parser = argparse.ArgumentParser(prog="python -m deployments.one_machine", description=__doc__)
    parser.add_argument("what", choices=["up", "down", "status", "logs", "clean", "password", "demo", "idle"])
    parser.add_argument("--overwrite", action="store_true", help="up: overwrite blocks that differ from .env")
    parser.add_argument("--confirm", help="clean: the fleet's id, when clients of your own would be deleted")
    parser.add_argument("--follow", action="store_true", help="logs: go on showing")
    given = parser.parse_args()
    stamina.instrumentation.set_on_retry_hooks([])  # what matters is said by us
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s[/]  {line}", markup=True)

    try:
        place = stack()
        return _do(given, place, console, say)
    except FleetError as error:
        console.print(f"[red]{given.what} failed:[/] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("stopped; run it again to go on")
        return 130


def _do(given: argparse.Namespace, place: Stack, console: Console, say: Callable[[str], None]) -> int:
    if given.what == "up":
        from deployments.one_machine.recipes import recipe_of

        recipe = recipe_of(place, say)
        one.up(place, recipe, say, overwrite=given.overwrite)
        console.print(f"\nPrefect UI   {place.ui}   (it asks for the auth string: `make password` prints it)")
        console.print(f"Gateway      {place.gateway_url}")
    elif given.what == "demo":
        from deployments.one_machine.demo import demo

        return demo(place, console, say)
    elif given.what == "down":
        one.down(place, say)
    elif given.what == "clean":
        from deployments.one_machine.clean import clean

        clean(place, say, given.confirm)
    elif given.what == "status":
        return _status(place, console)
    elif given.what == "logs":
        files = sorted(str(path) for path in place.logs.glob("*.log"))
        if not files:
            console.print("there are no logs yet; `make up` or `make demo` makes them")
            return 0
        return subprocess.run(["tail", "-n", "40", *(["-F"] if given.follow else []), *files], check=False).returncode
    elif given.what == "idle":
        return _idle(console)
    elif given.what == "password":
        if not (place.state / "keys" / "api").exists():
            console.print("there is no auth string yet; `make up` or `make demo` makes it")
            return 1
        print(place.auth)
    return 0


def _idle(console: Console) -> int:
    """0 when no other process runs from this checkout's virtual environment, so that it may be removed."""
    others = []
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in mine and str(ROOT / ".venv") in " ".join(process.cmdline()[:1]):
                others.append(process.pid)
    if others:
        console.print(f".venv is kept: another stack of this checkout runs from it ({len(others)} processes)")
    return 1 if others else 0


def _status(place: Stack, console: Console) -> int:
    if not place.state.exists():
        console.print("nothing is here yet; `make up` or `make demo` makes it")
        return 0
    table = Table(box=None, header_style="bold")
    for title in ("what", "state", "where"):
        table.add_column(title)
    rows = one.status(place)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    elsewhere = ports.moved(place)
    if elsewhere:
        console.print(f"{elsewhere[0]}: `make down`, then `make up` moves it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a demo left behind whose state folder is gone (a deleted clone): its container would stand in a new demo's way."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from deployments.one_machine import containers
from deployments.one_machine.embedded_postgres import OWN_FOLDER, EmbeddedPostgres
from deployments.one_machine.settings import Stack
from tasks.errors import Conflict


def sweep(place: Stack, container: str, say: Callable[[str], None]) -> None:
    """Make way for ``container``: remove a lost demo's fleet that has one of this name.

    Raises:
        Conflict: the demo that it belongs to is still there, or it is no demo's.
    """
    owner = containers.owner_of(container)
    if owner is None or owner == place.fleet:
        return
    home = containers.demo_home(owner)
    if home is None:
        raise Conflict(
            f"the container {container} exists and belongs to fleet {owner or '(none)'}, which is no demo",
            f"rename it (`docker rename {container} …`) and run the demo again",
        )
    if _fleet_in(home) == owner:
        raise Conflict(
            f"another demo is on this machine, with its state in {home}",
            "type `make clean` there, then run this one again",
        )
    containers.remove_all(owner)
    if os.geteuid() == 0:
        EmbeddedPostgres(OWN_FOLDER / owner / "postgres", 0, "").remove()
        shutil.rmtree(OWN_FOLDER / owner, ignore_errors=True)
    say(f"removed what an earlier demo left behind (fleet {owner}; its state folder {home} is gone)")


def _fleet_in(state: Path) -> str | None:
    try:
        return (state / "fleet").read_text()
    except OSError:
        return None

"""`make clean`: stop everything of one stack and delete it for good, unless clients of the operator's own would go with it."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from deployments.one_machine import containers, engine, processes
from deployments.one_machine.embedded_postgres import EmbeddedPostgres, home_of
from deployments.one_machine.settings import DEMO_CLIENT, IMAGES, Stack
from deployments.one_machine.stack import ALL, down
from tasks.errors import Conflict


def clean(place: Stack, say: Callable[[str], None], confirmed: str | None) -> None:
    """Stop everything and delete it for good: containers, networks, databases, state.

    Raises:
        Conflict: clients of the operator's own would be deleted, and nobody confirmed it.
    """
    if not place.run.exists():
        shutil.rmtree(place.state, ignore_errors=True)
        return
    clients = clients_at_stake(place)
    if clients and confirmed != place.fleet:
        raise Conflict(
            f"`make clean` would delete the databases, mail and backups of {len(clients)} client(s) ({', '.join(clients[:5])})",
            f"back them up, then type `make clean CONFIRM={place.fleet}`",
        )
    for name in ALL:
        processes.stop(name, place.run)
    # After `make down` the daemon may be stopped, with our containers still on its disk.
    if engine.ensure(place.logs / "dockerd.log", say):
        (place.run / "dockerd-is-ours").touch()
    removed = containers.remove_all(place.fleet, containers_of(place))
    if removed:
        say(f"removed {', '.join(removed)}")
    if (place.state / "demo").exists():
        noted = place.state / "demo" / IMAGES
        containers.remove_stand_ins(set(noted.read_text().split()) if noted.exists() else set())
    down(place, say)
    home = home_of(place.fleet, place.state)
    EmbeddedPostgres(home, place.postgres_port, "").remove()
    if home.parent.name == place.fleet:
        shutil.rmtree(home.parent, ignore_errors=True)
    shutil.rmtree(place.state)
    say(f"removed {place.state}")


def clients_at_stake(place: Stack) -> list[str]:
    """The clients that nobody can make again by `make demo`: all but the demo's own, where the demo made the folder.

    Those that have a container count too: the registry may be on a PostgreSQL of the operator's own.
    """
    found = set(clients_of(place))
    if engine.answers():
        found |= set(map(containers.client_of, containers.ours(place.fleet)))
    if (place.state / "demo").exists():
        found.discard(DEMO_CLIENT)
    return sorted(found)


def clients_of(place: Stack) -> list[str]:
    """The slugs in the SQLite registry of this state folder."""
    return _registry(place, "SELECT slug FROM client ORDER BY slug")


def containers_of(place: Stack) -> list[str]:
    """The ids of clients' containers in the SQLite registry of this state folder."""
    return _registry(place, "SELECT container_id FROM zero_instance WHERE container_id IS NOT NULL")


def _registry(place: Stack, query: str) -> list[str]:
    file: Path = place.state / "registry.sqlite"
    if not file.exists():
        return []
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            return [row[0] for row in connection.execute(query)]
    except sqlite3.Error:
        return []

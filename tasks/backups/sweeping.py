"""What killed restores left half made on a server, found by name and comment, and dropped."""

from contextlib import nullcontext

from tasks.backups import halfmade
from tasks.backups.halfmade import HalfMade
from tasks.backups.keeper import Keeper
from tasks.backups.source import Database, Target
from tasks.errors import Conflict


def sweep(keeper: Keeper, server: Database, fleet: str, own: Target) -> list[str]:
    """Drop the half-made databases of killed restores of this fleet; their names.

    Args:
        keeper: who asks.
        server: its maintenance database, as a role that makes them.
        fleet: whose.
        own: the target whose restore lock the caller holds; another's is left alone while its lock is held.
    """
    gone = []
    with halfmade.connected(server) as connection:
        if halfmade.drop(connection, halfmade.of(fleet, own.key)):  # also one that was killed before it had a comment
            gone.append(halfmade.of(fleet, own.key).name)
        for name, key in halfmade.left(connection, fleet).items():
            try:
                with nullcontext() if key == own.key else keeper.hold(f"restore-{key}", "sweep", wait=0):
                    halfmade.drop(connection, HalfMade(name, halfmade.of(fleet, key).label))
            except Conflict:
                continue
            gone.append(name)
    return gone

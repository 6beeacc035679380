"""The sentences that restores end with. Pure."""

from tasks.backups.loading import Loaded
from tasks.backups.source import Target


def into_new(whose: Target, backup: str, name: str, server: str, loaded: Loaded) -> str:
    """What a restore into a new database did.

    Args:
        backup: which one, in words.
        name: of the new database.
        server: ``host:port``.

    >>> into_new(Target(client="acme"), "/b/a.sql.gz (taken 2026-11-20 02:00 UTC)", "look", "db:5432", Loaded(1, 2, 0, 0.1, True, 3))
    "client acme: /b/a.sql.gz (taken 2026-11-20 02:00 UTC) is restored into the new database look at db:5432: 1 table with 2 rows and the schema's 3 objects loaded and compared equal in 0.1 s"
    """
    said = f"{whose.spoken}: {backup} is restored into the new database {name} at {server}: {loaded.sentence}"
    return "; ".join(filter(None, [said, loaded.rights_left]))


def over(whose: Target, backup: str, loaded: Loaded, safety: str, now: str) -> str:
    """What a restore over a database did.

    Args:
        backup: which one, in words.
        safety: where the backup of the old state lies; empty: none was made.
        now: how the service fares, or what else is to be known.

    >>> over(Target(client="acme"), "/b/a.sql.gz", Loaded(1, 2, 0, 0.1, True, 3), "/b/before-restore-acme.sql.gz", "it serves again at http://x")
    "client acme: its database is restored from /b/a.sql.gz: 1 table with 2 rows and the schema's 3 objects loaded and compared equal in 0.1 s; what it was before lies in /b/before-restore-acme.sql.gz; it serves again at http://x"
    """
    before = f"what it was before lies in {safety}" if safety else "what it was before is gone, as was asked for"
    said = f"{whose.spoken}: its database is restored from {backup}: {loaded.sentence}; {before}"
    return "; ".join(filter(None, [said, loaded.rights_left, now]))

"""A night's work over the whole fleet: whose databases, in which order, and how many at once. Decisions are pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.backups.source import APP_DATABASE, Target
from tasks.errors import Conflict, Damaged, FleetError, NotFound

if TYPE_CHECKING:  # brings psycopg, which a flow's cold start can do without
    import psycopg

LOCK = "backup-fleet"
"""Held for the dumps and mails of a whole night: two runs at once would back everything up twice."""
CONNECTIONS = 4
"""Of the server that one dump may use at the same time: pg_dump, the snapshot's holder, and what looks at roles and schema."""
MOST_AT_ONCE = 4
MAIL_FAILURES = 3
"""So many mails in a row that the server did not take, and the rest of the night's are left for later."""


@dataclass(frozen=True)
class Room:
    """What a PostgreSQL server said before the night: how much it bears, and which databases it has."""

    free: int
    """Connections that nobody uses, without those kept for superusers."""
    databases: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Client:
    """What the registry and the server know of a client, as far as its backup is concerned."""

    slug: str
    database: str
    made: bool
    """A container of its was made, or a backup: so there was a database."""


@dataclass(frozen=True)
class Plan:
    """What a night has to do."""

    targets: list[Target]
    """In the order of their dumps."""
    servers: dict[str, int]
    """How many dumps each server bears at once."""
    server_of: dict[str, str]
    """Key of a target to its server."""
    at_once: int
    left_out: list[str] = field(default_factory=list)
    """Clients whose database was never made."""


@dataclass(frozen=True)
class Night:
    """What a night's work at one target came to; whether it was delivered is in the registry."""

    target: Target
    row_id: int | None = None
    """Of the backup that was made."""
    error: str = ""
    """Why none was made."""
    held: bool = False
    """None was made because another run is at this very target."""
    undated: str = ""
    """Why it has no dated file, where the policy keeps those."""
    asides: list[str] = field(default_factory=list)
    """What else went wrong, without touching backup or mail: its page, its webhook."""


def at_once(wanted: int, cpus: int) -> int:
    """How many databases this machine dumps at once.

    Args:
        wanted: by the policy; 0: half of the processors, since each dump keeps one of pg_dump and the compression busy and
            the server may be here too.
        cpus: of this machine.

    >>> at_once(0, 1), at_once(0, 2), at_once(0, 6), at_once(0, 64), at_once(7, 2)
    (1, 1, 3, 4, 7)
    """
    return wanted or min(MOST_AT_ONCE, max(1, cpus // 2))


def bearable(free: int) -> int:
    """How many dumps a server with ``free`` connections bears: they take at most half of these, the clients keep the rest.

    >>> bearable(97), bearable(20), bearable(3), bearable(-1)
    (12, 2, 1, 1)
    """
    return max(1, free // 2 // CONNECTIONS)


def room(connection: "psycopg.Connection") -> Room:
    """What the server behind ``connection`` has free, and its databases."""
    # Sessions of other roles show a role without rights their database and little else; those without one are the server's own.
    row = connection.execute(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true), '0')::int"
        " - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL),"
        " (SELECT array_agg(datname::text) FROM pg_database)"
    ).fetchone()
    assert row is not None
    return Room(int(row[0]), frozenset(row[1]))


def chosen(
    clients: Iterable[Client], blocks: Iterable[str], databases: Collection[str] | None
) -> tuple[list[Target], list[str]]:
    """The night's targets in their order, and the clients that are left out because their database was never made.

    Args:
        clients: of the registry; disabled ones too, since their data are there.
        blocks: names of all PostgreSQL Database blocks.
        databases: names of the databases on the clients' server; None: it did not say, so nobody is left out.

    >>> acme, newco = Client("acme", "zero_client_acme", True), Client("newco", "zero_client_newco", False)
    >>> targets, left_out = chosen([acme, newco], ["crm", "app-database"], {"zero_client_acme"})
    >>> [one.spoken for one in targets], left_out
    (['app-database', 'crm', 'client acme'], ['newco'])
    >>> [one.spoken for one in chosen([acme, newco], [], None)[0]]
    ['client acme', 'client newco']
    """
    known = sorted(clients, key=lambda one: one.slug)
    left_out = [one.slug for one in known if databases is not None and not one.made and one.database not in databases]
    named = sorted(blocks, key=lambda name: (name != APP_DATABASE, name))
    targets = [Target(database=name) for name in named]
    targets += [Target(client=one.slug) for one in known if one.slug not in left_out]
    return targets, left_out


def to_prune(nights: Iterable[Night]) -> list[Target]:
    """Whose old files may go after the night; what another run is at is left to it.

    >>> acme, beta = Target(client="acme"), Target(client="beta")
    >>> to_prune([Night(acme, error="no room"), Night(beta, error="held", held=True)]) == [acme]
    True
    """
    return [one.target for one in nights if not one.held]


def gives_up(failures: Sequence[FleetError | None]) -> bool:
    """Whether the night's further mails are left for later: to the same mailboxes through the same account, they would fail too.

    Args:
        failures: of the mails so far, oldest first; None: it was delivered, to one recipient at least.

    >>> from tasks.errors import Refused
    >>> no, lost = Refused("login refused", "mend it"), NotFound("the file is gone", "back up")
    >>> gives_up([no, no]), gives_up([no, no, no]), gives_up([no, None, no, no]), gives_up([no, no, lost])
    (False, True, False, False)
    """
    last = failures[-MAIL_FAILURES:]
    of_the_mail = [
        error for error in last if error is not None and not isinstance(error, NotFound | Damaged | Conflict)
    ]
    return len(of_the_mail) == MAIL_FAILURES

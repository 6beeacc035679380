"""Taking a client away, plain: a proven backup first, then container, database and role, secrets, and the registry's rows last.

What is under way is noted in the registry before anything goes, so that a run after a kill goes on where it was cut off, and
nobody provisions the client meanwhile. The client's password is kept until no server knows it any more.
"""

from dataclasses import dataclass

from tasks.clients import containers, database_removal, labelled, postgres, restore, rotation, upgrade
from tasks.clients.adoption import twilio_block
from tasks.clients.work import Work
from tasks.clock import spoken
from tasks.errors import Conflict, Damaged, InvalidInput, NotConfigured, NotFound
from tasks.registry import journal, queries
from tasks.registry.models import Status
from tasks.registry.names import require_slug

OPERATION, FORGET = "deprovision", "forget"
WITHOUT = "no final backup was made, because final_backup is false"
NO_DATABASE = "it had no database, so there was nothing to back up"


@dataclass(frozen=True)
class Stock:
    """What a look found: whether a final backup is to be made, and what is said of it."""

    back_up: bool
    words: str = ""
    """What is said where there is no final backup."""
    proven: str = ""
    """What is said of the one that an earlier run proved."""
    gone: str = ""
    """The sentence, where the client is gone already."""


def require_confirmed(client: str, confirm: str) -> None:
    """Refuse before anything is asked, unless ``confirm`` repeats the slug.

    Raises:
        InvalidInput: it does not, or the slug is none.

    >>> require_confirmed("acme", "beta")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: confirm is 'beta', not 'acme'; repeat the slug in confirm: container, database and secrets of the client go.
    """
    require_slug(client)
    if confirm != client:
        raise InvalidInput(
            f"confirm is {confirm[:60]!r}, not {client!r}",
            "repeat the slug in confirm: container, database and secrets of the client go",
        )


def recall(work: Work) -> str:
    """Take the client's row; a client whose last operation was its deprovisioning is gone, and the sentence says so.

    Raises:
        NotFound: no such client, and nothing of one.
    """
    work.stored = queries.find_instance(work.registry, work.client)
    if work.stored is not None:
        work.port = work.stored.host_port
        return ""
    last = journal.latest(work.registry, work.client, 1)
    if last and (last[0].operation, last[0].step) == (OPERATION, FORGET):
        when = spoken(last[0].ended_at or last[0].started_at, work.house.time_zone)
        return f"{work.client}: nothing to do, it was deprovisioned at {when} ({work.house.time_zone})"
    return ""


def look(work: Work, final_backup: bool) -> Stock:
    """What there is of the client, on Docker and PostgreSQL; refuses what could not be finished. Changes nothing.

    Raises:
        NotFound: no such client, and nothing of one.
        Conflict: database or role are not ours, have things elsewhere, or an upgrade that was cut off has the database aside.
        Unreachable, Refused: what Docker or PostgreSQL answered.
    """
    row, pending = work.stored, _pending(work)
    found = database_removal.look(work.postgres_server(), work.names.database, work.owner)
    if row is None and not found.anything and not _own_containers(work):
        raise queries.unknown_client(work.registry, work.client)
    if not final_backup:
        return Stock(False, WITHOUT, pending.get("proven", ""))
    if pending.get("proven") and (found.closed or not found.database):
        return Stock(False, proven=pending["proven"])
    begun = (row.pending or {}).get("operation") if row is not None else None
    if found.beside or begun in (upgrade.OPERATION, rotation.OPERATION, restore.OPERATION):
        raise Conflict(
            f"an operation on {work.client} ({begun or upgrade.OPERATION}) was cut off, and which of its states is to be backed up is not "
            "settled",
            "run provision-client for it, which settles it, or give final_backup=false",
        )
    if not found.database:
        return Stock(False, pending.get("words") or (WITHOUT if pending else NO_DATABASE))
    if row is None:
        raise NotFound(
            f"the registry knows no client {work.client!r}, so its database cannot be backed up",
            "run provision-client for it first, or give final_backup=false",
        )
    if pending and found.closed:
        _open_again(work)
    return Stock(True)


def _open_again(work: Work) -> None:
    """Let the client's role in, for the backup that is wanted now: a run without one had closed it and was cut off."""
    if not work.given.database_password:
        raise NotConfigured(
            f"the block {work.names.secrets_block} with the database's password is gone, so no backup can be made",
            "give final_backup=false",
        )
    postgres.ensure(work.postgres_server(), work.names.database, work.given.database_password, work.owner)


def require_proven(client: str, path: str, verdicts: list[tuple[bool, str]]) -> str:
    """What is said of a final backup that a trial restore proved.

    Args:
        verdicts: whether each trial was good, and what it said.

    Raises:
        Damaged: there is no good one; nothing was touched.

    >>> require_proven("acme", "/b/acme/latest.sql.gz", [(True, "")])
    'its final backup, proven by a trial restore, stays at /b/acme/latest.sql.gz'
    """
    if not verdicts or not all(good for good, _ in verdicts):
        why = "; ".join(said.rstrip(". ") for good, said in verdicts if not good) or "it was not tried"
        raise Damaged(
            f"{client} was not touched, because its final backup could not be proven ({why})",
            "mend that and run again, or give final_backup=false",
        )
    return f"its final backup, proven by a trial restore, stays at {path}"


def begin(work: Work, proven: str, words: str) -> None:
    """Note that the client goes.

    Args:
        proven: what is said of its final backup; empty: none was made, and a later run may want one after all.
        words: what is said where none was made.
    """
    queries.register_client(work.registry, work.client)
    kept = {"before": {"container_id": _aside(work)}} if _aside(work) else {}
    queries.update_instance(
        work.registry,
        work.client,
        pending={"operation": OPERATION, "phase": "removing", "proven": proven, "words": proven or words, **kept},
        status=Status.STOPPING,
        last_error=None,
    )
    work.stored = queries.get_instance(work.registry, work.client)
    work.claimed = True


def remove_containers(work: Work) -> None:
    """Remove every container of the client that is ours: its own, and what an operation that was cut off left."""
    client = work.engine_client()
    for one in _own_containers(work):
        seen = containers.inspect(client, one)
        if seen is not None:
            containers.remove(client, seen)
    if _own_containers(work):
        raise Conflict(f"a container of {work.client} is there again", "see who makes it, and run again")


def _own_containers(work: Work) -> list[str]:
    """Ids: by label, and an adopted one, which bears none, also where an operation that was cut off has it aside."""
    client = work.engine_client()
    aside = containers.inspect(client, _aside(work)) if _aside(work) else None
    found = [one.id for one in labelled.containers_of(client, work.house.fleet, work.client)]
    named = containers.recognised(containers.inspect(client, work.names.container), work.house.fleet, work.stored)
    if named is not None and named.fleet == work.house.fleet and named.client == work.client:
        found.append(named.id)
    if aside is not None and not aside.fleet and aside.name.startswith(work.names.container):
        found.append(aside.id)
    return list(dict.fromkeys(found))


def _aside(work: Work) -> str:
    """The id of the container that an upgrade or a rotation under way set aside; empty: none."""
    pending = (work.stored.pending if work.stored else None) or {}
    return str((pending.get("before") or {}).get("container_id") or "")


def remove_database(work: Work) -> None:
    """Drop the client's database and role, and see them gone."""
    database_removal.remove(work.postgres_server(), work.names.database, work.owner)


def own_twilio(work: Work) -> str:
    """The Twilio block that adoption made for this client alone; empty: there is none."""
    name = twilio_block(work.client)
    return name if work.stored is not None and work.stored.spec.get("twilio") == name else ""


def forget(work: Work) -> str:
    """Take the client's rows out of the registry, its port with them, and say what was done.

    The journal, what was seen of its health, and its backups' history stay.
    """
    port = f", port {work.stored.host_port}" if work.stored and work.stored.host_port else ""
    backup = _pending(work).get("words") or WITHOUT
    work.claimed = False
    queries.forget_client(work.registry, work.client)
    foreign = containers.inspect(work.engine_client(), work.names.container)
    stays = f"; the container {foreign.name} is not this fleet's and stays" if foreign is not None else ""
    return (
        f"{work.client}: deprovisioned: its container, database and role {work.names.role}{port} and its secrets are gone{stays}; "
        f"{backup}"
    )


def _pending(work: Work) -> dict[str, str]:
    pending = work.stored.pending if work.stored else None
    return (
        {name: str(value) for name, value in pending.items()}
        if pending and pending.get("operation") == OPERATION
        else {}
    )

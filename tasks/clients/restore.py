"""The client's side of a restore over its database: another database beside its own, filled by whoever has the backup, then swapped in
while the container stands still, with the old one kept until the service was seen to serve.

What is under way is noted before it is begun, as in ``trial``; ``settle`` ends what a killed run left: a restored database that was seen
to serve, or that nothing runs on, stays; any other is taken back. The container itself is never made anew.
"""

from dataclasses import asdict
from typing import Any

from tasks.clients import containers, database_swap, postgres, provisioning, trial
from tasks.clients.database_swap import Pair
from tasks.clients.trial import COMMIT
from tasks.clients.work import Work
from tasks.errors import NotConfigured
from tasks.registry import queries
from tasks.registry.models import Status

OPERATION = "restore"
LOAD, STOP, SWAP = "loading the backup", "stopping the container", "putting the restored database in its place"
"""The phases before ``trial.COMMIT``, in order. Until SWAP the database is the old one; until STOP nothing is touched at all."""


def prepare(work: Work) -> None:
    """Refuse what a restore could not begin with.

    Raises:
        NotConfigured: the database is not there as it should be.
        Conflict: something has a name that is needed meanwhile, or the container is one for a single start.
        FleetError: PostgreSQL does not answer.
    """
    provisioning.look_at_database(work)
    if work.database is None or not work.database.ready:
        faults = work.database.faults if work.database else ("it was not looked at",)
        raise NotConfigured(
            f"the database of {work.client} is not as it should be before a restore ({', '.join(faults)})",
            f"run provision-client for {work.client} first",
        )
    trial.refuse_once(work)
    database_swap.refuse_existing(work.postgres_server(), work.names.database)


def make_beside(work: Work, backup: str) -> str:
    """Make the empty database that the backup goes into; its name. The client's own is used as before.

    Args:
        backup: which one is restored, for the sentences.
    """
    _note(work, {"operation": OPERATION, "phase": LOAD, "backup": backup})
    pair = database_swap.make(work.postgres_server(), work.names.database, work.owner)
    _note(work, {**trial.under_way(work), "database": asdict(pair)})
    return database_swap.coming_name(work.names.database)


def stop(work: Work) -> None:
    """Stop the container where one runs, and keep it from starting by itself."""
    seen = containers.inspect(work.engine_client(), work.names.container)
    work.container = containers.recognised(seen, work.house.fleet, work.stored)
    runs = trial.alive(work)
    trial.note(
        work,
        STOP,
        None if runs else {"status": _status(work)},
        before=asdict(trial.seen_before(work)) if runs else None,
    )
    if runs:
        trial.hold_still(work)


def put_in_place(work: Work) -> None:
    """Let the restored database take the place of the client's, with the rights that every client's has; the old one is kept."""
    trial.note(work, SWAP, None if stopped(work) else {"status": _status(work)})
    database_swap.swap(work.postgres_server(), work.names.database, _pair(work))
    _let_in(work)


def start(work: Work) -> bool:
    """Start the container where it ran before; whether it did."""
    if stopped(work):
        trial.bring_back(work)
    return stopped(work)


def commit(work: Work) -> str:
    """The restored database is the client's from now on; how the service fares, in words."""
    served = stopped(work)
    _keep(work)
    if served:
        return f"it serves again at {work.url}"
    if work.container is None:
        return "there is no container, so nothing was started"
    return f"its container was not running ({work.container.state}), and was not started"


def _keep(work: Work) -> None:
    trial.note(work, COMMIT, None if stopped(work) else {"status": _status(work)})
    _finish(work)


def _finish(work: Work) -> None:
    database_swap.drop_old(work.postgres_server(), work.names.database, _pair(work))
    if stopped(work):
        trial.over(work, Status.RUNNING if trial.alive(work) else trial.resting(work))
    else:
        untouched(work)


def untouched(work: Work) -> None:
    """Note that nothing is under way any more; what the registry says of the container stays, since nothing was done to it."""
    queries.update_instance(work.registry, work.client, pending=None)
    work.stored = queries.get_instance(work.registry, work.client)


def stopped(work: Work) -> bool:
    """Whether a container ran before, so that this stopped it or was about to."""
    return bool(trial.under_way(work).get("before"))


def runs_restored(work: Work) -> bool:
    """Whether the container runs on the restored database of a restore that was cut off before it was seen to serve."""
    return trial.under_way(work)["phase"] == SWAP and stopped(work) and trial.alive(work) and _swapped(work)


def take_back(work: Work) -> str:
    """Undo what was begun: the old database has its name, the new one is gone, the container is started if it ran. Nothing is
    waited for.

    Returns:
        What could not be put back as it was, in words; empty: everything is.

    Raises:
        FleetError: it could not be done now; what is under way stays noted.
    """
    server, name, left = work.postgres_server(), work.names.database, ""
    if trial.under_way(work)["phase"] == SWAP:
        if stopped(work):
            trial.hold_still(work)
        left = database_swap.put_back(server, name, _pair(work))
        _let_in(work)
    else:
        pair = _pair(work) if trial.under_way(work).get("database") else None
        database_swap.drop_new(server, name, work.owner, pair)
    gone = stopped(work) and not trial.bring_back(work)
    return "; ".join(filter(None, [left, "its container is gone: run provision-client" if gone else ""]))


def settle(work: Work, serves: bool) -> str:
    """End a restore that a killed run left under way; what was done, in a sentence.

    Args:
        serves: whether the service was seen to pass the gate on the restored database now.

    Raises:
        FleetError: it could not be done now; what is under way stays noted.
    """
    pending = trial.under_way(work)
    which = f"{work.client}: the restore of {pending.get('backup')} that was cut off"
    if pending["phase"] == COMMIT:
        _finish(work)
        return f"{which} is finished"
    if serves or (pending["phase"] == SWAP and not stopped(work) and _swapped(work)):
        _let_in(work)
        _keep(work)
        return f"{which} is finished: its database is the restored one"
    left = take_back(work)
    if stopped(work):
        trial.over(work, trial.resting(work))
    else:
        untouched(work)
    return f"{which} was taken back: its database is as it was before{'; ' + left if left else ''}"


def _let_in(work: Work) -> None:
    postgres.ensure(work.postgres_server(), work.names.database, work.secrets.database_password, work.owner)


def _swapped(work: Work) -> bool:
    return database_swap.swapped(work.postgres_server(), work.names.database, _pair(work))


def _pair(work: Work) -> Pair:
    return Pair(**trial.under_way(work)["database"])


def _status(work: Work) -> Status:
    return work.stored.status if work.stored else Status.UNKNOWN


def _note(work: Work, pending: dict[str, Any]) -> None:
    """Note what is under way while the service goes on: its status is the poll's."""
    queries.update_instance(work.registry, work.client, pending=pending)
    work.stored = queries.get_instance(work.registry, work.client)

"""A trial: a client's new container in the place of its old one, which waits aside until the new one was seen to serve.

The old one is stopped, kept from starting by itself and renamed to ``…__before``, so that coming back needs no making anew. What is
under way is in the registry (``ZeroInstance.pending``) before it is begun, so that after a kill at any point the next run knows how to
end it. The two never run at the same time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.clients import containers, images, provisioning
from tasks.clients.containers import Seen
from tasks.clients.database_copy import BEFORE
from tasks.clients.engine import answers
from tasks.clients.work import Work
from tasks.errors import Conflict, NotConfigured
from tasks.registry import queries
from tasks.registry.models import Status

if TYPE_CHECKING:
    from docker import DockerClient

ASIDE, COPY, TRY, COMMIT = "setting the old container aside", "copying the database", "trying", "committing"
"""The phases, in order; each is noted before it is begun."""
ALIVE = ("running", "restarting", "paused")


@dataclass(frozen=True)
class Before:
    """The container that there was, as far as putting it back needs it."""

    container_id: str
    running: bool
    status: str
    restart: str
    retries: int


def aside_name(work: Work) -> str:
    """What the old container is called meanwhile; no client's is called so, for want of two underscores beside each other."""
    return work.names.container + BEFORE


def under_way(work: Work) -> dict[str, Any]:
    """What is noted as under way; empty: nothing."""
    return dict(work.stored.pending or {}) if work.stored else {}


def before(work: Work) -> Before:
    """The old container, as noted."""
    return Before(**under_way(work)["before"])


def begin(work: Work, operation: str, **facts: Any) -> None:
    """Note that ``operation`` begins by setting the old container aside, and how to put that back."""
    _pending(work, {"operation": operation, "phase": ASIDE, "before": asdict(seen_before(work)), **facts})


def note(work: Work, phase: str, row: Mapping[str, Any] | None = None, **facts: Any) -> None:
    """Note what is begun now, its facts beside those of the phases before; ``row``: other columns that change at once."""
    _pending(work, {**under_way(work), "phase": phase, **facts}, row)


def _pending(work: Work, pending: dict[str, Any], row: Mapping[str, Any] | None = None) -> None:
    changes = {"status": Status.PROVISIONING, **(row or {}), "pending": pending}
    queries.update_instance(work.registry, work.client, **changes)
    work.stored = queries.get_instance(work.registry, work.client)


def over(work: Work, status: Status, last_error: str | None = None) -> None:
    """Note that nothing is under way any more."""
    queries.update_instance(
        work.registry,
        work.client,
        pending=None,
        status=status,
        last_error=last_error,
        container_id=work.container.id if work.container else None,
        failures=0,
        successes=0,
        restart_count=0,
    )
    work.stored = queries.get_instance(work.registry, work.client)


def stuck(work: Work, sentence: str) -> None:
    """Note why what is under way could neither be kept nor taken back now; it stays noted for the next run."""
    queries.update_instance(work.registry, work.client, status=Status.ERROR, last_error=sentence)


def refuse_leftover(work: Work) -> None:
    """Refuse while a container has the name that the old one gets; nothing that is under way knows of it.

    Raises:
        Conflict: it is there.
    """
    found = containers.inspect(work.engine_client(), aside_name(work))
    if found is not None:
        raise Conflict(
            f"there is a container {found.name} that no operation under way knows of",
            f"see what it is, and remove it (`docker rm -f {found.name}`)",
        )


def refuse_once(work: Work) -> None:
    """Refuse to keep a container of a clean restart as the one to come back to: started again, it would drop agent tables again.

    Raises:
        Conflict: it is one.
    """
    if work.container is not None and work.container.once:
        raise Conflict(
            f"the container {work.container.name} is left over from a clean restart that was cut off",
            f"run restart-zero for {work.client}, which makes it anew, and run again",
        )


def seen_before(work: Work) -> Before:
    """The container as it is now, for coming back to it.

    Raises:
        NotConfigured: there is none.
    """
    if work.container is None:
        raise NotConfigured(
            f"{work.client} has no container {work.names.container}", f"run provision-client for {work.client} first"
        )
    with answers(f"inspect container {work.container.name}"):
        policy = work.engine_client().api.inspect_container(work.container.id)["HostConfig"].get("RestartPolicy") or {}
    return Before(
        work.container.id,
        work.container.state in ALIVE,
        str(work.stored.status if work.stored else Status.UNKNOWN),
        policy.get("Name") or "no",
        policy.get("MaximumRetryCount") or 0,
    )


def set_aside(work: Work) -> None:
    """Stop the old container, keep it from starting by itself, and take its name away."""
    old = hold_still(work)
    if old is not None:
        _rename(work.engine_client(), old, aside_name(work))
    work.container = None


def hold_still(work: Work) -> Seen | None:
    """Stop the old container and keep it from starting by itself; None: it is gone."""
    old = _old(work)
    if old is not None:
        _restarts(work.engine_client(), old, "no", 0)
        if old.state in ALIVE:
            containers.stop(work.engine_client(), old)
    return old


def make_new(work: Work, start: bool = True) -> None:
    """Make the new container from what is settled now, and start it.

    Raises:
        PortTaken: somebody took the port meanwhile.
        FleetError: what the engine answered.
    """
    client, wanted = work.engine_client(), provisioning.made_of(work)
    containers.ensure_network(client, work.house.network, work.house.fleet)
    if images.local(client, wanted.image) != wanted.image_id:  # the tag moved or is gone; the image itself is meant
        wanted = replace(wanted, image=wanted.image_id)
    work.container = containers.create(client, wanted)
    if start:
        containers.start(client, work.container, work.spec.host_ip)
        work.container = containers.inspect(client, work.container.id)


def remove_new(work: Work) -> None:
    """Remove the container that was tried, if it was made."""
    found = containers.inspect(work.engine_client(), work.names.container)
    if found is not None and found.id != before(work).container_id:
        containers.refuse_foreign(found, work.house.fleet, work.client)
        containers.remove(work.engine_client(), found)
    work.container = None


def bring_back(work: Work) -> bool:
    """Give the old container its name and its ways back, and start it if it ran. Whether it is there at all.

    Raises:
        FleetError: what the engine answered.
    """
    client, was = work.engine_client(), before(work)
    old = _old(work)
    if old is not None:
        _rename(client, old, work.names.container)
        _restarts(client, old, was.restart, was.retries)
        if was.running:
            containers.start(client, old, work.spec.host_ip)
        old = _old(work)
    work.container = old
    return old is not None


def discard_old(work: Work) -> None:
    """Remove the old container, whose place the new one has."""
    old = _old(work)
    if old is not None and old.name != work.names.container:
        containers.remove(work.engine_client(), old)


def alive(work: Work) -> bool:
    """Whether the container that is there now was started."""
    return work.container is not None and work.container.state in ALIVE


def stay_stopped(work: Work) -> None:
    """Let the way back of an operation that was cut off end with a stopped container, too; nothing under way: nothing is done."""
    if under_way(work).get("before"):
        stopped = replace(before(work), running=False, status=Status.STOPPED.value)
        queries.update_instance(work.registry, work.client, pending={**under_way(work), "before": asdict(stopped)})


def resting(work: Work) -> Status:
    """What to note of a client whose container nobody waited for: the poll goes on from there."""
    was = before(work)
    if alive(work):
        return Status.STARTING
    known = not was.running and was.status in (Status.STOPPED, Status.DISABLED)
    return Status(was.status) if known else Status.UNKNOWN


def _old(work: Work) -> Seen | None:
    return containers.inspect(work.engine_client(), before(work).container_id)


def _rename(client: "DockerClient", container: Seen, name: str) -> None:
    if container.name != name:
        with answers(f"rename container {container.name} to {name}"):
            client.api.rename(container.id, name)


def _restarts(client: "DockerClient", container: Seen, policy: str, retries: int) -> None:
    """Set when the engine starts it by itself."""
    wanted: dict[str, Any] = {"Name": policy}
    if policy == "on-failure":
        wanted["MaximumRetryCount"] = retries
    with answers(f"change the restart policy of {container.name}"):
        client.api.update_container(container.id, restart_policy=wanted)

"""Starting, stopping and restarting the container that a client has: what is asked is judged, and what Docker shows decides.

Starting never makes a container: one that is missing, or that was left over from a clean restart, is provision-client's or
restart-zero's. Restarting makes it anew where it is not made from the spec any more.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tasks.clients import containers, images, logs, trial
from tasks.clients import provisioning as provision
from tasks.clients.containers import Seen
from tasks.clients.engine import answers
from tasks.clients.reconcile import Step, Wanted, why_anew
from tasks.clients.work import Work
from tasks.errors import Conflict, FleetError, InvalidInput, NotConfigured, NotFound, Unhealthy
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import require_slug

Clients = Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=20_000)]
"""The parameter ``clients``, as its form bounds it."""
AT_REST = ("created", "exited", "dead")
"""States of a container whose process does not run and will not by itself."""


class Move(StrEnum):
    """What is done to a container."""

    LEAVE = "leave the container as it is"
    START = "start the container"
    STOP = "stop the container"
    RESTART = "stop and start the container"
    ANEW = "make the container anew"


def check_clean(clients: Sequence[str], confirm: str) -> str:
    """The one client whose agent tables a clean restart may drop.

    Raises:
        InvalidInput: there are several, or ``confirm`` does not repeat the slug.

    >>> check_clean(["acme"], "acme")
    'acme'
    >>> check_clean(["acme"], "")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: clean=true drops agent tables of acme, and confirm is ''; repeat the slug in confirm.
    """
    if len(clients) != 1 or clients[0] == "all":
        raise InvalidInput(
            "clean=true drops agent tables, so it takes one client at a time",
            "name one client, or leave clean out",
        )
    slug = require_slug(clients[0])
    if confirm != slug:
        raise InvalidInput(
            f"clean=true drops agent tables of {slug}, and confirm is {confirm[:60]!r}", "repeat the slug in confirm"
        )
    return slug


def refuse_disabled(client: str, enabled: bool) -> None:
    """Refuse to start what is not meant to run.

    Raises:
        NotConfigured: it is not enabled.
    """
    if not enabled:
        raise NotConfigured(
            f"{client} is not enabled, so it is not started",
            "run provision-client with enabled = true, which starts it",
        )


def to_start(container: Seen | None, client: str, port: int | None) -> Move:
    """What a start does to the ``container``.

    Args:
        port: that is reserved for the client.

    Raises:
        NotFound: there is none.
        Conflict: it may not be started as it is.
    """
    if container is None:
        raise NotFound(
            f"there is no container of {client}", f"run provision-client for {client}, which makes and starts it"
        )
    anew = f"run restart-zero or provision-client for {client}, which make it anew"
    if container.once:
        raise Conflict(
            f"the container {container.name} is left over from a clean restart that was cut off, and would drop agent tables "
            "again",
            anew,
        )
    if container.state in ("dead", "removing"):
        raise Conflict(f"the container {container.name} is {container.state}", anew)
    if container.host_port != port:
        raise Conflict(
            f"the container {container.name} publishes port {container.host_port}, and {port} is reserved for {client}",
            anew,
        )
    return Move.LEAVE if container.state in ("running", "restarting") else Move.START


def to_stop(container: Seen | None) -> Move:
    """What a stop does to the ``container``; one that is not there does not run."""
    return Move.LEAVE if container is None or container.state in AT_REST else Move.STOP


def to_restart(container: Seen | None, wanted: Wanted) -> Move:
    """What a restart does to the ``container``.

    One that is missing is made: a restart that made it anew may have been killed in between.
    """
    if container is None or container.once or differs(container, wanted):
        return Move.ANEW
    return Move.START if container.state in AT_REST else Move.RESTART


def differs(container: Seen, wanted: Wanted) -> str:
    """Why the ``container`` is not what would be made now, in words; one that we did not make is taken as it is."""
    return why_anew(container, wanted) if container.spec_hash else ""


@contextmanager
def untouched(what: str) -> Iterator[None]:
    """Say of an error inside that ``what`` was refused because of it, before anything was touched."""
    try:
        yield
    except FleetError as error:
        raise type(error)(f"{what} is refused and nothing was touched: {error.what}", error.cure) from None


# Shells; each works on the container that was seen, and writes down what becomes of it.


def recall_enabled(work: Work) -> None:
    """Take what is stored of a client that is meant to run.

    Raises:
        NotFound: no such client.
        NotConfigured: it is not enabled.
    """
    provision.recall(work)
    refuse_disabled(work.client, work.spec.enabled)


def require_made(work: Work) -> None:
    """See that the client was provisioned before, and has secrets that a container can be made with.

    Raises:
        NotConfigured: provision-client has not come to that yet, or somebody took its secrets away.
    """
    made = work.container is not None or (work.stored is not None and work.stored.container_id is not None)
    if work.port is None or not made:
        lacks = "was never provisioned to its end"
    elif work.given != work.secrets:
        lacks = f"lacks secrets in its block {work.names.secrets_block}"
    else:
        return
    raise NotConfigured(f"{work.client} {lacks}", f"run provision-client for {work.client}, which does what is missing")


def _settle(work: Work) -> Wanted:
    """What the container would be made of now."""
    require_made(work)
    provision.settle_container(work)
    same = work.stored is not None and work.stored.image == work.spec.image
    if not (same and work.image_id):
        work.image_id = images.resolve(work.engine_client(), work.spec.image, work.spec.pull)
    return Wanted(True, work.spec_hash, work.image_id)


def start(work: Work) -> Move:
    """Start the container where it does not run.

    Raises:
        NotFound, Conflict: as ``to_start``; a missing one is noted as missing.
        PortTaken: somebody has its port.
        Unreachable, Refused: what the engine answered.
    """
    try:
        move = to_start(work.container, work.client, work.port)
    except NotFound as error:
        queries.update_instance(work.registry, work.client, status=Status.MISSING, last_error=str(error))
        raise
    require_made(work)  # without its secrets it could be started, and whether it serves could not be seen
    work.claimed = True
    if move is Move.START:
        provision.start(work)
    return move


def stop(work: Work) -> str:
    """Stop the container, and say what Docker shows then.

    Raises:
        NotFound: there is none, which is noted.
        Unhealthy: it does not end.
        Unreachable, Refused: what the engine answered.
    """
    seen = work.container
    if seen is None:
        missing = NotFound(
            f"there is no container of {work.client}, so nothing runs",
            f"run provision-client for {work.client} to make it anew",
        )
        if work.spec.enabled:
            queries.update_instance(work.registry, work.client, status=Status.MISSING, last_error=str(missing))
        raise missing
    work.claimed = True
    at_rest = {"status": Status.STOPPED if work.spec.enabled else Status.DISABLED, "last_error": None}
    trial.stay_stopped(work)
    if to_stop(seen) is Move.LEAVE:
        if work.stored is None or any(getattr(work.stored, name) != value for name, value in at_rest.items()):
            queries.update_instance(work.registry, work.client, **at_rest)
        return f"{work.client}: was already stopped ({_ended(seen)})"
    queries.update_instance(work.registry, work.client, status=Status.STOPPING)
    containers.stop(work.engine_client(), seen)
    after = containers.inspect(work.engine_client(), seen.id)
    if after is not None and after.state not in AT_REST:
        raise Unhealthy(
            f"{seen.name} was told to stop, and Docker shows it {after.state}",
            "look at it (`docker ps`) and run again",
        )
    queries.update_instance(work.registry, work.client, **at_rest)
    return f"{work.client}: stopped ({_ended(after) if after else 'and somebody removed it'})"


def _ended(seen: Seen) -> str:
    return "it never ran" if seen.state == "created" else f"exit code {seen.exit_code}"


def restart(work: Work) -> Move:
    """Stop the container and start it, or make it anew from the spec where it is not made from that.

    Raises:
        PortTaken: somebody has its port.
        Unreachable, Refused: what the engine answered.
    """
    move = to_restart(work.container, _settle(work))
    work.claimed = True
    if move is Move.ANEW:
        run_anew(work)
        return move
    if move is Move.RESTART and work.container is not None:
        queries.update_instance(work.registry, work.client, status=Status.STARTING)
        containers.stop(work.engine_client(), work.container)
    provision.start(work)
    return move


def run_anew(work: Work, clean: bool = False) -> None:
    """Make the container anew from the spec and start it.

    Args:
        clean: for one start that drops Zero's agent tables.

    Raises:
        PortTaken: somebody has its port.
        Unreachable, Refused: what the engine answered.
    """
    work.clean, work.claimed = clean, True
    _settle(work)
    if clean:
        work.steps = [Step.REMOVE]  # one left over from a clean restart that was cut off, too
    queries.update_instance(work.registry, work.client, status=Status.STARTING)
    provision.make_container(work)
    provision.start(work)


def seen_serving(work: Work, done: str) -> str:
    """Note that the service was seen to serve, and say it.

    Args:
        done: ``started``, ``restarted`` or ``was already running``.
    """
    row = queries.get_instance(work.registry, work.client)
    if row.status not in provision.SETTLED:
        queries.update_instance(work.registry, work.client, status=Status.RUNNING, last_error=None)
    return f"{work.client}: {done}, serves at {work.url}{_outdated(work)}"


def _outdated(work: Work) -> str:
    if work.container is None or work.given != work.secrets:
        return ""
    provision.settle_container(work)
    why = differs(work.container, Wanted(True, work.spec_hash, work.image_id or work.container.image_id))
    return f"; {why} since the container was made, and restart-zero makes it anew" if why else ""


def read_log(work: Work, tail: int, since: datetime | None) -> list[str]:
    """The end of the container's log, without secrets: neither its blocks' nor those in its own environment.

    Args:
        tail: at most so many lines.
        since: only what was said from then on.

    Raises:
        Unreachable, Refused: what the engine answered.
    """
    if work.container is None:
        return []
    client = work.engine_client()
    with answers(f"inspect container {work.container.name}"):
        environment = client.api.inspect_container(work.container.id)["Config"].get("Env") or []
    hidden = [*work.secret_values, *logs.secret_values(environment)]
    return containers.last_lines(client, work.container, hidden, tail, since.timestamp() if since else None)

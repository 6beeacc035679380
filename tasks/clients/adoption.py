"""Adopting a container that was made by hand, without restarting it: what it is goes into the registry, its secrets into a block.

It keeps its name and bears no labels of ours, which cannot be added to a container: the registry knows it by its id, and takes it
as made from what was read, so that it is made anew only when something of that changes.
"""

from typing import Any

from tasks.clients import adopted_spec, containers, database_removal, images, ports, postgres, provisioning
from tasks.clients.adopted_spec import Adopted
from tasks.clients.engine import answers
from tasks.clients.environment import GoogleClient, choose_google, redirect_uri
from tasks.clients.postgres import statement
from tasks.clients.secrets import fill
from tasks.clients.work import Work
from tasks.errors import Conflict, NotFound
from tasks.registry import queries
from tasks.registry.models import Status


def look(work: Work, fleet_google: GoogleClient | None) -> Adopted | None:
    """Read the container and refuse what cannot be adopted; None: it was adopted already. Changes nothing.

    Raises:
        NotFound: no such container, or it is no client's Zero.
        Conflict: it is somebody's already, or its block, port, database or role do not fit.
        Unreachable, Refused: what Docker or PostgreSQL answered.
    """
    work.stored = queries.find_instance(work.registry, work.client)
    provisioning.refuse_leaving(work.stored)
    found = _inspect(work)
    seen = containers.read(found)
    if _known(work, seen):
        return None
    adopted = adopted_spec.read(found, _image_env(work, seen), _image_name(work, found), work.names, work.house.network)
    adopted_spec.require_fitting(adopted.database, work.names)
    owner = ports.reserved(work.registry, work.engine).get(adopted.port, work.client)
    if owner != work.client:
        raise Conflict(f"port {adopted.port} of {seen.name} is reserved for client {owner}", "move that client first")
    _settle(work, adopted, seen, fleet_google)
    _look_at_database(work, adopted)
    return adopted


def _inspect(work: Work) -> dict[str, Any]:
    import docker.errors

    name = work.names.container
    with answers(f"inspect container {name}"):
        try:
            return dict(work.engine_client().api.inspect_container(name))
        except docker.errors.NotFound:
            raise NotFound(
                f"there is no container {name} on the Docker host", "see `docker ps -a`, and correct the name"
            ) from None


def _known(work: Work, seen: containers.Seen) -> bool:
    row = work.stored
    if row is not None and row.container_id == seen.id:
        return True
    if seen.fleet == work.house.fleet:
        raise Conflict(
            f"the container {seen.name} was made by this fleet, for client {seen.client}",
            f"run provision-client for {seen.client}, which takes it up",
        )
    if seen.fleet:
        raise Conflict(f"the container {seen.name} belongs to fleet {seen.fleet}", "deprovision it there first")
    if row is not None and row.spec:
        raise Conflict(
            f"the registry knows a client {work.client} already, with another container",
            "rename this one (`docker rename`) after another client, or deprovision that one first",
        )
    return False


def _image_env(work: Work, seen: containers.Seen) -> dict[str, str]:
    with answers(f"look up the image of {seen.name}"):
        image = work.engine_client().api.inspect_image(seen.image_id)
    return dict(entry.partition("=")[::2] for entry in (image.get("Config") or {}).get("Env") or [])


def _image_name(work: Work, found: dict[str, Any]) -> str:
    """The name it was made from while that still leads to its image, else the image's id."""
    name, own = str(found["Config"]["Image"]), str(found["Image"])
    return name if images.local(work.engine_client(), name) == own else own


def _settle(work: Work, adopted: Adopted, seen: containers.Seen, fleet_google: GoogleClient | None) -> None:
    """Complete ``work`` with what was read, as a provisioning would have."""
    own = adopted.secrets
    if fleet_google and (own.google_client_id, own.google_client_secret) == (
        fleet_google.client_id,
        fleet_google.client_secret,
    ):
        own = adopted_spec.without_google(own)
    own = adopted_spec.honour(work.given, own, work.names.secrets_block)
    work.secrets = fill(own, work.fleet_autumn)
    work.google = choose_google(work.secrets, fleet_google, adopted.spec.google_client, work.names)
    work.spec = adopted.spec
    if adopted.twilio is not None:
        work.twilio = adopted.twilio
        work.spec = work.spec.model_copy(update={"twilio": twilio_block(work.client)})
    work.port, work.container, work.image_id = adopted.port, seen, seen.image_id
    seen_at = (adopted.database.host, adopted.database.port)
    if work.db_address != seen_at:
        raise Conflict(
            "{} finds its database at {}:{}, and the block postgres-server says that containers find the server at {}:{}".format(
                seen.name, *seen_at, *work.db_address
            ),
            "if that is the same server, write it so into the block (host and port as containers see it), adopt, and put the block "
            "back: the client keeps its own",
        )
    provisioning.settle_container(work)


def _look_at_database(work: Work, adopted: Adopted) -> None:
    """See that role and database are there, that the password fits, and that we may keep them."""
    server, name = work.postgres_server(), work.names.database
    with postgres.connected(server, name, work.secrets.database_password, name) as connection:
        connection.execute("SELECT 1")
    work.database = postgres.look(server, name, work.secrets.database_password, work.owner)
    with postgres.maintenance(server) as connection:
        database_removal.require_admin(connection, server, name)
    if work.database.faults:
        adopted.notes.append(
            f"of its database: {'; '.join(work.database.faults)}: run provision-client for {work.client}, which mends that without "
            "a restart"
        )


def twilio_block(client: str) -> str:
    """What the Twilio block of an adopted client is called.

    >>> twilio_block("acme")
    'twilio-acme'
    """
    return f"twilio-{client}"


def take(work: Work, adopted: Adopted, serves: bool) -> None:
    """Mark database and role as ours and note the client in the registry, its container by id.

    Args:
        serves: whether the service answered just now.

    Raises:
        Conflict: another client took the port meanwhile.
    """
    server, name = work.postgres_server(), work.names.database
    with postgres.maintenance(server) as connection, postgres.alone(connection, name):
        connection.execute(statement("COMMENT ON ROLE {name} IS {owner}", name, owner=work.owner))
        connection.execute(statement("COMMENT ON DATABASE {name} IS {owner}", name, owner=work.owner))
    new = queries.register_client(work.registry, work.client)
    try:
        ports.claim(work.registry, work.client, work.engine, adopted.port, "move that client first")
    except Conflict:
        if new:
            queries.forget_client(work.registry, work.client)
        raise
    running = work.container is not None and work.container.running
    queries.update_instance(
        work.registry,
        work.client,
        spec=work.spec.model_dump(mode="json"),
        image=work.spec.image,
        image_id=work.image_id,
        spec_hash=work.spec_hash,
        container_id=work.container.id if work.container else None,
        redirect_uri=redirect_uri(adopted.url),
        # The poll judges one that runs and was not seen to answer.
        status=Status.RUNNING if serves else Status.UNKNOWN if running else Status.STOPPED,
        last_error=None,
    )


def told(work: Work, adopted: Adopted, serves: bool) -> str:
    """What was done, in one sentence, with what an operator has to know."""
    state = work.container.state if work.container else "missing"
    how = f"runs and answers at {adopted.url}" if serves else f"is {state}, and did not answer as wanted just now"
    port = "" if redirect_uri(adopted.url) == redirect_uri(work.url) else f"; from its next making on it is {work.url}"
    notes = "".join(f"; {note}" for note in adopted.notes)
    return f"{work.client}: adopted {work.names.container} as it is, without a restart; it {how}{port}{notes}"

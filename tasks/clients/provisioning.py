"""Provisioning a client, plain: look at everything first, refuse before anything is touched, then do what is missing.

A ``Work`` is one operation on one client under its lock. Each function may be cut off at any point: what it did is in
Docker, PostgreSQL, the registry or the client's block, and the next run sees it there.
"""

from collections.abc import Sequence

from tasks.clients import containers, image_choice, ports, postgres
from tasks.clients.environment import (
    GoogleClient,
    build,
    choose_google,
    container_hash,
    redirect_uri,
    refuse_clashes,
)
from tasks.clients.page import Facts
from tasks.clients.reconcile import Step, Wanted, steps_needed, why_anew
from tasks.clients.work import Work
from tasks.errors import Conflict, NotConfigured
from tasks.registry import queries
from tasks.registry.models import Status, ZeroInstance
from tasks.registry.names import PREFIX, require_block_name, require_slug
from tasks.registry.spec import SpecChanges, apply_changes, difference

PORT_ATTEMPTS = 5
SETTLED = (Status.RUNNING, Status.DEGRADED, Status.UNHEALTHY, Status.CRASH_LOOP)
"""What the poll says of a container that runs; a run that changes nothing does not speak over it."""


def check_input(client: str, changes: SpecChanges) -> None:
    """Refuse what is wrong by itself, before anything is asked.

    Raises:
        InvalidInput: the slug or a field of the spec.
    """
    require_slug(client)
    spec = apply_changes({}, changes, client)
    refuse_clashes(spec.extra_env, "extra_env")
    for name in (spec.google_client, spec.twilio, spec.docker_host, spec.registry_credentials):
        if name:
            require_block_name(name)


def settle_spec(work: Work, changes: SpecChanges) -> None:
    """Read what is stored, and what the changes make of it.

    Raises:
        InvalidInput: the changes do not fit what is stored.
        Conflict: the port would change without leave.
    """
    work.stored = queries.find_instance(work.registry, work.client)
    refuse_leaving(work.stored)
    stored = work.stored.spec if work.stored else {}
    work.spec = apply_changes(stored, changes, work.client)
    work.differences = difference(stored, work.spec)
    published = work.stored.redirect_uri if work.stored else None
    had = work.stored.host_port if work.stored else None
    back_to_range = "host_port" in changes.reset and bool(stored.get("host_port"))
    if back_to_range and published and not (work.spec.domain or changes.allow_new_port):
        ports.refuse_silent_change(had, 0, published, False, work.client)
    work.port = work.spec.host_port or (None if back_to_range else had)
    # Behind a domain the port is not part of the URI.
    if had and work.port and published != redirect_uri(work.url) and work.url != work.spec.public_url(had):
        ports.refuse_silent_change(had, work.port, published, changes.allow_new_port, work.client)


def refuse_leaving(stored: ZeroInstance | None) -> None:
    """Refuse to work on a client that is being taken away.

    Raises:
        Conflict: its deprovisioning was begun and cut off.
    """
    if stored is not None and (stored.pending or {}).get("operation") == "deprovision":
        raise Conflict(
            f"{stored.client} is being deprovisioned, and that was cut off",
            f"run deprovision-client for {stored.client} again to finish it; then it can be provisioned anew",
        )


def recall(work: Work) -> None:
    """Take the spec, port and image of a client that there is, as they are stored.

    Raises:
        NotFound: no such client was provisioned; the sentence names those that there are.
    """
    work.stored = queries.get_instance(work.registry, work.client)
    refuse_leaving(work.stored)
    work.spec = apply_changes(work.stored.spec, SpecChanges(), work.client)
    work.port = work.spec.host_port or work.stored.host_port
    work.image_id = work.stored.image_id or ""


def settle_google(work: Work, fleet: GoogleClient | None) -> None:
    """Choose the client's Google client.

    Raises:
        NotConfigured: there is none.
    """
    work.google = choose_google(work.given, fleet, work.spec.google_client, work.names)
    if work.spec.redis_url and not work.given.redis_token:
        raise NotConfigured(
            f"redis_url is set, and the block {work.names.secrets_block} has no redis_token",
            "fill it there (make the block when there is none), or reset redis_url",
        )


def look_at_docker(work: Work) -> None:
    """See container, networks, port and image; pulls or builds the image when it has to. Touches nothing else.

    Raises:
        Conflict: another engine than the one that it runs on; a foreign container, network or holder of the port.
        NotFound: an image or a network.
        Unreachable, Refused: what the engine or a registry answered.
    """
    client, spec, name = work.engine_client(), work.spec, work.names.container
    require_same_engine(work)
    ports.require_address(spec.host_ip, work.engine)
    work.container = containers.recognised(containers.inspect(client, name), work.house.fleet, work.stored)
    containers.refuse_foreign(work.container, work.house.fleet, work.client)
    containers.require_networks(client, spec.networks, work.house.network, work.house.fleet)
    up = work.container is not None and work.container.host_port == work.port and work.container.running
    if not up:
        work.published = ports.published(client)
    if work.port and not up:
        owner = ports.reserved(work.registry, work.engine).get(work.port, work.client)
        if owner != work.client:
            raise Conflict(f"port {work.port} belongs to client {owner}", "choose another host_port")
        ports.refuse_taken(work.port, spec.host_ip, work.engine, work.published, name)
    image_choice.settle_image(work, _reserve_port)


def require_same_engine(work: Work) -> None:
    """Refuse another engine than the one that the client's container is on: it would be made a second time.

    Raises:
        Conflict: naming both.
    """
    row = work.stored
    if row is not None and row.container_id and row.docker_host != work.engine:
        raise Conflict(
            f"{work.client} has its container on the Docker host {row.docker_host}, and its blocks lead to {work.engine} now",
            "put docker_host (or what its block says) back; to move the client, back it up, deprovision it, provision it there "
            "and restore the backup",
        )


def look_at_database(work: Work) -> None:
    """See the client's role and database; changes nothing.

    Raises:
        FleetError: the server refuses, does not answer, or the name is foreign.
    """
    work.database = postgres.look(work.postgres_server(), work.names.database, work.given.database_password, work.owner)


def decide(work: Work, serves: bool) -> None:
    """Which steps are needed.

    Args:
        serves: whether the service answered just now.
    """
    if work.database is None:
        raise RuntimeError("the database was not looked at")
    if work.port:
        settle_container(work)
    work.steps = steps_needed(work.database, work.container, serves, _wanted(work))
    made_before = work.container is not None or bool(work.stored and work.stored.container_id)
    work.database_lost = made_before and not work.database.database


def _wanted(work: Work) -> Wanted:
    return Wanted(work.spec.enabled, work.spec_hash, work.image_id)


def settle_container(work: Work) -> None:
    """What the container is to be made from, and its hash; needs spec, port, secrets and Google client."""
    if work.google is None:
        raise RuntimeError("the Google client was not chosen")
    port, (host, db_port) = work.port or 0, work.db_address
    work.environment = build(
        work.spec, work.names, port, work.secrets, work.google, work.twilio, host, db_port, work.clean
    )
    key = work.secrets.better_auth_secret
    work.spec_hash = container_hash(work.spec, work.environment, port, work.house.network, key, containers.LAYOUT)


def nothing_to_do(work: Work) -> str:
    """Note in the registry what was seen, and say it."""
    row = work.stored
    seen = {
        "spec": work.spec.model_dump(mode="json"),
        "image": work.spec.image,
        "image_id": work.image_id,
        "spec_hash": work.spec_hash,
        "container_id": work.container.id if work.container else None,
    }
    if work.spec.enabled and row is not None and row.status not in SETTLED:
        seen |= {"status": Status.RUNNING, "last_error": None}
    if not work.spec.enabled:
        seen |= {"status": Status.DISABLED, "last_error": None}
    if row is not None and any(getattr(row, name) != value for name, value in seen.items()):
        queries.update_instance(work.registry, work.client, **seen)
    stored = f"stored {'; '.join(work.differences)}; " if work.differences else ""
    if not work.spec.enabled:
        return f"{work.client}: {stored}nothing to change, provisioned and not enabled"
    return f"{work.client}: {stored}nothing to change, running at {work.url}"


def claim(work: Work) -> None:
    """Make the client's rows and reserve its port; a first claim that is refused leaves no rows.

    Raises:
        Conflict: the port belongs to another client, or none is left.
    """
    new = queries.register_client(work.registry, work.client)
    try:
        _reserve_port(work)
    except Conflict:
        if new:
            queries.forget_client(work.registry, work.client)
        raise
    work.claimed = True
    settle_container(work)
    queries.update_instance(
        work.registry,
        work.client,
        spec=work.spec.model_dump(mode="json"),
        status=Status.PROVISIONING,
        last_error=None,
    )


def _reserve_port(work: Work, avoid: tuple[int, ...] = ()) -> None:
    if work.spec.host_port:
        work.port = ports.claim(work.registry, work.client, work.engine, work.spec.host_port)
    elif work.port and work.port not in avoid:
        ports.claim(work.registry, work.client, work.engine, work.port, "give a host_port with allow_new_port=true")
    else:
        free = ports.free_on(work.spec.host_ip, work.engine, work.published)
        work.port = ports.allocate(work.registry, work.client, work.engine, work.house.ports, free, avoid)


def announce(work: Work) -> str:
    """Note the exact redirect URI as given out; from now on the port does not change by itself."""
    uri = redirect_uri(work.url)
    before = work.stored.redirect_uri if work.stored else None
    if before != uri:
        work.announced_now = before is None
        work.uri_changed = before is not None
        queries.update_instance(work.registry, work.client, redirect_uri=uri)
    return uri


def make_database(work: Work) -> None:
    """Make or mend role and database, and see that they are isolated and let the client in."""
    if Step.DATABASE in work.steps:
        if work.spec.enabled:
            stop(work)  # only where the steps say so: its database is gone, and it is to start on the new one
        work.database = postgres.ensure(
            work.postgres_server(), work.names.database, work.secrets.database_password, work.owner
        )


def make_container(work: Work) -> None:
    """Make the container anew where that is needed; not started."""
    client = work.engine_client()
    if work.container is not None and Step.REMOVE in work.steps:
        containers.remove(client, work.container)
        work.container = None
    if work.container is not None and why_anew(work.container, _wanted(work)):
        containers.remove(client, work.container)
        work.container = None
    if work.container is None:
        containers.ensure_network(client, work.house.network, work.house.fleet)
        work.container = containers.create(client, made_of(work))
    queries.update_instance(
        work.registry,
        work.client,
        container_id=work.container.id,
        image=work.spec.image,
        image_id=work.image_id,
        spec_hash=work.spec_hash,
    )


def made_of(work: Work) -> containers.Wanted:
    """What the client's container is to be made of; port, image and environment are settled."""
    return containers.Wanted(
        name=work.names.container,
        client=work.client,
        fleet=work.house.fleet,
        image=work.spec.image,
        image_id=work.image_id,
        spec=work.spec,
        spec_hash=work.spec_hash,
        host_port=work.port or 0,
        network=work.house.network,
        environment=work.environment,
        once=work.clean,
    )


def start(work: Work) -> bool:
    """Start the container; False: its allocated port was taken meanwhile, and another one is reserved now: announce it and
    make the container again.

    Raises:
        PortTaken: and the port may not change by itself, since it was chosen by a person or given out by an earlier run.
    """
    if work.container is None:
        raise RuntimeError("there is no container")
    queries.update_instance(
        work.registry, work.client, status=Status.STARTING, failures=0, successes=0, restart_count=0
    )
    try:
        containers.start(work.engine_client(), work.container, work.spec.host_ip)
    except containers.PortTaken:
        if work.spec.host_port or not work.announced_now:
            raise
        work.published = ports.published(work.engine_client())
        _reserve_port(work, avoid=(work.port or 0,))
        settle_container(work)
        work.stored = queries.find_instance(work.registry, work.client)
        queries.update_instance(work.registry, work.client, redirect_uri=None)
        if work.stored is not None:
            work.stored.redirect_uri = None
        return False
    return True


def stop(work: Work) -> None:
    """Stop the container where that is a step."""
    if work.container is not None and Step.STOP in work.steps:
        containers.stop(work.engine_client(), work.container)


def log_lines(work: Work, died: bool) -> list[str]:
    """The end of the container's log, redacted; of one that ``died`` its last words."""
    if work.container is None:
        return []
    read = containers.last_words if died else containers.last_lines
    return read(work.engine_client(), work.container, work.secret_values)


def finish(work: Work) -> str:
    """Note that it is as wanted, and say it."""
    status = Status.RUNNING if work.spec.enabled else Status.DISABLED
    queries.update_instance(work.registry, work.client, status=status, last_error=None)
    found = f"running at {work.url}"
    if not work.spec.enabled:
        found = f"provisioned and not started, because it is not enabled; port {work.port} is reserved"
    return "; ".join([f"{work.client}: {found}", *_to_know(work)])


def _to_know(work: Work) -> list[str]:
    """What a person has to do or know after this run."""
    said = []
    if work.database_lost:
        said.append(
            f"its database {work.names.database} was gone, and is new and empty: restore a backup into it if what it held is "
            "wanted"
        )
    if work.uri_changed:
        said.append(f"register the new redirect URI with Google: {redirect_uri(work.url)}")
    if image_choice.warning(work):
        said.append(image_choice.warning(work))
    return said


def failed(work: Work, sentence: str, last_lines: Sequence[str] = ()) -> None:
    """Note why it is not as wanted, the sentence before the end of its log; nothing is noted for a run that was refused before
    it claimed anything.
    """
    if work.claimed:
        noted = "\n".join([sentence, "Last lines:", *last_lines]) if last_lines else sentence
        queries.update_instance(work.registry, work.client, status=Status.ERROR, last_error=noted)


def no_port(work: Work) -> Conflict:
    """The error when every port that was tried turned out to be taken."""
    return Conflict(
        f"{PORT_ATTEMPTS} ports of the fleet's range were taken just before {work.names.container} started",
        "see who takes them, or move ZERO_FLEET_PORTS, and run again",
    )


def facts(work: Work) -> Facts:
    """What the client's page shows."""
    return Facts(
        client=work.client,
        enabled=work.spec.enabled,
        url=work.url,
        host_ip=work.spec.host_ip,
        port=work.port or 0,
        redirect=redirect_uri(work.url),
        database=work.names.database,
        db_address="{}:{}".format(*work.db_address),
        container=work.names.container,
        container_id=work.container.id if work.container else "",
        image=work.spec.image,
        image_id=work.image_id,
        spec=work.spec.model_dump(mode="json"),
        warnings=[*warnings(work.database), *filter(None, [image_choice.warning(work)])],
    )


def warnings(database: postgres.DatabaseState | None) -> list[str]:
    """What is not as it should be on a server that we do not harden.

    >>> warnings(postgres.DatabaseState(True, True, (), ("postgres",)))
    ['Every role of the server may connect to postgres: REVOKE CONNECT ON DATABASE … FROM PUBLIC closes it.']
    >>> warnings(postgres.DatabaseState(True, True, (), ("zero_client_beta",)))[0].partition(": ")[2]
    'run provision-client for that client, which closes it.'
    """
    if database is None or not database.open_to_all:
        return []
    clients = [name for name in database.open_to_all if name.startswith(PREFIX)]
    others = [name for name in database.open_to_all if not name.startswith(PREFIX)]
    said = []
    if others:
        shown = ", ".join(others[:10])
        said.append(
            f"Every role of the server may connect to {shown}: REVOKE CONNECT ON DATABASE … FROM PUBLIC closes it."
        )
    if clients:
        said.append(
            f"Every role of the server may connect to {', '.join(clients[:10])}: run provision-client for that client, which "
            "closes it."
        )
    return said

"""A client's container and the fleet's network. Only what bears our fleet's label is touched; a namesake is refused in words."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.clients.engine import answers, explain, port_taken, said
from tasks.clients.environment import CONTAINER_PORT, proxy_labels
from tasks.clients.secrets import redact
from tasks.errors import Conflict, NotFound, Unreachable
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, LABEL_ONCE, LABEL_SPEC, LABEL_VERSION
from tasks.registry.spec import ZeroSpec

if TYPE_CHECKING:
    from docker import DockerClient

    from tasks.registry.models import ZeroInstance

LAYOUT = "1"
"""Version of how containers are made; it enters the spec hash, so that raising it makes them anew."""
STOP_SECONDS = 10
LOG_SIZE, LOG_FILES = "10m", "3"
LAST_LINES = 100
"""So many lines of its log are kept of a container that failed."""


LOG_LAG = 0.08
"""Seconds that a container's last words may come after its end; Docker starts it again after 0.1 s at the earliest."""


class PortTaken(Conflict):
    """The host port was taken between our look and the container's start."""


@dataclass(frozen=True)
class Wanted:
    """What a container is to be made of."""

    name: str
    client: str
    fleet: str
    image: str
    image_id: str
    spec: ZeroSpec
    spec_hash: str
    host_port: int
    network: str
    environment: dict[str, str] = field(repr=False)
    once: bool = False
    """For one start only: labelled so, and never started again by Docker itself."""


@dataclass(frozen=True)
class Seen:
    """A container as the engine shows it."""

    id: str
    name: str
    state: str
    """created, running, restarting, paused, exited or dead."""
    exit_code: int
    oom_killed: bool
    restart_count: int
    image_id: str
    spec_hash: str
    host_port: int | None
    fleet: str
    client: str
    once: bool = False
    """Made for one start only, of a clean restart."""

    @property
    def running(self) -> bool:
        """Whether its process runs right now; one in a crash loop does now and then."""
        return self.state == "running"


def inspect(client: "DockerClient", reference: str) -> Seen | None:
    """The container ``reference`` (name or id), or None."""
    import docker.errors

    with answers(f"inspect container {reference}"):
        try:
            found = client.api.inspect_container(reference)
        except docker.errors.NotFound:
            return None
    return read(found)


def read(found: dict[str, Any]) -> Seen:
    """What matters of the engine's long answer."""
    state, labels = found["State"], found["Config"].get("Labels") or {}
    bindings = (found["HostConfig"].get("PortBindings") or {}).get(f"{CONTAINER_PORT}/tcp") or []
    port = bindings[0].get("HostPort") if bindings else None
    return Seen(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        state=state["Status"],
        exit_code=state.get("ExitCode") or 0,
        oom_killed=bool(state.get("OOMKilled")),
        restart_count=found.get("RestartCount") or 0,
        image_id=found["Image"],
        spec_hash=labels.get(LABEL_SPEC, ""),
        host_port=int(port) if port else None,
        fleet=labels.get(LABEL_FLEET, ""),
        client=labels.get(LABEL_CLIENT, ""),
        once=LABEL_ONCE in labels,
    )


def recognised(seen: Seen | None, fleet: str, stored: "ZeroInstance | None") -> Seen | None:
    """``seen`` as ours where it was adopted: made by hand, it bears no labels, but the registry has its very id.

    It counts as made from what the registry noted then, so that it is made anew only when something changes.
    """
    if seen is None or stored is None or seen.fleet or seen.client or seen.id != stored.container_id:
        return seen
    return replace(seen, fleet=fleet, client=stored.client, spec_hash=stored.spec_hash or "")


def refuse_foreign(seen: Seen | None, fleet: str, slug: str) -> None:
    """Refuse to touch a container that bears the client's name and is not our fleet's.

    Raises:
        Conflict: saying whose it is.
    """
    if seen is not None and (seen.fleet != fleet or seen.client != slug):
        whose = f"fleet {seen.fleet}" if seen.fleet else "nobody we know"
        adopt = "" if seen.fleet else "adopt it with adopt-zero, "
        raise Conflict(
            f"the container {seen.name} exists and belongs to {whose}",
            f"{adopt}rename it (`docker rename {seen.name} …`), or give the client another slug",
        )


def require_networks(client: "DockerClient", names: Iterable[str], network: str, fleet: str) -> bool:
    """See that every further network exists and that the fleet's is no foreign one; whether the fleet's is there.

    Raises:
        NotFound: a further network is missing.
        Conflict: the name of the fleet's network is taken by a foreign one.
    """
    for name in names:
        if _network(client, name) is None:
            raise NotFound(
                f"the Docker network {name} does not exist",
                f"make it (`docker network create {name}`), or leave it out",
            )
    found = _network(client, network)
    if found is not None and (found.get("Labels") or {}).get(LABEL_FLEET) != fleet:
        raise Conflict(
            f"the Docker network {network} exists and is not this fleet's",
            f"remove it (`docker network rm {network}`) if nobody needs it",
        )
    return found is not None


def ensure_network(client: "DockerClient", network: str, fleet: str) -> None:
    """Make the fleet's bridge when it is missing; containers on it cannot talk to each other."""
    import docker.errors

    if require_networks(client, (), network, fleet):
        return
    with answers(f"make network {network}"):
        try:
            client.api.create_network(
                network,
                driver="bridge",
                options={"com.docker.network.bridge.enable_icc": "false"},
                labels={LABEL_FLEET: fleet},
                check_duplicate=True,
            )
        except docker.errors.APIError as error:
            if error.status_code != 409:  # somebody made it just now
                raise
    require_networks(client, (), network, fleet)


def _network(client: "DockerClient", name: str) -> dict[str, Any] | None:
    with answers(f"look up network {name}"):
        # By filter, since several may bear one name, which inspecting by name calls ambiguous.
        found = [row for row in client.api.networks(names=[name]) if row["Name"] == name]
        return min(found, key=lambda row: str(row["Created"])) if found else None


def create(client: "DockerClient", wanted: Wanted) -> Seen:
    """Make the container, not started, joined to its networks; one that is already as wanted is taken as it is.

    Raises:
        Conflict: a foreign container has the name.
        Unreachable, Refused, NotFound: what the engine answered.
    """
    import docker.errors

    try:
        _create(client, wanted, wanted.image)
    except docker.errors.ImageNotFound:  # somebody took the name away; the id is there, or there is no image at all
        with answers(f"create container {wanted.name}"):
            _create(client, wanted, wanted.image_id)
    except Exception as error:
        raised = explain(error, f"create container {wanted.name}")
        if raised is None:
            raise
        # After a timeout (no status), or where another was faster (409), it may be there all the same.
        if getattr(error, "status_code", None) not in (None, 409) or _again(client, wanted) is None:
            raise raised from None
    seen = inspect(client, wanted.name)
    if seen is not None and seen.image_id != wanted.image_id:
        # The tag moved meanwhile; the id does not.
        remove(client, seen)
        with answers(f"create container {wanted.name}"):
            _create(client, wanted, wanted.image_id)
        seen = inspect(client, wanted.name)
    if seen is None:
        raise Unreachable(f"Docker made the container {wanted.name} and does not have it", "run again")
    with answers(f"join the networks of {wanted.name}"):
        for network in wanted.spec.networks:
            try:
                client.api.connect_container_to_network(seen.id, network)
            except docker.errors.APIError as error:
                if "already exists" not in said(error):
                    raise
    return seen


def _again(client: "DockerClient", wanted: Wanted) -> Seen | None:
    try:
        found = inspect(client, wanted.name)
    except Unreachable:
        return None
    refuse_foreign(found, wanted.fleet, wanted.client)
    return found if found is not None and found.spec_hash == wanted.spec_hash else None


def _create(client: "DockerClient", wanted: Wanted, image: str) -> None:
    spec = wanted.spec
    limits: dict[str, Any] = {"nano_cpus": int(spec.cpus * 1e9)} if spec.cpus else {}
    policy: dict[str, Any] = {"Name": "no" if wanted.once else spec.restart}
    if policy["Name"] == "on-failure":
        policy["MaximumRetryCount"] = 10
    host = client.api.create_host_config(
        # The image's first process is a shell that ignores SIGTERM; with an init of its own it ends in 0.3 s, not 10.
        init=True,
        port_bindings={CONTAINER_PORT: (spec.host_ip, wanted.host_port)},
        mem_limit=spec.memory << 20,
        pids_limit=spec.pids,
        restart_policy=policy,
        log_config={"Type": "json-file", "Config": {"max-size": LOG_SIZE, "max-file": LOG_FILES}},
        extra_hosts={"host.docker.internal": "host-gateway"},
        network_mode=wanted.network,
        **limits,
    )
    client.api.create_container(
        image,
        name=wanted.name,
        hostname=wanted.name.replace("_", "-"),
        environment=wanted.environment,
        ports=[CONTAINER_PORT],
        labels={
            **proxy_labels(spec, f"zero-{wanted.fleet}-{wanted.client}", wanted.network),
            LABEL_FLEET: wanted.fleet,
            LABEL_CLIENT: wanted.client,
            LABEL_SPEC: wanted.spec_hash,
            LABEL_VERSION: LAYOUT,
            **({LABEL_ONCE: "clean"} if wanted.once else {}),
        },
        host_config=host,
    )


def start(client: "DockerClient", container: Seen, host_ip: str) -> None:
    """Start it; one that runs is left alone, one that is paused goes on.

    Raises:
        PortTaken: the port is in use; the container stays, not started.
        Unreachable, Refused: what else the engine answered.
    """
    import docker.errors

    try:
        client.api.start(container.id)
    except docker.errors.APIError as error:
        if "paused container" in said(error):
            with answers(f"unpause container {container.name}"):
                client.api.unpause(container.id)
            return
        if port_taken(said(error)):
            raise PortTaken(
                f"port {container.host_port} on {host_ip} was taken just before {container.name} started",
                f"find who has it (`ss -ltnp 'sport = :{container.host_port}'`) and stop it, or choose another host_port "
                "with allow_new_port=true",
            ) from None
        raise explain(error, f"start container {container.name}") or error from None
    except Exception as error:
        found = explain(error, f"start container {container.name}")
        if found is None:
            raise
        raise found from None


def stop(client: "DockerClient", container: Seen) -> None:
    """Stop it within ``STOP_SECONDS``, or kill it."""
    with answers(f"stop container {container.name}"):
        if container.state == "paused":  # it would not hear that it is to stop
            client.api.unpause(container.id)
        client.api.stop(container.id, timeout=STOP_SECONDS)


def remove(client: "DockerClient", container: Seen) -> None:
    """Stop and remove it with its anonymous volumes; one that is gone is fine."""
    import docker.errors

    with answers(f"remove container {container.name}"):
        try:
            if container.running:
                client.api.stop(container.id, timeout=STOP_SECONDS)
            client.api.remove_container(container.id, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if "already in progress" not in said(error):
                raise


def last_words(client: "DockerClient", container: Seen, secrets: Iterable[str]) -> list[str]:
    """The last lines of its log; where Docker starts it again and again, those until its last end: how the next try began explains
    nothing.
    """
    import docker.errors

    with answers(f"inspect container {container.name}"):
        try:
            found = client.api.inspect_container(container.id)
        except docker.errors.NotFound:
            return []
    return last_lines(client, container, secrets, until=last_end(found))


def last_end(found: dict[str, Any]) -> float | None:
    """When a container that Docker started again ended last, in seconds since 1970, with the little that its log comes later.

    >>> last_end({"RestartCount": 2, "State": {"FinishedAt": "1970-01-01T00:01:00.123456789Z"}})
    60.203456
    >>> last_end({"RestartCount": 0, "State": {"FinishedAt": "0001-01-01T00:00:00Z"}}) is None
    True
    """
    if not found.get("RestartCount"):
        return None
    return round(datetime.fromisoformat(found["State"]["FinishedAt"]).timestamp() + LOG_LAG, 6)


def last_lines(
    client: "DockerClient",
    container: Seen,
    secrets: Iterable[str],
    count: int = LAST_LINES,
    since: float | None = None,
    until: float | None = None,
) -> list[str]:
    """The last ``count`` lines of its log, without ``secrets``, each at most 300 characters.

    Args:
        since: only what was said from this moment on, in seconds since 1970.
        until: only what was said before.
    """
    with answers(f"read the log of {container.name}"):
        raw: bytes = client.api.logs(container.id, stdout=True, stderr=True, tail=count, since=since, until=until)
    text = redact(raw.decode("utf-8", "replace"), secrets)
    return [line[:300] for line in text.splitlines() if line.strip()]

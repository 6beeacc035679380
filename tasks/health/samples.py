"""What one poll sees of one client, and what is remembered of it. Values only."""

from dataclasses import dataclass
from datetime import datetime

from tasks.health.probes import Answer, Endpoint
from tasks.registry.host_ip import on_every_machine
from tasks.registry.models import Status, ZeroInstance
from tasks.registry.spec import Probe, ZeroSpec


@dataclass(frozen=True, slots=True)
class Container:
    """A client's container as the engine tells of it."""

    name: str
    state: str
    """created, running, restarting, paused, exited or dead. A crash-looping one is mostly ``running``."""
    health: str = ""
    """Of the image's own HEALTHCHECK: healthy, unhealthy, starting, or nothing."""
    uptime: float | None = None
    """Seconds since it was started, when it runs; from the engine's list it is the least it can be."""
    published: tuple[tuple[str, int], ...] = ()
    """Addresses and ports of the Docker host that lead to it."""
    # Only known of those that looked odd and were inspected:
    restarts: int | None = None
    """Docker's RestartCount: restarts by the restart policy since somebody last started it."""
    exit_code: int | None = None
    out_of_memory: bool = False
    error: str = ""
    """What the engine said when it could not start it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the registry knew of a client when the poll began."""

    client: str
    status: Status
    enabled: bool
    updated_at: datetime
    checked_at: datetime | None
    failures: int
    successes: int
    restart_count: int
    maintenance_until: datetime | None
    last_error: str | None
    docker_host: str
    host_port: int | None
    host_ip: str
    url: str
    ready_within: int
    """Seconds that the service may take to become ready."""
    probes: tuple[Probe, ...]
    container_id: str | None = None
    """Of the container that was made or adopted; an adopted one bears no label."""
    docker_block: str = ""
    """The DockerHost block that its spec names; empty: the installation's engine."""

    @classmethod
    def of(cls, row: ZeroInstance) -> "Stored":
        """From the registry's row."""
        spec = ZeroSpec.model_validate(row.spec)
        return cls(
            client=row.client,
            status=row.status,
            enabled=spec.enabled,
            updated_at=row.updated_at,
            checked_at=row.checked_at,
            failures=row.failures,
            successes=row.successes,
            restart_count=row.restart_count,
            maintenance_until=row.maintenance_until,
            last_error=row.last_error,
            docker_host=row.docker_host,
            host_port=row.host_port,
            host_ip=spec.host_ip,
            url=spec.public_url(row.host_port or 0) if row.host_port or spec.domain else "",
            ready_within=spec.ready_within,
            probes=tuple(spec.probe),
            container_id=row.container_id,
            docker_block=spec.docker_host,
        )

    def on_purpose_down(self) -> bool:
        """Whether it is not meant to run."""
        return not self.enabled or self.status in (Status.DISABLED, Status.STOPPED)

    def endpoint(self, container: Container, engine_host: str) -> Endpoint | None:
        """Where to ask this client's service, or None where it publishes no port.

        Args:
            container: its container.
            engine_host: how this machine reaches ports that the engine publishes: 127.0.0.1 for the local one.
        """
        published = [port for _, port in container.published]
        port = self.host_port if self.host_port in published or not published else published[0]
        if port is None:
            return None
        if self.host_ip in ("::", "::1") and engine_host == "127.0.0.1":
            engine_host = "::1"
        host = engine_host if on_every_machine(self.host_ip) else self.host_ip
        name = self.url.partition("://")[2] or f"localhost:{port}"
        return Endpoint(host, port, name, self.probes)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one poll saw of one client."""

    container: Container | None = None
    """None: the engine has no container of this client."""
    answer: Answer | None = None
    """None: not asked, because the container does not run or publishes no port."""
    database: str = ""
    """What is wrong with its database, in words; empty: nothing, or not looked at."""
    unreachable: str = ""
    """Why the engine could not be asked; nothing else is known then."""

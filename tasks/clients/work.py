"""One operation on one client: what its steps know, each filled in by a step before the one that needs it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from tasks.clients import containers, postgres
from tasks.clients.engine import address
from tasks.clients.environment import GoogleClient, TwilioAccount
from tasks.clients.images import Login
from tasks.clients.reconcile import Step
from tasks.clients.secrets import Secrets
from tasks.registry.models import ZeroInstance
from tasks.registry.names import ClientNames
from tasks.registry.spec import ZeroSpec

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class House:
    """What of the installation matters here."""

    fleet: str
    network: str
    ports: range
    time_zone: str


@dataclass
class Work:
    """One operation on one client. It holds secrets: never a task's argument or result."""

    client: str
    run_id: str
    operation: str
    house: House
    registry: Engine = field(repr=False)
    stored: ZeroInstance | None = None
    spec: ZeroSpec = field(default_factory=ZeroSpec)
    differences: list[str] = field(default_factory=list)
    # From blocks.
    given: Secrets = field(default_factory=Secrets, repr=False)
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    fleet_autumn: str = field(default="", repr=False)
    """The Autumn key that clients share; empty: there is none."""
    server: postgres.Server | None = field(default=None, repr=False)
    db_address: tuple[str, int] = ("", 0)
    google: GoogleClient | None = field(default=None, repr=False)
    twilio: TwilioAccount | None = field(default=None, repr=False)
    registry_login: Login | None = field(default=None, repr=False)
    # From the installation.
    locks: Path = Path(".state/locks")
    builds: Path = Path(".state/builds")
    tell: Callable[[str], object] = field(default=lambda line: None, repr=False)
    """Tells a line in the run's log; from any thread."""
    # As seen.
    docker: "DockerClient | None" = field(default=None, repr=False)
    engine: str = "local"
    image_id: str = ""
    baked_url: str = ""
    """The public URL in the image's browser code, where we built it and know."""
    container: containers.Seen | None = None
    published: dict[int, str] = field(default_factory=dict)
    """Ports that running containers have, looked up unless the client's own runs where it should."""
    database: postgres.DatabaseState | None = None
    # As decided.
    port: int | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    spec_hash: str = ""
    steps: list[Step] = field(default_factory=list)
    clean: bool = False
    """The container is to be made for one start that drops Zero's agent tables."""
    claimed: bool = False
    registered_early: bool = False
    """Its rows were made during the look, since a build needed its port."""
    announced_now: bool = False
    uri_changed: bool = False
    """Another redirect URI than this run's was given out before."""
    database_lost: bool = False
    """The client had been provisioned before, and its database was gone."""

    @property
    def names(self) -> ClientNames:
        """What everything of the client is called."""
        return ClientNames(self.client)

    @property
    def owner(self) -> str:
        """Who manages its database, as its comment says."""
        return f"zero-fleet {self.house.fleet}: client {self.client}"

    @property
    def url(self) -> str:
        """Its public URL; needs the port."""
        return self.spec.public_url(self.port or 0)

    @property
    def base(self) -> str:
        """Where its published port is asked from here."""
        return f"http://{address(self.spec.host_ip, self.engine)}:{self.port}"

    @property
    def secret_values(self) -> list[str]:
        """What no log, page or sentence may show."""
        found = [*self.secrets.values(), *self.given.values(), self.fleet_autumn]
        found += [self.google.client_secret] if self.google else []
        found += [self.twilio.auth_token] if self.twilio else []
        found += [self.registry_login.password] if self.registry_login else []
        return found + ([self.server.password] if self.server else [])

    def engine_client(self) -> "DockerClient":
        """The engine's client; a step before this one opened it."""
        if self.docker is None:
            raise RuntimeError("the engine is not opened yet")
        return self.docker

    def postgres_server(self) -> postgres.Server:
        """The server's address; a step before this one read it."""
        if self.server is None:
            raise RuntimeError("the server is not known yet")
        return self.server

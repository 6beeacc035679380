"""What differs per installation and is not secret: read from the environment of server, worker and gateway."""

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Installation(BaseSettings):
    """Settings of this installation. Each has an environment variable of its own name in capitals, after ``ZERO_FLEET_``
    (TIME_ZONE and GATEWAY_URL stand alone). ``make up`` sets them for everything that it starts.
    """

    model_config = SettingsConfigDict(env_prefix="ZERO_FLEET_", extra="ignore", populate_by_name=True)

    state: Path = Field(default=Path(".state"), description="The state folder: registry, locks, backups, logs.")
    fleet: str = Field(
        default="fleet",
        pattern=r"^[a-z0-9]{1,12}$",
        description="The fleet's id, kept in labels and names; made once per state folder.",
    )
    time_zone: str = Field(
        default="UTC",
        validation_alias="TIME_ZONE",
        description="IANA time zone of every schedule and every date that a person reads.",
    )
    gateway_url: str = Field(
        default="http://localhost:8000",
        validation_alias="GATEWAY_URL",
        description="Public base URL of the gateway; Google's redirect goes to it. Never taken from a request.",
    )
    ports: str = Field(
        default="20000-29999",
        pattern=r"^\d{1,5}-\d{1,5}$",
        description="Range that clients' host ports are allocated from; keep it outside 32768-60999.",
    )

    pg_bin: Path | None = Field(
        default=None,
        description="Folder with pg_dump and psql, beside those of PATH; `make up` sets it to the embedded server's.",
    )

    @property
    def network(self) -> str:
        """The fleet's bridge network."""
        return f"zero-fleet-{self.fleet}"

    @property
    def registry_file(self) -> Path:
        """The SQLite registry (unless the block ``registry`` names a PostgreSQL database)."""
        return self.state.resolve() / "registry.sqlite"

    @property
    def locks(self) -> Path:
        """Folder of the lock files."""
        return self.state.resolve() / "locks"

    @property
    def builds(self) -> Path:
        """Folder of the logs of image builds; the code lies there while it is built."""
        return self.state.resolve() / "builds"

    @property
    def backups(self) -> Path:
        """Folder of the backups, unless the block `backup-policy` names one."""
        return self.state.resolve() / "backups"


@lru_cache(maxsize=1)
def installation() -> Installation:
    """The settings, read once per process."""
    return Installation()

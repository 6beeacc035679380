"""Blocks of the clients' trade: the server for their databases, each client's secrets, Twilio.

Docker hosts and registry credentials are prefect-docker's DockerHost and DockerRegistryCredentials.
"""

from typing import Literal

from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from pydantic import Field, HttpUrl, SecretStr

DOCS = HttpUrl("https://github.com/Mail-0/Zero")


class PostgresServer(Block):
    """The PostgreSQL server that clients' databases are made on, seen as its provisioner role."""

    _block_type_name = "Zero Fleet PostgreSQL Server"
    _block_type_slug = "zero-fleet-postgres-server"
    _description = (
        "The server that clients' databases are made on. The role should be LOGIN CREATEROLE CREATEDB rather than the "
        "superuser. Saved as `postgres-server`."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/postgresql")
    _documentation_url = DOCS

    host: str = Field(default="127.0.0.1", title="Host", description="As this machine reaches the server.")
    port: int = Field(default=5432, ge=1, le=65535, title="Port", description="As this machine reaches the server.")
    username: str = Field(
        default="postgres", title="Provisioner role", description="LOGIN CREATEROLE CREATEDB suffices."
    )
    password: SecretStr = Field(default=SecretStr(""), title="Password", description="Of the provisioner role.")
    maintenance_database: str = Field(
        default="postgres", title="Maintenance database", description="Where provisioning connects and locks."
    )
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", title="TLS", description="libpq's sslmode."
    )
    container_host: str = Field(
        default="host.docker.internal",
        title="Host as containers see it",
        description="`postgres` in the same network, or `host.docker.internal` for a server on the Docker host.",
    )
    container_port: int | None = Field(
        default=None, ge=1, le=65535, title="Port as containers see it", description="Empty: the same port."
    )
    harden: bool = Field(
        default=False,
        title="Ours alone",
        description=(
            "This server serves nothing but clients' databases: close `postgres` and `template1` to PUBLIC. Otherwise that is "
            "only checked and reported."
        ),
    )


class ZeroSecrets(Block):
    """Everything secret of one client's Zero; saved as `zero-SLUG`."""

    _block_type_name = "Zero Fleet Client Secrets"
    _block_type_slug = "zero-fleet-client-secrets"
    _description = (
        "Secrets of one client's Zero instance, saved as `zero-SLUG`. What you fill in beforehand is honoured; what is "
        "empty is generated once and never changed by accident."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/maildotru")
    _documentation_url = DOCS

    database_password: SecretStr = Field(
        default=SecretStr(""), title="Database password", description="Empty: generated."
    )
    better_auth_secret: SecretStr = Field(
        default=SecretStr(""), title="Better Auth secret", description="Empty: 32 random bytes in hex."
    )
    autumn_key: SecretStr = Field(
        default=SecretStr(""),
        title="Autumn secret key",
        description="Empty: the fleet's, else generated (urlsafe 32).",
    )
    api_token: SecretStr = Field(
        default=SecretStr(""), title="Bearer token of the e-mail API", description="Empty: generated."
    )
    google_client_id: str = Field(
        default="",
        title="Google client ID",
        description="Only if this client has a Google client of its own.",
    )
    google_client_secret: SecretStr = Field(
        default=SecretStr(""), title="Google client secret", description="Of that client."
    )
    redis_token: SecretStr = Field(
        default=SecretStr(""),
        title="Redis token",
        description="Of the Upstash-style REST endpoint in redis_url.",
    )
    secret_env: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Secret environment",
        description="Further environment of the container that is secret, as a JSON object.",
    )
    pending: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Next values",
        description=(
            "Values that rotate-client-secrets is to bring in, by field (database_password, better_auth_secret, autumn_key, "
            "api_token), as a JSON object. Empty: generated; emptied again when the rotation has ended."
        ),
    )


class TwilioCredentials(Block):
    """Twilio account that Zero sends text messages through."""

    _block_type_name = "Zero Fleet Twilio Credentials"
    _block_type_slug = "zero-fleet-twilio-credentials"
    _description = "Twilio account for Zero's text messages; optional. Saved as `twilio`."
    _logo_url = HttpUrl("https://cdn.simpleicons.org/twilio")
    _documentation_url = HttpUrl("https://www.twilio.com/docs/iam/credentials/api")

    account_sid: str = Field(title="Account SID", description="Starts with AC.")
    auth_token: SecretStr = Field(title="Auth token", description="From the account's page in Twilio's console.")
    phone_number: str = Field(title="Phone number", description="With country code, like +43123456.")

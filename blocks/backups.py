"""Blocks of the backups' trade: a database to back up, and what happens to its backups.

The SMTP account is prefect-email's EmailServerCredentials, saved as `smtp`.
"""

from dataclasses import dataclass, field
from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr
from sqlalchemy import URL

from blocks.documents import find

POSTGRES_DOCS = HttpUrl("https://www.postgresql.org/docs/current/app-pgdump.html")


class PostgresDatabase(Block):
    """One PostgreSQL database: the operator's own application's (`app-database`), or the registry's (`registry`)."""

    _block_type_name = "Zero Fleet PostgreSQL Database"
    _block_type_slug = "zero-fleet-postgres-database"
    _description = (
        "One PostgreSQL database to back up. `app-database` is your own application's; a block called `registry` puts Zero "
        "Fleet's registry there."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/postgresql")
    _documentation_url = POSTGRES_DOCS

    host: str = Field(title="Host", description="As this machine reaches the server.")
    port: int = Field(default=5432, ge=1, le=65535, title="Port", description="As this machine reaches the server.")
    database: str = Field(min_length=1, max_length=63, title="Database", description="Its name.")
    username: str = Field(min_length=1, max_length=63, title="User", description="A role that may read every table.")
    password: SecretStr = Field(default=SecretStr(""), title="Password", description="Of that role.")
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", title="TLS", description="libpq's sslmode."
    )

    def sqlalchemy_url(self) -> URL:
        """The URL for SQLAlchemy on psycopg 3; it holds the password."""
        return URL.create(
            "postgresql+psycopg",
            username=self.username,
            password=self.password.get_secret_value(),
            host=self.host,
            port=self.port,
            database=self.database,
            query={"sslmode": self.sslmode},
        )


class BackupPolicy(Block):
    """Where backups go, who gets them, and how long a dump may take."""

    _block_type_name = "Zero Fleet Backup Policy"
    _block_type_slug = "zero-fleet-backup-policy"
    _description = (
        "Where backups are kept, whom they are mailed to, and how long a dump may take. Saved as `backup-policy`."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/backblaze")
    _documentation_url = POSTGRES_DOCS

    directory: str = Field(
        default="",
        title="Folder",
        description="LOCAL_BACKUP_DIR; made on demand. Empty: `backups` in the state folder.",
    )
    filename: str = Field(
        default="latest_backup.sql.gz",
        min_length=1,
        max_length=200,
        title="File name",
        description="LOCAL_BACKUP_FILENAME.",
    )
    timeout_seconds: int = Field(
        default=300, ge=1, le=86_400, title="Timeout (s)", description="DB_BACKUP_TIMEOUT: of the whole dump."
    )
    stall_seconds: int = Field(
        default=60,
        ge=1,
        le=86_400,
        title="Stall timeout (s)",
        description="A dump that gives no byte for so long is ended.",
    )
    restore_seconds: int = Field(
        default=1800,
        ge=1,
        le=604_800,
        title="Restore timeout (s)",
        description="Of the trial restore that verify-backup makes.",
    )
    mail_enabled: bool = Field(
        default=False,
        title="Mail the backup",
        description="EMAIL_BACKUP_ENABLED; needs at least one recipient.",
    )
    recipients: list[str] = Field(default_factory=list, title="Recipients", description="EMAIL_BACKUP_RECIPIENT.")
    sender: str = Field(default="", title="From", description="DEFAULT_FROM_EMAIL, like `Backups <ops@example.org>`.")
    subject_prefix: str = Field(
        default="[AgentAssistant] Backup",
        max_length=200,
        title="Subject prefix",
        description="EMAIL_BACKUP_SUBJECT_PREFIX.",
    )


@dataclass(frozen=True)
class SmtpAccount:
    """The block `smtp` in plain values."""

    host: str
    port: int
    security: Literal["SSL", "STARTTLS", "PLAIN"]
    username: str
    password: SecretStr = field(repr=False)
    verify: bool = True


async def smtp_account(name: str = "smtp") -> SmtpAccount | None:
    """What prefect-email's block ``name`` says, or None when there is none; it stands for a provider or names a server."""
    from prefect_email.credentials import EmailServerCredentials, SMTPServer, SMTPType  # 0.3 s

    block = await find(EmailServerCredentials, name)
    if block is None:
        return None
    kind = block.smtp_type if isinstance(block.smtp_type, SMTPType) else SMTPType[block.smtp_type]
    security: dict[SMTPType, Literal["SSL", "STARTTLS", "PLAIN"]] = {
        SMTPType.SSL: "SSL",
        SMTPType.STARTTLS: "STARTTLS",
        SMTPType.INSECURE: "PLAIN",
    }
    return SmtpAccount(
        block.smtp_server.value if isinstance(block.smtp_server, SMTPServer) else block.smtp_server,
        block.smtp_port or kind.value,
        security[kind],
        block.username or "",
        block.password,
        block.verify is not False,
    )

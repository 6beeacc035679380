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
    """Where backups go, how many are kept, who gets them, how long they may take, and when to be alarmed."""

    _block_type_name = "Zero Fleet Backup Policy"
    _block_type_slug = "zero-fleet-backup-policy"
    _description = (
        "Where backups are kept and how many, whom they are mailed to and how, how long a dump may take, and what is worth an "
        "alert. Saved as `backup-policy`."
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
    must_be_mounted: bool = Field(
        default=False,
        title="Folder must be mounted",
        description="Refuse to back up while neither the folder nor one above it (but /) is a mounted file system. What "
        "/etc/fstab names is always asked for.",
    )
    keep: Literal["dated", "latest only"] = Field(
        default="dated",
        title="Keep",
        description="`dated`: besides the latest, dated files by the three numbers below. `latest only`: one file, as in the "
        "old way.",
    )
    daily: int = Field(
        default=7, ge=0, le=3660, title="Days kept", description="Of so many days with a backup, the newest."
    )
    weekly: int = Field(
        default=4, ge=0, le=520, title="Weeks kept", description="Of so many weeks with a backup, the newest."
    )
    monthly: int = Field(
        default=6, ge=0, le=120, title="Months kept", description="Of so many months with a backup, the newest."
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
        description="Of the trial restore that verify-backup makes, and of restore-database.",
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
    age_recipients: list[str] = Field(
        default_factory=list,
        title="Encrypt for",
        description="BACKUP_AGE_RECIPIENTS: age public keys (age1… or ssh-ed25519 …) that mailed files are encrypted for. The "
        "keys to decrypt stay with you, never here. Empty: not encrypted.",
    )
    too_big: Literal["report", "parts"] = Field(
        default="report",
        title="When too big to mail",
        description="`report`: the mail comes without the file and says where it lies. `parts`: the file comes in several "
        "mails, with the command that joins them.",
    )
    max_age_hours: int = Field(
        default=26, ge=1, le=8784, title="Oldest backup (h)", description="An alert when the newest is older."
    )
    max_unverified_days: int = Field(
        default=8,
        ge=1,
        le=366,
        title="Oldest verified backup (days)",
        description="An alert when the newest that a trial restore proved is older.",
    )
    shrink_percent: int = Field(
        default=50,
        ge=1,
        le=100,
        title="Sharp fall (%)",
        description="An alert when a backup is smaller, or has fewer rows, than the largest of the day before by more than this.",
    )
    disk_days: int = Field(
        default=14,
        ge=0,
        le=366,
        title="Disk warning (days)",
        description="An alert when the folder's disk, at the pace of the last weeks, is full within so many days. 0: never.",
    )
    parallel: int = Field(
        default=0,
        ge=0,
        le=16,
        title="At once",
        description="So many databases at once in backup-fleet. 0: half of this machine's processors, at most 4.",
    )
    webhook: str = Field(
        default="",
        max_length=200,
        title="Webhook",
        description="Name of a Zero Fleet Webhook Endpoint block that every finished backup is told to. Empty: none.",
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

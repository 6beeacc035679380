"""What the registry remembers. It holds no secret; the truth is Docker and PostgreSQL themselves."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Dialect, Index, String, UniqueConstraint
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from tasks.clock import now


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment on both SQLite (which drops the zone) and PostgreSQL."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a naive moment is a mistake of ours and is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was given to the registry")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Back as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Word(TypeDecorator[StrEnum]):
    """A StrEnum as plain text, so that a new word needs no change of the tables."""

    impl = String(20)
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        """The word itself; one that is not in the vocabulary is a mistake of ours."""
        return None if value is None else self.words(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        """Back as the enum."""
        return None if value is None else self.words(value)


class Status(StrEnum):
    """What a Zero instance is, in one word."""

    DISABLED = "disabled"
    PROVISIONING = "provisioning"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    CRASH_LOOP = "crash_loop"
    STOPPING = "stopping"
    STOPPED = "stopped"
    MISSING = "missing"
    ERROR = "error"
    UNKNOWN = "unknown"


class Client(SQLModel, table=True):
    """A client, known by a slug."""

    slug: str = Field(primary_key=True, max_length=40)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class Hold(SQLModel, table=True):
    """Who holds the lock of a name since when; the lock itself is elsewhere and falls by itself (``lock.py``)."""

    name: str = Field(primary_key=True, max_length=120)
    holder: str
    since: datetime = Field(sa_type=UtcDateTime)


class ZeroInstance(SQLModel, table=True):
    """A client's Zero: what is wanted, what was made, and how it was last seen."""

    __tablename__ = "zero_instance"
    __table_args__ = (UniqueConstraint("docker_host", "host_port", name="uq_zero_instance_port"),)

    client: str = Field(primary_key=True, foreign_key="client.slug", max_length=40)
    spec: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    docker_host: str = Field(default="local", max_length=100)
    host_port: int | None = None
    status: Status = Field(default=Status.UNKNOWN, sa_column=Column(Word(Status), nullable=False))
    last_error: str | None = None
    container_id: str | None = None
    image: str | None = None
    image_id: str | None = None
    spec_hash: str | None = None
    redirect_uri: str | None = None
    pending: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """What an operation that goes through several states has under way (``operation``, ``phase`` and its own facts), so that a
    run after a kill can finish it or take it back. It holds no secret."""
    looked: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    """What diagnose-client saw last: ``at`` and rows per table, to tell growth."""
    updated_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    # Health, kept across restarts: streaks decide when to speak.
    checked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failures: int = 0
    successes: int = 0
    restart_count: int = 0
    latency_ms: float | None = None
    maintenance_until: datetime | None = Field(default=None, sa_type=UtcDateTime)


class StepJournal(SQLModel, table=True):
    """One step of one operation on a client: when, how long, and how it ended (null: it was cut off)."""

    __tablename__ = "step_journal"

    id: int | None = Field(default=None, primary_key=True)
    client: str = Field(index=True, max_length=40)
    run_id: str = Field(index=True, max_length=40)
    operation: str
    step: str
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    outside_seconds: float | None = None
    """Seconds spent in Docker, PostgreSQL and waiting for the service."""
    outcome: str | None = None


class HealthTransition(SQLModel, table=True):
    """A status that changed, for alerts and history."""

    __tablename__ = "health_transition"

    id: int | None = Field(default=None, primary_key=True)
    client: str = Field(index=True, max_length=40)
    at: datetime = Field(sa_type=UtcDateTime, index=True)
    old: Status = Field(sa_column=Column(Word(Status), nullable=False))
    new: Status = Field(sa_column=Column(Word(Status), nullable=False))
    reason: str = ""


class GmailStatus(StrEnum):
    """Whether a user's Gmail account can be read."""

    CONNECTED = "connected"
    RECONNECT = "reconnect_needed"
    DISCONNECTED = "disconnected"


class GmailProfile(SQLModel, table=True):
    """What Google says of a user; kept apart from the user, so that disconnecting erases just this row."""

    __tablename__ = "gmail_profile"

    user: str = Field(primary_key=True, max_length=200)
    login_email: str | None = None
    sub: str | None = Field(default=None, index=True)
    email: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    name: str | None = None
    picture: str | None = None
    locale: str | None = None
    language: str | None = None
    messages_total: int | None = Field(default=None, sa_type=BigInteger)
    threads_total: int | None = Field(default=None, sa_type=BigInteger)
    granted_scopes: str = ""
    status: GmailStatus = Field(default=GmailStatus.CONNECTED, sa_column=Column(Word(GmailStatus), nullable=False))
    last_error: str | None = None
    generation: int = 0
    """Counts grants; a stale refusal must not kill a newer grant."""
    connected_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    refreshed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)


class Delivery(StrEnum):
    """What became of the mail about a backup."""

    OFF = "off"
    PENDING = "pending"
    SENT = "sent"
    SENT_IN_PARTS = "sent_in_parts"
    SENT_WITHOUT_FILE = "sent_without_file"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Never delivered, and a newer backup's mail was."""


class BackupKind(StrEnum):
    """Why a backup was made."""

    REGULAR = "regular"
    """In its turn or by hand: it becomes the latest one."""
    SAFETY = "safety"
    """Before a restore went over the database: a file of its own, which is never the latest one."""


class BackupRun(SQLModel, table=True):
    """One backup of one database: what was made, proven and delivered."""

    __tablename__ = "backup_run"
    # What is counted over years of backups is in the index alone: the rows are wide.
    __table_args__ = (Index("ix_backup_run_figures", "target", "kind", "status", "verified"),)

    id: int | None = Field(default=None, primary_key=True)
    target: str = Field(index=True, max_length=120)
    """``client:<slug>`` or ``database:<block's name>``."""
    run_id: str = Field(max_length=40)
    kind: BackupKind = Field(default=BackupKind.REGULAR, sa_column=Column(Word(BackupKind), nullable=False))
    started_at: datetime = Field(sa_type=UtcDateTime, index=True)
    taken_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    seconds: float | None = None
    """The dump's, from the first connection to the proven file."""
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    status: str = Field(default="running", max_length=20)
    """running, good or failed."""
    error: str | None = None
    path: str | None = None
    """Of the latest file when this was made; of a safety backup its own."""
    dated_path: str | None = None
    """Its dated file; null: none was kept, or it was pruned."""
    pruned_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    database_bytes: int | None = Field(default=None, sa_type=BigInteger)
    raw_bytes: int | None = Field(default=None, sa_type=BigInteger)
    file_bytes: int | None = Field(default=None, sa_type=BigInteger)
    sha256: str | None = Field(default=None, max_length=64)
    server_version: str | None = None
    row_counts: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    delivery: Delivery = Field(default=Delivery.OFF, sa_column=Column(Word(Delivery), nullable=False))
    delivery_error: str | None = None
    delivery_attempts: int = 0
    """Runs that tried to mail it."""
    deliver_after: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """When it is tried again by itself; null: not."""
    recipients: str | None = None
    message_id: str | None = None
    verified_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    verified: bool | None = None
    verify_note: str | None = None


class MailState(StrEnum):
    """What is known of one mail."""

    SENDING = "sending"
    """It may have arrived: the run that was sending it ended without a word, or the server did."""
    SENT = "sent"
    FAILED = "failed"


class BackupMail(SQLModel, table=True):
    """One attempt at one mail of one backup, noted before it is made: so no mail is sent twice without saying so."""

    __tablename__ = "backup_mail"

    id: int | None = Field(default=None, primary_key=True)
    backup_id: int = Field(index=True)
    message_id: str = Field(max_length=300)
    part: int = 0
    """0: the whole file, or the report without it; else the number of the part."""
    parts: int = 0
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    state: MailState = Field(default=MailState.SENDING, sa_column=Column(Word(MailState), nullable=False))
    accepted: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    """Recipients whom the server took it for."""
    error: str | None = None

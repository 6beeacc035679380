"""Which blocks the settings call for. Pure: what stands in files was read before (``google_files.py``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any
from zoneinfo import available_timezones

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect_email import EmailServerCredentials
from pydantic import SecretStr

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer, TwilioCredentials
from blocks.gmail import GoogleOAuthClient
from blocks.health import AlertPolicy
from blocks.webhook import WebhookEndpoint
from deployments.bootstrap.environment import Environment
from deployments.bootstrap.google_files import GoogleFiles
from deployments.bootstrap.mail_settings import (
    LOOPBACK,
    age_recipients,
    mail_server,
    mailing,
    recipients,
    sender,
)
from deployments.bootstrap.postgres_url import parse_postgres_url
from deployments.bootstrap.refusals import Refusals
from tasks.backups.webhook import key_of, require_url
from tasks.errors import InvalidInput
from tasks.gmail.endpoints import redirect_uri

WEBHOOK = "backup-webhook"

WITHOUT = {
    "smtp": "no mail can be sent (EMAIL_HOST is not set)",
    "app-database": "there is no database of your own to back up (DATABASE_URL is not set)",
    "postgres-server": "provision-client has no server to make databases on (ZERO_POSTGRES_URL is not set)",
    "google-zero": "provision-client has no OAuth client for Zero (GOOGLE_CLIENT_ID is not set)",
    "google-gmail": "connect-gmail cannot send users to Google (GMAIL_CLIENT_ID is not set)",
    "twilio": "Zero sends no text messages (TWILIO_ACCOUNT_SID is not set)",
    "metrics-token": "the gateway shows no metrics (METRICS_TOKEN is not set)",
    "autumn-key": "each client gets an Autumn key of its own (AUTUMN_SECRET_KEY is not set)",
}
"""What does not work while a block is neither in the settings nor made by hand."""


@dataclass(frozen=True)
class Wanted:
    """A block that shall exist. ``values`` holds only what the settings say: other fields are the block's or the UI's."""

    name: str
    kind: type[Block]
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """What bootstrap shall bring about."""

    wanted: tuple[Wanted, ...]
    warnings: tuple[str, ...]

    def without(self, existing: Iterable[str]) -> list[str]:
        """A sentence for each block that neither the settings call for nor ``existing`` names."""
        there = {block.name for block in self.wanted} | set(existing)
        return [f"without the block {name} {what}." for name, what in WITHOUT.items() if name not in there]


def make_plan(environment: Environment, files: GoogleFiles, given: Iterable[Wanted] = ()) -> Plan:
    """The blocks that ``environment`` calls for.

    Args:
        environment: the settings.
        files: what was read from Google's files that they name.
        given: blocks that the stack has itself (its embedded PostgreSQL); each stands where the settings say nothing.

    Raises:
        BadSettings: settings that contradict each other, are half there or have a wrong format; all of them at once.
    """
    refusals, warnings = Refusals(), list[str]()
    refusals.attempt(_check_zone, environment.time_zone)
    refusals.attempt(redirect_uri, environment.gateway_url)
    found = [
        refusals.attempt(_smtp, environment, warnings),
        refusals.attempt(_app_database, environment, warnings),
        refusals.attempt(_postgres_server, environment, warnings),
        refusals.attempt(_google_zero, environment),
        refusals.attempt(_google_gmail, environment, files, warnings),
        refusals.attempt(_twilio, environment),
        refusals.attempt(_webhook, environment),
        refusals.attempt(_metrics_token, environment),
    ]
    policy = _backup_policy(environment, refusals)
    refusals.settle()
    if environment.autumn_secret_key.get_secret_value():
        found.append(Wanted("autumn-key", Secret, {"value": environment.autumn_secret_key}))
    found += [Wanted("backup-policy", BackupPolicy, policy), Wanted("alert-policy", AlertPolicy, {})]
    wanted = {block.name: block for block in found if block}
    for block in given:
        wanted.setdefault(block.name, block)
    warnings += _doubts(environment, wanted)
    return Plan(tuple(wanted.values()), tuple(warnings))


def _check_zone(zone: str) -> None:
    if zone not in available_timezones():
        raise InvalidInput(f"TIME_ZONE {zone[:60]!r} is no time zone", "write an IANA name, like Europe/Vienna or UTC")


def _smtp(environment: Environment, warnings: list[str]) -> Wanted | None:
    server = mail_server(environment)
    if server is None:
        return None
    warnings += server.warnings
    values = {
        "smtp_server": server.host,
        "smtp_port": server.port,
        "smtp_type": server.encryption,
        "username": server.username or None,
        "password": environment.email_host_password,
    }
    return Wanted("smtp", EmailServerCredentials, values)


def _backup_policy(environment: Environment, refusals: Refusals) -> dict[str, Any]:
    """Only what is set; the policy's own defaults stand for the rest."""
    name = environment.local_backup_filename
    if name and (name != PurePath(name).name or name in (".", "..") or "\\" in name or not name.isprintable()):
        refusals.refuse(f"LOCAL_BACKUP_FILENAME {name[:80]!r} is no file name", "put the folder in LOCAL_BACKUP_DIR")
    folder = environment.local_backup_dir
    if folder and not PurePath(folder).is_absolute():
        refusals.refuse(f"LOCAL_BACKUP_DIR {folder[:80]!r} is not an absolute path", "write it like /var/backups/zero")
    values = {
        "directory": environment.local_backup_dir,
        "filename": name,
        "timeout_seconds": environment.db_backup_timeout,
        "mail_enabled": refusals.attempt(mailing, environment),
        "recipients": refusals.attempt(recipients, environment),
        "sender": refusals.attempt(sender, environment),
        "subject_prefix": environment.email_backup_subject_prefix,
        "age_recipients": refusals.attempt(age_recipients, environment),
        "webhook": WEBHOOK if environment.backup_webhook_url.get_secret_value() else "",
    }
    return {key: value for key, value in values.items() if value or value is False}


def _app_database(environment: Environment, warnings: list[str]) -> Wanted | None:
    url = environment.database_url.get_secret_value()
    if not url:
        return None
    read = parse_postgres_url("DATABASE_URL", url, database_needed=True)
    warnings += [f"DATABASE_URL: the parameter {name} is not used." for name in read.ignored]
    values = {
        "host": read.host,
        "port": read.port,
        "database": read.database,
        "username": read.username,
        "password": read.password,
    }
    return Wanted("app-database", PostgresDatabase, values | ({"sslmode": read.sslmode} if read.sslmode else {}))


def _postgres_server(environment: Environment, warnings: list[str]) -> Wanted | None:
    url = environment.zero_postgres_url.get_secret_value()
    if not url:
        return None
    read = parse_postgres_url("ZERO_POSTGRES_URL", url, database_needed=False)
    warnings += [f"ZERO_POSTGRES_URL: the parameter {name} is not used." for name in read.ignored]
    values = {
        "host": read.host,
        "port": read.port,
        "username": read.username,
        "password": read.password,
        "maintenance_database": read.database or "postgres",
        # This machine's own loopback is somebody else's inside a container.
        "container_host": "host.docker.internal" if read.host in LOOPBACK else read.host,
    }
    return Wanted("postgres-server", PostgresServer, values | ({"sslmode": read.sslmode} if read.sslmode else {}))


def _google_zero(environment: Environment) -> Wanted | None:
    secret = environment.google_client_secret
    if not _all_or_none({"GOOGLE_CLIENT_ID": environment.google_client_id, "GOOGLE_CLIENT_SECRET": secret}):
        return None
    values = {"client_id": environment.google_client_id, "client_secret": secret}
    return Wanted("google-zero", GoogleOAuthClient, values)


def _google_gmail(environment: Environment, files: GoogleFiles, warnings: list[str]) -> Wanted | None:
    identifier, secret = environment.gmail_client_id, environment.gmail_client_secret
    typed = _all_or_none({"GMAIL_CLIENT_ID": identifier, "GMAIL_CLIENT_SECRET": secret})
    if files.client:
        callback = redirect_uri(environment.gateway_url)
        if callback not in files.client.redirect_uris:
            warnings.append(
                f"GMAIL_CREDENTIALS_FILE does not list {callback}: register that redirect URI in Google Cloud."
            )
        if typed and files.client.client_id != identifier:
            raise InvalidInput(
                "GMAIL_CLIENT_ID and GMAIL_CREDENTIALS_FILE name different OAuth clients",
                "keep one of the two settings",
            )
        if not typed:
            # Its endpoints are left alone: older files name ones that Google has replaced.
            identifier, secret = files.client.client_id, SecretStr(files.client.client_secret)
    elif not typed:
        return None
    return Wanted("google-gmail", GoogleOAuthClient, {"client_id": identifier, "client_secret": secret})


def _twilio(environment: Environment) -> Wanted | None:
    number = environment.twilio_phone_number.replace(" ", "")
    group = {
        "TWILIO_ACCOUNT_SID": environment.twilio_account_sid,
        "TWILIO_AUTH_TOKEN": environment.twilio_auth_token,
        "TWILIO_PHONE_NUMBER": number,
    }
    if not _all_or_none(group):
        return None
    if not (number.startswith("+") and number[1:].isascii() and number[1:].isdigit() and 7 <= len(number) <= 16):
        raise InvalidInput("TWILIO_PHONE_NUMBER is no number with country code", "write it like +43123456789")
    values = {
        "account_sid": environment.twilio_account_sid,
        "auth_token": environment.twilio_auth_token,
        "phone_number": number,
    }
    return Wanted("twilio", TwilioCredentials, values)


def _webhook(environment: Environment) -> Wanted | None:
    url, key = environment.backup_webhook_url, environment.backup_webhook_key
    if not _all_or_none({"BACKUP_WEBHOOK_URL": url, "BACKUP_WEBHOOK_KEY": key}):
        return None
    require_url(url.get_secret_value(), "BACKUP_WEBHOOK_URL")
    key_of(key.get_secret_value(), "BACKUP_WEBHOOK_KEY")
    return Wanted(WEBHOOK, WebhookEndpoint, {"url": url, "signing_key": key})


def _metrics_token(environment: Environment) -> Wanted | None:
    token = environment.metrics_token.get_secret_value()
    if not token:
        return None
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(
            "METRICS_TOKEN is no token of 16 or more letters, digits and signs without spaces",
            "make one with `openssl rand -hex 32`",
        )
    return Wanted("metrics-token", Secret, {"value": environment.metrics_token})


def _all_or_none(group: Mapping[str, Any]) -> bool:
    """True when every variable of ``group`` is set, False when none is.

    Raises:
        InvalidInput: some are, some are not.

    >>> _all_or_none({"A": "x", "B": ""})
    Traceback (most recent call last):
    tasks.errors.InvalidInput: A is set, but B is empty; set all of A, B, or none.
    """
    there = [name for name, value in group.items() if _text(value)]
    missing = [name for name in group if name not in there]
    if there and missing:
        verb = "is" if len(there) == 1 else "are"
        empty = "is" if len(missing) == 1 else "are"
        raise InvalidInput(
            f"{' and '.join(there)} {verb} set, but {' and '.join(missing)} {empty} empty",
            f"set all of {', '.join(group)}, or none",
        )
    return bool(there)


def _text(value: Any) -> str:
    return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)


def _doubts(environment: Environment, wanted: Mapping[str, Wanted]) -> list[str]:
    """Settings that are legal and probably not what was meant."""
    found = []
    if environment.email_backup_enabled and "smtp" not in wanted:
        found.append("EMAIL_BACKUP_ENABLED is True, but EMAIL_HOST is not set: mails need a block smtp made by hand.")
    zero, gmail = wanted.get("google-zero"), wanted.get("google-gmail")
    if zero and gmail and zero.values["client_id"] == gmail.values["client_id"]:
        found.append(
            "GOOGLE_CLIENT_ID and GMAIL_CLIENT_ID are one OAuth client: it needs both redirect URIs; two clients are better."
        )
    return found

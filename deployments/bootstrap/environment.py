"""The operators' settings: read from the process environment over a ``.env`` file, under the names that they have always had."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from deployments.bootstrap.refusals import BadSettings


class Environment(BaseModel):
    """Every setting, as text says it; what the settings mean together is decided in ``plan.py``.

    Each field's environment variable is its name in capitals. A variable that is empty counts as one that is not set.
    """

    model_config = ConfigDict(alias_generator=str.upper, extra="ignore", frozen=True, hide_input_in_errors=True)

    email_provider: str = Field(
        default="", max_length=40, description="gmail, yandex, mailru or microsoft365: fills host, port and encryption."
    )
    email_host: str = Field(default="", description="The SMTP server that backups and test mails are handed to.")
    email_port: int | None = Field(default=None, ge=1, le=65535, description="Its port; 465 means SSL.")
    email_use_tls: bool | None = Field(
        default=None, description="True: STARTTLS. False: unencrypted, with a warning. Not set: True."
    )
    email_use_ssl: bool | None = Field(default=None, description="True: SSL from the first byte (port 465).")
    email_host_user: str = Field(default="", description="Login; empty for a server without login.")
    email_host_password: SecretStr = Field(default=SecretStr(""), description="Password, as a rule an app password.")
    default_from_email: str = Field(default="", description="From of the mails, like `Backups <ops@example.org>`.")

    email_backup_enabled: bool | None = Field(default=None, description="Whether backups are mailed.")
    email_backup_recipient: str = Field(default="", description="Who gets them; several are separated by commas.")
    email_backup_subject_prefix: str = Field(default="", max_length=200, description="What the subject starts with.")
    local_backup_dir: str = Field(
        default="", description="The folder of the backups, an absolute path; made on demand."
    )
    local_backup_filename: str = Field(default="", max_length=200, description="The name of the backup's file.")
    db_backup_timeout: int | None = Field(default=None, ge=1, le=86_400, description="Seconds that a dump may take.")

    backup_age_recipients: str = Field(
        default="", description="Public keys that mailed files are encrypted for, separated by commas."
    )

    database_url: SecretStr = Field(default=SecretStr(""), description="Your own application's database.")
    zero_postgres_url: SecretStr = Field(default=SecretStr(""), description="The server for clients' databases.")

    backup_webhook_url: SecretStr = Field(
        default=SecretStr(""), description="Where every finished backup is posted to, signed."
    )
    backup_webhook_key: SecretStr = Field(default=SecretStr(""), description="The key that it is signed with.")
    metrics_token: SecretStr = Field(default=SecretStr(""), description="Bearer token of the gateway's /metrics.")

    time_zone: str = Field(default="UTC", description="IANA time zone of schedules and of dates that people read.")
    gateway_url: str = Field(default="http://localhost:8000", description="The gateway's public base URL.")

    google_client_id: str = Field(default="", description="OAuth client of the Zero instances.")
    google_client_secret: SecretStr = Field(default=SecretStr(""), description="Its secret.")
    gmail_client_id: str = Field(default="", description="OAuth client that users' profiles are read with.")
    gmail_client_secret: SecretStr = Field(default=SecretStr(""), description="Its secret.")
    gmail_credentials_file: str = Field(default="", description="Google's credentials.json instead of those two.")
    gmail_token_file: str = Field(default="", description="A token.json to import once; it is never written.")
    gmail_token_user: str = Field(default="", description="The user whose grant it holds.")

    autumn_secret_key: SecretStr = Field(default=SecretStr(""), description="Autumn key that all clients share.")
    twilio_account_sid: str = Field(default="", description="Twilio account of Zero's text messages.")
    twilio_auth_token: SecretStr = Field(default=SecretStr(""), description="Its auth token.")
    twilio_phone_number: str = Field(default="", description="Its number, with country code.")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all environment variables that are read."""
        return tuple(name.upper() for name in cls.model_fields)


def read_values(env_file: Path | None = None, process: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that are set: those of the process, over those of ``env_file`` (a missing file holds none).

    Values of the file are taken as they stand: ``$`` and ``${...}`` stay what they are, a password may hold them.

    Args:
        env_file: a ``.env`` file; None reads none.
        process: the process's environment; None takes ``os.environ``.

    Returns:
        Variable to text, known and unknown ones, without empty ones.

    Raises:
        BadSettings: the file cannot be read.
    """
    found: dict[str, str | None] = {}
    if env_file and env_file.is_file():
        try:
            found = dotenv_values(env_file, interpolate=False, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            raise BadSettings(
                [f"{env_file} cannot be read as UTF-8 text; correct its rights or its encoding."]
            ) from None
    values = {name: value for name, value in found.items() if value and value.strip()}
    known = Environment.names()
    outside = os.environ if process is None else process
    values |= {name: outside[name] for name in known if outside.get(name, "").strip()}
    return values


def unreadable(env_file: Path) -> list[str]:
    """A sentence for each line of ``env_file`` that is none of a ``.env`` file; a missing file has none.

    python-dotenv leaves such lines out and warns each time that anybody reads the file, which Prefect does often: its
    logger is silenced (``deployments/__init__.py``). The lines are not shown, they may hold a password.
    """
    if not env_file.is_file():
        return []
    with env_file.open(encoding="utf-8-sig", errors="replace") as stream:
        wrong = [binding.original for binding in parse_stream(stream) if binding.error]
    # A statement begins with the empty lines before it.
    lines = [one.line + one.string[: len(one.string) - len(one.string.lstrip())].count("\n") for one in wrong]
    return [f"{env_file}, line {line}, cannot be read; write NAME=value, and close every quote." for line in lines]


def read_environment(values: Mapping[str, str]) -> Environment:
    """The settings in ``values`` (variable to text).

    Raises:
        BadSettings: values that are no numbers, no truth values or out of bounds; one sentence each, by name.
    """
    environment, wrong = read_what_can_be(values)
    if wrong:
        raise BadSettings(wrong)
    return environment


def read_what_can_be(values: Mapping[str, str]) -> tuple[Environment, list[str]]:
    """The settings in ``values`` that can be read, and a sentence for each that cannot.

    What cannot be read counts as not set, so that the rest can be judged along with it.
    """
    known = {name: values[name].strip() for name in Environment.names() if values.get(name, "").strip()}
    try:
        return Environment.model_validate(known), []
    except ValidationError as failed:
        errors: list[dict[str, Any]] = [dict(error) for error in failed.errors(include_url=False)]
    wrong = [_sentence(error, known) for error in errors]
    refused = {str(error["loc"][0]) for error in errors}
    rest = {name: value for name, value in known.items() if name not in refused}
    if "EMAIL_BACKUP_ENABLED" in refused:
        # Not set would mean True, and ask for a recipient that perhaps nobody needs.
        rest["EMAIL_BACKUP_ENABLED"] = "False"
    return Environment.model_validate(rest), wrong


def _sentence(error: dict[str, Any], values: Mapping[str, str]) -> str:
    """One refusal by pydantic in our words. Only numbers, truth values and lengths are refused here: no secret is shown."""
    name = str(error["loc"][0])
    shown = values[name] if len(values[name]) <= 40 else values[name][:37] + "..."
    limits = error.get("ctx", {})
    match error["type"]:
        case "bool_parsing":
            return f"{name} is {shown!r}; write True or False."
        case "int_parsing" | "int_from_float":
            return f"{name} is {shown!r}; write a whole number."
        case "greater_than_equal":
            return f"{name} is {shown}; write {limits['ge']} or more."
        case "less_than_equal":
            return f"{name} is {shown}; write {limits['le']} or less."
        case "string_too_long":
            return f"{name} is {len(values[name])} characters long; write at most {limits['max_length']}."
        case other:
            return f"{name} is refused ({other}); see docs/configuration.md."


def exposed(env_file: Path) -> list[str]:
    """A sentence if others than its owner can read ``env_file``."""
    if env_file.is_file() and env_file.stat().st_mode & 0o077:
        return [f"{env_file} can be read by other users of this machine; run `chmod 600 {env_file}`."]
    return []


def misspelt(values: Mapping[str, str]) -> list[str]:
    """A sentence for each variable in ``values`` that is nearly one of ours.

    >>> misspelt({"EMAIL_HOST_PASWORD": "x", "DEBUG": "1"})
    ['EMAIL_HOST_PASWORD is not read; did you mean EMAIL_HOST_PASSWORD?']
    """
    known = Environment.names()
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.9) for name in values if name not in known}
    return [f"{name} is not read; did you mean {found[0]}?" for name, found in near.items() if found]

"""What the EMAIL_* settings mean together. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from deployments.bootstrap.environment import Environment
from deployments.bootstrap.refusals import Refusals
from tasks.backups import encryption, providers
from tasks.backups.providers import Provider
from tasks.errors import InvalidInput
from tasks.registry.names import require_email

Encryption = Literal["SSL", "STARTTLS", "INSECURE"]
_FROM = re.compile(r"[^<>]*<(?P<inside>[^<>]+)>|(?P<bare>[^<>\s]+)")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?")  # with letters of any script
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class MailServer:
    """How to reach the SMTP server."""

    host: str
    port: int
    encryption: Encryption
    username: str
    warnings: tuple[str, ...]


def mail_server(environment: Environment) -> MailServer | None:
    """The SMTP server of EMAIL_HOST, else of EMAIL_PROVIDER; None when neither is set.

    SSL with EMAIL_USE_SSL or on port 465; else STARTTLS, unless EMAIL_USE_TLS says False; the provider's own when none of
    these is set.

    Raises:
        BadSettings: no host name, no known provider, both EMAIL_USE_TLS and EMAIL_USE_SSL, half a login, or all of that.
    """
    refusals = Refusals()
    named = environment.email_provider
    provider = refusals.attempt(providers.preset, named) if named else None
    host, user = environment.email_host or (provider.host if provider else ""), environment.email_host_user
    password = bool(environment.email_host_password.get_secret_value())
    if not host:
        refusals.settle()
        return None
    if not _HOST.fullmatch(host) and not _is_address(host):
        refusals.refuse(
            f"EMAIL_HOST {host[:80]!r} is no host name", "write it like smtp.example.org; its port goes into EMAIL_PORT"
        )
    if environment.email_use_tls and environment.email_use_ssl:
        refusals.refuse(
            "EMAIL_USE_TLS and EMAIL_USE_SSL are both True",
            "keep EMAIL_USE_TLS for port 587, or EMAIL_USE_SSL for port 465",
        )
    if bool(user) != password:
        there, missing = ("EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD")[:: 1 if user else -1]
        refusals.refuse(f"{there} is set, but {missing} is empty", "set both, or none for a server without login")
    refusals.settle()
    if provider is not None and host != provider.host:
        provider = None  # what is written out counts
    encryption, port = _how(environment, provider)
    return MailServer(host, port, encryption, user, tuple(_warnings(environment, host, encryption, port)))


def _how(environment: Environment, provider: Provider | None) -> tuple[Encryption, int]:
    """Encryption and port, by what is set and by the provider."""
    said = (environment.email_port, environment.email_use_tls, environment.email_use_ssl)
    if provider is not None and said == (None, None, None):
        return provider.security, provider.port
    encryption: Encryption = "STARTTLS"
    if environment.email_use_ssl or environment.email_port == 465:
        encryption = "SSL"
    elif environment.email_use_tls is False:
        encryption = "INSECURE"
    return encryption, environment.email_port or {"SSL": 465, "STARTTLS": 587, "INSECURE": 25}[encryption]


def age_recipients(environment: Environment) -> list[str]:
    """The public keys of BACKUP_AGE_RECIPIENTS.

    Raises:
        InvalidInput: one of them is none, or a secret one; it is not repeated.
    """
    wanted = [" ".join(part.split()) for part in environment.backup_age_recipients.split(",")]
    if environment.backup_age_recipients:
        encryption.keys(wanted)
    return list(dict.fromkeys(part for part in wanted if part))


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _warnings(environment: Environment, host: str, encryption: Encryption, port: int) -> list[str]:
    user = environment.email_host_user
    found = []
    if environment.email_provider and environment.email_host and not _same(environment):
        found.append(f"EMAIL_PROVIDER {environment.email_provider} is not used, because EMAIL_HOST names {host}.")
    if encryption == "INSECURE" and host not in LOOPBACK:
        what = "mails, the backups in them and your password" if user else "mails and the backups in them"
        found.append(f"EMAIL_USE_TLS is False: {what} go to {host} unencrypted; set it to True if the server can.")
    if encryption == "SSL" and environment.email_use_tls:
        found.append(
            "EMAIL_PORT 465 means SSL: EMAIL_USE_TLS (STARTTLS) is not used; write EMAIL_USE_SSL=True instead."
        )
    if encryption == "SSL" and port == 587:
        found.append("EMAIL_PORT 587 is for STARTTLS as a rule: EMAIL_USE_SSL with it may fail; write 465.")
    if providers.personal_outlook(host, user):
        found.append(f"EMAIL_HOST {host}: {providers.NO_PASSWORDS}; {providers.ELSEWHERE}.")
    return found


def _same(environment: Environment) -> bool:
    return providers.preset(environment.email_provider).host == environment.email_host


def recipients(environment: Environment) -> list[str]:
    """The addresses of EMAIL_BACKUP_RECIPIENT.

    Raises:
        InvalidInput: one of them is none.
    """
    wanted = [part.strip() for part in environment.email_backup_recipient.split(",")]
    return list(dict.fromkeys(_address("EMAIL_BACKUP_RECIPIENT", part) for part in wanted if part))


def sender(environment: Environment) -> str:
    """What stands in From: DEFAULT_FROM_EMAIL, else EMAIL_HOST_USER when that is an address, else an empty text.

    Raises:
        InvalidInput: DEFAULT_FROM_EMAIL is neither `a@b` nor `Name <a@b>`.
    """
    given = environment.default_from_email
    if given:
        read = _FROM.fullmatch(given)
        if not read or not given.isprintable():
            raise InvalidInput(
                f"DEFAULT_FROM_EMAIL {given[:80]!r} is no address", "write it like Backups <ops@example.org>"
            )
        _address("DEFAULT_FROM_EMAIL", read["inside"] or read["bare"])
        return given
    try:
        return require_email(environment.email_host_user)
    except InvalidInput:
        return ""


def _address(variable: str, text: str) -> str:
    try:
        return require_email(text)
    except InvalidInput as refused:
        raise InvalidInput(f"{variable}: {refused.what}", refused.cure) from None


def mailing(environment: Environment) -> bool | None:
    """Whether backups are mailed; None when nothing about mail is set (the policy's own default then stands).

    EMAIL_BACKUP_ENABLED counts as True when it is not set and either a server or a recipient is.

    Raises:
        InvalidInput: they shall be mailed, but to nobody, or from nobody.
    """
    enabled = environment.email_backup_enabled
    server = environment.email_host or environment.email_provider
    if enabled is None and not server and not environment.email_backup_recipient:
        return None
    if enabled is False:
        return False
    if not environment.email_backup_recipient.strip(" ,"):
        said = "EMAIL_BACKUP_ENABLED is True" if enabled else "EMAIL_BACKUP_ENABLED is True unless it is set"
        raise InvalidInput(
            f"{said}, but EMAIL_BACKUP_RECIPIENT is empty",
            "name who gets the backups, or set EMAIL_BACKUP_ENABLED=False",
        )
    if server and not sender(environment):
        raise InvalidInput(
            "DEFAULT_FROM_EMAIL is empty and EMAIL_HOST_USER is no e-mail address, so mails would have no sender",
            "set DEFAULT_FROM_EMAIL, like Backups <ops@example.org>",
        )
    return True

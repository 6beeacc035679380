"""The mail providers that operators have: how they are reached, what they take, and how to get a password there. Pure."""

from dataclasses import dataclass
from typing import Literal

from tasks.errors import InvalidInput, Refused

Security = Literal["SSL", "STARTTLS"]
NO_PASSWORDS = (
    "Microsoft refuses passwords of personal Outlook accounts since September 2024, app passwords too (535 5.7.139)"
)
ELSEWHERE = "send through another provider, like Gmail; Outlook can still receive"


@dataclass(frozen=True)
class Provider:
    """A provider's submission server.

    Args:
        name: as EMAIL_PROVIDER calls it.
        spoken: as people call it.
        security: what belongs to ``port``.
        limit: bytes of the largest mail on the wire, for a server of theirs that does not announce it.
        hosts: ends of the names of their servers.
        domains: of the mailboxes that they give to persons.
        password: what to do for a password; an imperative.
    """

    name: str
    spoken: str
    host: str
    port: int
    security: Security
    limit: int
    hosts: tuple[str, ...]
    domains: tuple[str, ...]
    password: str


KNOWN = (
    Provider(
        "gmail", "Gmail", "smtp.gmail.com", 587, "STARTTLS",
        35_882_577,  # what it announces: 25 MiB in base64
        ("gmail.com", "googlemail.com", "google.com"), ("gmail.com", "googlemail.com"),
        "make an app password at https://myaccount.google.com/apppasswords (two-step verification must be on)",
    ),
    Provider(
        "yandex", "Yandex", "smtp.yandex.ru", 465, "SSL",
        42_000_000,  # the least of what its servers announce
        ("yandex.ru", "yandex.com", "yandex.net", "ya.ru"), ("yandex.ru", "yandex.com", "ya.ru"),
        "switch on mail clients at https://mail.yandex.com/#setup/client and make an app password at "
        "https://id.yandex.com/security/app-passwords",
    ),
    Provider(
        "mailru", "Mail.ru", "smtp.mail.ru", 465, "SSL",
        73_400_320,  # what it announces
        ("mail.ru",), ("mail.ru", "list.ru", "bk.ru", "inbox.ru", "internet.ru"),
        "make a password for external applications at https://account.mail.ru/user/2-step-auth/passwords",
    ),
    Provider(
        "microsoft365", "Microsoft 365", "smtp.office365.com", 587, "STARTTLS",
        20 * 2**20 * 78 // 57,  # its pages: 20 MB
        ("office365.com", "outlook.com"), (),
        "let the administrator switch on authenticated SMTP for the mailbox, or use another provider",
    ),
)  # fmt: skip
_PERSONAL = ("outlook", "hotmail", "live", "msn")
_PERSONAL_HOSTS = ("smtp-mail.outlook.com", "smtp.live.com", "smtp.hotmail.com")


def preset(name: str) -> Provider:
    """The provider that EMAIL_PROVIDER names.

    Raises:
        InvalidInput: it is Outlook for persons, or none that is known.

    >>> preset("Mail.ru").host
    'smtp.mail.ru'
    >>> preset("gmial")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: EMAIL_PROVIDER 'gmial' is not known; write gmail, yandex, mailru or microsoft365, or leave it empty and fill EMAIL_HOST.
    """
    plain = name.strip().lower().replace(".", "").replace(" ", "")
    if plain in _PERSONAL:
        raise InvalidInput(f"EMAIL_PROVIDER {name[:40]!r} cannot send: {NO_PASSWORDS}", ELSEWHERE)
    for provider in KNOWN:
        if provider.name == plain:
            return provider
    raise InvalidInput(
        f"EMAIL_PROVIDER {name[:40]!r} is not known",
        "write gmail, yandex, mailru or microsoft365, or leave it empty and fill EMAIL_HOST",
    )


def by_host(host: str) -> Provider | None:
    """Whose server ``host`` is, as far as it is known.

    >>> by_host("smtp.yandex.com").spoken, by_host("smtp.example.org")
    ('Yandex', None)
    """
    plain = host.lower().rstrip(".")
    return next((one for one in KNOWN if any(plain == end or plain.endswith("." + end) for end in one.hosts)), None)


def limit(announced: int, host: str) -> int:
    """Bytes of the largest mail: what the server announced, else what its provider is known to take; 0: not known.

    >>> limit(1000, "smtp.gmail.com"), limit(0, "smtp.gmail.com"), limit(0, "mx.example.org")
    (1000, 35882577, 0)
    """
    provider = by_host(host)
    return announced or (provider.limit if provider else 0)


def personal_outlook(host: str, username: str) -> bool:
    """Whether it is one of Microsoft's accounts for persons, which refuse every password.

    >>> personal_outlook("smtp-mail.outlook.com", ""), personal_outlook("smtp.office365.com", "me@hotmail.co.uk")
    (True, True)
    >>> personal_outlook("smtp.office365.com", "me@live.example.org"), personal_outlook("mx.example.org", "me@msn.com")
    (False, False)
    """
    if host.lower().rstrip(".") in _PERSONAL_HOSTS:
        return True
    provider = by_host(host)
    return provider is not None and provider.name == "microsoft365" and _personal(username)


def _personal(username: str) -> bool:
    """Whether a mailbox is Microsoft's for persons: ``hotmail.com``, ``outlook.de``, ``live.co.uk``."""
    first, *rest = username.rpartition("@")[2].lower().split(".")
    short = len(rest) == 1 or (len(rest) == 2 and rest[0] in ("co", "com") and len(rest[1]) == 2)
    return first in _PERSONAL and short


def require_passwords(host: str, username: str) -> None:
    """Return if an account of ``host`` may have a password at all.

    Raises:
        Refused: it is a personal Outlook account; nobody has to connect to know that.
    """
    if personal_outlook(host, username):
        whose = f"{username} at {host}" if username else host
        raise Refused(f"{whose} cannot send: {NO_PASSWORDS}", ELSEWHERE)


def password_advice(host: str, username: str) -> str:
    """What to do about a refused password, by provider.

    >>> password_advice("smtp.gmail.com", "me@example.org")[:40]
    'make an app password at https://myaccoun'
    >>> password_advice("mx.example.org", "me@example.org")
    'correct user and password in the block smtp'
    """
    domain = username.rpartition("@")[2].lower()
    if personal_outlook(host, username):
        return f"{ELSEWHERE} ({NO_PASSWORDS})"
    provider = by_host(host) or next((one for one in KNOWN if domain in one.domains), None)
    return provider.password if provider else "correct user and password in the block smtp"

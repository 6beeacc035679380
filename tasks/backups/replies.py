"""What a mail server's answer means, in an operator's words. Pure; codes of RFC 5321 and RFC 3463, texts as the big four send them."""

import base64
import smtplib
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.backups.providers import password_advice
from tasks.errors import FleetError, NotConfigured, Refused, Unreachable

AGAIN = "wait and run it again"
RECIPIENTS = "EMAIL_BACKUP_RECIPIENT (Recipients in the block backup-policy)"
"""Where a backup's recipients come from; a test mail's is given to its run."""


@dataclass(frozen=True)
class Where:
    """Which server, as whom and how, for the sentences."""

    host: str
    port: int
    security: str
    username: str = ""
    hidden: tuple[str, ...] = field(default=(), repr=False)
    """What is never shown, though a server may repeat what it was sent: the password in each form that goes over the line."""

    @property
    def server(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


class TooBig(Refused):
    """The server does not take a mail of this size; the report without the file may pass."""


class Undecided(Unreachable):
    """The server had the whole mail and went away before it said so: trying again could deliver it twice."""


def spellings(username: str, password: str) -> tuple[str, ...]:
    """The password as AUTH PLAIN and LOGIN send it, and as it is; a server may repeat that in its reply.

    >>> spellings("u", "secret")
    ('dQB1AHNlY3JldA', 'AHUAc2VjcmV0', 'c2VjcmV0', 'secret')
    """
    if not password:
        return ()
    sent = (f"\0{username}\0{password}", f"{username}\0{username}\0{password}", password)
    coded = (base64.b64encode(one.encode()).decode().rstrip("=") for one in sent)
    return tuple(dict.fromkeys([*sorted(coded, key=len, reverse=True), password]))


def said(code: int, text: bytes | str, hidden: Iterable[str] = ()) -> str:
    """A reply on one line, at most 200 characters, without what is ``hidden``.

    >>> said(550, b"5.1.1 no\\nsuch user")
    '550 5.1.1 no such user'
    >>> said(535, b"bad AUTH PLAIN AHUAc2VjcmV0", spellings("u", "secret"))
    '535 bad AUTH PLAIN ***'
    """
    plain = text.decode(errors="replace") if isinstance(text, bytes) else text
    for one in hidden:
        plain = plain.replace(one, "***")
    return f"{code} {' '.join(plain.split())}"[:200]


def refusal(stage: str, code: int, text: bytes | str, where: Where, whom: str = "") -> FleetError:
    """The error for the server's reply ``code`` at ``stage``.

    Args:
        stage: greeting, tls, login, sender, recipient or message.
        code: the reply's three digits.
        text: its text.
        where: the server.
        whom: the address that was refused, at sender and recipient.

    >>> w = Where("mx", 587, "STARTTLS", "u")
    >>> print(refusal("login", 535, b"5.7.8 bad", w))
    SMTP authentication failed: mx:587 refused the password of u (535 5.7.8 bad); correct user and password in the block smtp.
    >>> print(refusal("connect", -1, b"/1.1 400 Bad Request", w))
    mx:587 gave an answer that is no SMTP at the step connect; correct EMAIL_HOST and EMAIL_PORT.
    >>> type(refusal("recipient", 451, b"greylisted", w, "a@b.c")).__name__
    'Unreachable'
    """
    reply = said(code, text, where.hidden)
    low = reply.lower()
    if code < 0:  # what smtplib makes of a line without a number
        return _no_smtp(stage, where)
    if code in (530, 534, 535, 538) or (stage == "login" and 500 <= code < 600):
        if stage != "login" and code == 530 and "starttls" in low:
            return Refused(
                f"{where.server} wants TLS first ({reply})", "set the SMTP type STARTTLS (port 587) in the block smtp"
            )
        if stage != "login":
            return Refused(f"{where.server} wants a login first ({reply})", "fill user and password in the block smtp")
        return Refused(
            f"SMTP authentication failed: {where.server} refused the password of {where.username} ({reply})",
            password_advice(where.host, where.username),
        )
    if too_big(code, low):
        return TooBig(f"the mail is too big for {where.server} ({reply})", "fetch the file from the machine itself")
    if rate_limited(code, low):
        return Unreachable(
            f"{where.server} limits how much may be sent ({reply})", "wait an hour or a day as it says and run it again"
        )
    if stage == "recipient":
        if code < 500:
            return Unreachable(
                f"{where.server} does not take mail for {whom} yet ({reply})", f"{AGAIN}; it is greylisting or busy"
            )
        return Refused(
            f"recipient {whom} was refused by {where.server} ({reply})",
            f"correct {RECIPIENTS}, or ask who runs that mailbox",
        )
    if stage == "sender" and code >= 500:
        return Refused(
            f"{where.server} does not take mail from {whom} ({reply})",
            "set DEFAULT_FROM_EMAIL (From in the block backup-policy) to an address of the account in the block smtp",
        )
    if code < 500:
        return Unreachable(f"{where.server} could not take the mail now ({reply})", AGAIN)
    return Refused(
        f"{where.server} refused the mail at the step {stage} ({reply})", "read its reply, mend it and run again"
    )


def _no_smtp(stage: str, where: Where) -> Refused:
    return Refused(
        f"{where.server} gave an answer that is no SMTP at the step {stage}", "correct EMAIL_HOST and EMAIL_PORT"
    )


def too_big(code: int, low: str) -> bool:
    """Whether a reply speaks of the message's size, and not of a full mailbox.

    >>> too_big(552, "552 5.3.4 message too big"), too_big(552, "552 5.2.2 mailbox full"), too_big(550, "550 no such user")
    (True, False, False)
    """
    if any(sign in low for sign in ("5.3.4", "5.2.3")):
        return True
    full = any(sign in low for sign in ("5.2.2", "quota", "full", "out of storage"))
    return code == 552 and not full


def rate_limited(code: int, low: str) -> bool:
    """Whether a reply speaks of too many mails.

    >>> rate_limited(450, "450 4.2.1 rate limit"), rate_limited(550, "550 5.4.5 daily sending quota exceeded"), rate_limited(451, "451 greylisted")
    (True, True, False)
    """
    return any(
        sign in low
        for sign in (
            "4.7.28",
            "5.4.5",
            "rate limit",
            "ratelimit",
            "too many messages",
            "sending quota",
            "sending limit",
            "too many mails",
        )
    )


def failure(stage: str, error: Exception, where: Where, seconds: float) -> FleetError:
    """The error for an exception of sockets, ssl or smtplib at ``stage``.

    Args:
        stage: as in ``refusal``, or resolve or connect.
        error: what was raised.
        where: the server.
        seconds: the deadline that a timeout ran into.
    """
    if isinstance(error, FleetError):
        return error
    if isinstance(error, socket.gaierror):
        return Unreachable(
            f"there is no host {where.host} (name not found)", "correct EMAIL_HOST (SMTP Server in the block smtp)"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            f"the certificate of {where.server} was not accepted ({error.verify_message})",
            "write EMAIL_HOST as in its certificate, or trust its CA on this machine (SSL_CERT_FILE)",
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Unreachable(f"{where.server} cut the connection at the step {stage}", AGAIN)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "TLS failed"
        if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return NotConfigured(
                f"{where.server} does not speak TLS from the first byte (WRONG_VERSION_NUMBER)",
                "set the SMTP type STARTTLS (port 587) in the block smtp, or port 465 for SSL",
            )
        return Refused(f"{where.server} and this machine agree on no TLS ({reason})", "upgrade that server's TLS")
    # smtplib turns a timeout while it reads into a disconnection, and keeps its text.
    if isinstance(error, TimeoutError) or (
        isinstance(error, smtplib.SMTPServerDisconnected) and "timed out" in str(error)
    ):
        return Unreachable(
            f"{where.server} did not answer within {seconds:g} s at the step {stage}"
            + (" (a server that waits for TLS from the first byte is silent like this)" if stage == "connect" else ""),
            "see whether a firewall is in between and the port is right (587 STARTTLS, 465 SSL), and run again",
        )
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(
            f"connection refused by {where.server}",
            "correct EMAIL_HOST and EMAIL_PORT (the block smtp), or start the server",
        )
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return NotConfigured(
            f"{where.server} offers no {'STARTTLS' if stage == 'tls' else 'login'}",
            "correct the SMTP type and port in the block smtp"
            if stage == "tls"
            else "set STARTTLS, or leave the user empty",
        )
    if isinstance(error, smtplib.SMTPResponseException):
        return refusal(stage, error.smtp_code, error.smtp_error, where)
    if isinstance(error, smtplib.SMTPServerDisconnected | OSError):
        return Unreachable(f"{where.server} cut the connection at the step {stage}", AGAIN)
    if isinstance(error, smtplib.SMTPException):
        return _no_smtp(stage, where)
    raise error


def worth_again(error: Exception) -> bool:
    """Whether trying again soon may deliver: never after the server had the whole mail.

    >>> worth_again(Unreachable("a", "b")), worth_again(Undecided("a", "b")), worth_again(Refused("a", "b"))
    (True, False, False)
    """
    return isinstance(error, Unreachable) and not isinstance(error, Undecided)


def foremost(errors: Iterable[FleetError]) -> FleetError:
    """The one of several refusals that says what to do: too big first, then what waiting mends.

    >>> foremost([Refused("a", "b"), Unreachable("c", "d")]).what
    'c'
    """
    return min(errors, key=lambda error: (not isinstance(error, TooBig), not worth_again(error)))

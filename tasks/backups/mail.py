"""Sending a mail with a file of any size: streamed from the disk, with a deadline on every socket, verified TLS.

smtplib speaks the protocol; it is given the DATA piece by piece, because its own sender wants the whole mail in memory.
"""

import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from tasks.backups import providers, replies
from tasks.backups.archive import OpenFile
from tasks.backups.message import CHUNK, Letter, encoded
from tasks.backups.source import mib
from tasks.errors import FleetError, NotConfigured, Unreachable

T = TypeVar("T")
SOCKET_SECONDS = 30.0
"""One answer of the server may take so long; after DATA it may scan the mail, so there ten times as long."""
_SPACED = re.compile(r"\s*[a-z]{4}([\s\xa0]+[a-z]{4}){3}\s*")


@dataclass(frozen=True)
class Account:
    """An SMTP account; a plain copy of prefect-email's EmailServerCredentials.

    Args:
        security: SSL from the first byte (465), STARTTLS (587), or PLAIN (no TLS; only for a server of your own).
        ca_file: PEM file of the certificates to trust; None: the system's (or SSL_CERT_FILE).
    """

    host: str
    port: int
    security: Literal["SSL", "STARTTLS", "PLAIN"]
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str | None = None

    @property
    def where(self) -> replies.Where:
        """The server, for the sentences."""
        hidden = replies.spellings(self.username, app_password(self.password))
        return replies.Where(self.host, self.port, self.security, self.username, hidden)


def app_password(value: str) -> str:
    """A password as the server wants it: Google shows its app passwords in groups of four, which are not part of it.

    >>> app_password("abcd efgh ijkl mnop"), app_password("a phrase of mine")
    ('abcdefghijklmnop', 'a phrase of mine')
    """
    return re.sub(r"[\s\xa0]+", "", value) if _SPACED.fullmatch(value) else value


@dataclass(frozen=True)
class Step:
    """One step of talking to a mail server that was seen to work."""

    name: str
    seen: str


class Session:
    """A conversation with a mail server; each step's failure becomes an error that names the step."""

    def __init__(self, account: Account, seconds: float, told: Callable[[Step], None]) -> None:
        self.account, self.where = account, account.where
        self._seconds, self._told = seconds, told
        self._smtp: smtplib.SMTP
        self.stage = "resolve"

    def open(self) -> None:
        """Resolve, connect, TLS, login; raises what ``replies`` makes of a failure."""
        account = self.account
        context = None if account.security == "PLAIN" else ssl.create_default_context(cafile=account.ca_file)
        found = socket.getaddrinfo(account.host, account.port, type=socket.SOCK_STREAM)
        addresses = ", ".join(dict.fromkeys(str(one[4][0]) for one in found))
        self._told(Step("resolve", f"{account.host} is {addresses}"))
        self.stage = "connect"
        name = socket.gethostname()
        name = name if name.isascii() else "localhost"  # given, because looking it up may take seconds
        if account.security == "SSL":
            assert context is not None
            try:
                self._smtp = smtplib.SMTP_SSL(account.host, account.port, name, timeout=self._seconds, context=context)
            except ssl.SSLError:
                self._told(Step("connect", f"{self.where.server} answered"))
                self.stage = "tls"
                raise
        else:
            self._smtp = smtplib.SMTP(account.host, account.port, name, timeout=self._seconds)
        if (
            self._smtp.sock is not None
        ):  # the last dot goes at once, and not when the server has acknowledged all before it
            self._smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._told(Step("connect", f"{self.where.server} answered"))
        self.stage = "tls"
        self._smtp.ehlo_or_helo_if_needed()
        if account.security == "STARTTLS":
            code, text = self._smtp.starttls(context=context)
            if code != 220:
                raise replies.refusal("tls", code, text, self.where)
            self._smtp.ehlo()
        if isinstance(self._smtp.sock, ssl.SSLSocket):
            self._told(Step("tls", f"{self._smtp.sock.version()}, certificate verified"))
        else:
            self._told(Step("tls", "none: everything goes in the clear"))
        self.stage = "login"
        if account.username:
            self._login()
            self._told(Step("login", f"as {account.username}"))
        else:
            self._told(Step("login", "none (no user in the block smtp)"))

    def _login(self) -> None:
        password = app_password(self.account.password)
        if not (self.account.username.isascii() and password.isascii()):
            # smtplib would raise an error that holds the password.
            raise NotConfigured("user or password in the block smtp has letters outside ASCII", "set another password")
        try:
            self._smtp.login(self.account.username, password)
        except smtplib.SMTPAuthenticationError as error:
            raise replies.refusal("login", error.smtp_code, error.smtp_error, self.where) from None

    @property
    def limit(self) -> int:
        """The largest mail that the server announced to take, in bytes; 0 when it does not say."""
        announced = self._smtp.esmtp_features.get("size", "")
        return int(announced) if announced.isdigit() else 0

    def envelope(self, sender: str, recipients: list[str], size: int) -> tuple[list[str], dict[str, FleetError]]:
        """Announce sender, size and recipients; who was accepted, and why the others were not.

        Raises:
            TooBig: by the server's announcement or answer.
            Refused, Unreachable: the sender was refused.
        """
        self.stage = "sender"
        if self.limit and size > self.limit:
            raise replies.TooBig(
                f"the mail has {size} bytes and {self.where.server} takes {self.limit}",
                "fetch the file from the machine itself",
            )
        options = [f"SIZE={size}"] if "size" in self._smtp.esmtp_features else []
        code, text = self._smtp.mail(sender, options)
        if code != 250:
            raise replies.refusal("sender", code, text, self.where, sender)
        self._told(Step("sender", f"{sender} accepted"))
        self.stage = "recipient"
        accepted, refused = [], {}
        for recipient in recipients:
            code, text = self._smtp.rcpt(recipient)
            if code in (250, 251):
                accepted.append(recipient)
            else:
                refused[recipient] = replies.refusal("recipient", code, text, self.where, recipient)
        if accepted:
            self._told(Step("recipient", f"{', '.join(accepted)} accepted"))
        return accepted, refused

    def data(
        self, letter: Letter, file: OpenFile | None, deadline: float, handing_over: Callable[[], None] = lambda: None
    ) -> str:
        """Stream the mail; the server's words of acceptance.

        Args:
            letter: the mail.
            file: what is streamed into it.
            deadline: of the transfer, by the monotonic clock.
            handing_over: is called when all but the last dot was sent. Without it a server throws the mail away, with it
                the mail may be delivered: who is killed from here on does not know.

        Raises:
            Undecided: it had the whole mail and did not answer.
            TooBig, Refused, Unreachable: it did not take it.
        """
        self.stage = "message"
        code, text = self._smtp.docmd("DATA")
        if code != 354:
            raise replies.refusal("message", code, text, self.where)
        sock = self._smtp.sock
        assert sock is not None
        for piece in _pieces(letter, file):
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the mail of {mib(letter.size)} was not with {self.where.server} in time, the line is too slow for it",
                    replies.AGAIN,
                )
            sock.sendall(piece)
        handing_over()
        try:
            sock.settimeout(self._seconds * 10)
            sock.sendall(b".\r\n")
            code, text = self._smtp.getreply()
        except (OSError, smtplib.SMTPServerDisconnected):
            raise replies.Undecided(
                f"{self.where.server} went away after it had the whole mail, so it may or may not have been delivered",
                "look into the mailbox before sending it again",
            ) from None
        if code != 250:
            raise replies.refusal("message", code, text, self.where)
        reply = replies.said(code, text, self.where.hidden)
        self._told(Step("message", f"taken: {reply}"))
        return reply

    def close(self) -> None:
        """Say goodbye and let go; a server that is rude now changes nothing."""
        smtp = getattr(self, "_smtp", None)
        if smtp is not None:
            with suppress(OSError, smtplib.SMTPException):
                if smtp.sock is not None:
                    smtp.sock.settimeout(5)
                    smtp.quit()
            smtp.close()


def _pieces(letter: Letter, file: OpenFile | None) -> Iterator[bytes]:
    yield letter.head
    if file is not None:
        file.seek(letter.offset)
        left = letter.file_bytes
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise Unreachable("the backup's file became shorter while it was mailed", "run the backup again")
            left -= len(chunk)
            yield encoded(chunk)
    yield letter.tail


@contextmanager
def session(
    account: Account, seconds: float = SOCKET_SECONDS, told: Callable[[Step], None] = lambda step: None
) -> Iterator[Session]:
    """An open, logged-in session.

    Args:
        account: where and as whom.
        seconds: each answer of the server may take so long.
        told: is called with each step that worked.

    Raises:
        Refused: a personal Outlook account, without connecting.
        FleetError: whatever goes wrong in the ``with`` block, classified, with the step that it happened at.
    """
    providers.require_passwords(account.host, account.username)
    opened = Session(account, seconds, told)
    try:
        opened.open()
        yield opened
    except FleetError:
        raise
    except (OSError, smtplib.SMTPException) as error:
        raise replies.failure(opened.stage, error, account.where, seconds) from None
    finally:
        opened.close()


def limit(account: Account, seconds: float = SOCKET_SECONDS, told: Callable[[Step], None] = lambda step: None) -> int:
    """Bytes of the largest mail that the account's server takes, by its word or its provider's; 0: not known.

    It logs in for that, so that what is wrong with the account shows before anything is prepared.

    Raises:
        FleetError: as ``session``.
    """
    with session(account, seconds) as opened:
        most = providers.limit(opened.limit, account.host)
    words = f"takes mails up to {mib(most)}" if most else "does not say how large a mail may be"
    told(Step("limit", f"{account.where.server} {words}"))
    return most


@dataclass(frozen=True)
class Sent:
    """What a server took, and from whom it did not; with nobody accepted nothing was sent."""

    accepted: list[str]
    refused: dict[str, FleetError]
    reply: str
    limit: int = 0
    """Bytes of the largest mail that it takes; 0: not known."""


def offer(
    account: Account,
    sender: str,
    recipients: list[str],
    letter: Letter,
    file: OpenFile | None = None,
    seconds: float = SOCKET_SECONDS,
    total: float = 900.0,
    told: Callable[[Step], None] = lambda step: None,
    handing_over: Callable[[list[str]], None] = lambda accepted: None,
) -> Sent:
    """Send ``letter`` once, to those recipients whom the server accepts, be it nobody.

    Args:
        account: through which.
        sender: envelope sender.
        recipients: envelope recipients.
        letter: the mail.
        file: what is streamed into it; from ``letter.offset`` on as long as ``letter.file_bytes``.
        seconds: each answer of the server may take so long.
        total: the whole transfer may take so long.
        told: is called with each step that worked.
        handing_over: is called with whom the server accepted, just before it may deliver the mail.

    Raises:
        TooBig, Undecided, Refused, Unreachable, NotConfigured: classified by ``replies``.
    """
    deadline = time.monotonic() + total
    with session(account, seconds, told) as opened:
        accepted, refused = opened.envelope(sender, recipients, letter.size)
        if not accepted:
            return Sent([], refused, "")
        reply = opened.data(letter, file, deadline, lambda: handing_over(accepted))
        return Sent(accepted, refused, reply, providers.limit(opened.limit, account.host))


def send(
    account: Account,
    sender: str,
    recipients: list[str],
    letter: Letter,
    file: OpenFile | None = None,
    seconds: float = SOCKET_SECONDS,
    total: float = 900.0,
    told: Callable[[Step], None] = lambda step: None,
) -> Sent:
    """Send ``letter`` once, to one recipient at least; arguments as ``offer``'s.

    Raises:
        TooBig, Undecided, Refused, Unreachable, NotConfigured: classified by ``replies``; also when every recipient is refused.
    """
    sent = offer(account, sender, recipients, letter, file, seconds, total, told)
    if not sent.accepted:
        raise replies.foremost(sent.refused.values())
    return sent


def send_patiently(attempt: Callable[[], T], attempts: int = 3, wait: float = 5.0) -> T:
    """``attempt`` up to ``attempts`` times, with growing pauses from ``wait`` seconds, only where that may help."""
    import stamina

    for context in stamina.retry_context(
        on=replies.worth_again,
        attempts=attempts,
        timeout=None,
        wait_initial=wait,
        wait_max=wait * 8,
        wait_jitter=wait / 5,
    ):
        with context:
            return attempt()
    raise AssertionError("stamina ends with a result or an error")

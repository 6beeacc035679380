"""Post an event to an address, signed as the Standard Webhooks specification says, with patience where it helps.

The address may hold a token: sentences and logs name its host only.
"""

import asyncio
import base64
import binascii
import json
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

import httpx

from tasks.addresses import is_loopback
from tasks.clock import now
from tasks.errors import FleetError, InvalidInput, Refused, Unreachable

PREFIX = "whsec_"
_MAKE = "make one with `echo whsec_$(openssl rand -base64 32)` and give it to the receiver too"


@dataclass(frozen=True)
class Endpoint:
    """Where events go, and the key that signs them."""

    url: str = field(repr=False)
    key: bytes = field(repr=False)
    block: str
    """Of all that, for the sentences about it."""

    @property
    def host(self) -> str:
        """All of the address that may be shown."""
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True)
class Patience:
    """How long an endpoint is waited for; all in seconds but the first."""

    attempts: int = 5
    attempt: float = 10.0
    """For the whole of one attempt, from the name's look-up to the answer's head."""
    total: float = 60.0
    """No attempt begins later than that."""
    wait: float = 1.0
    """Before the second attempt; it doubles from there."""


def endpoint(url: str, key: str, block: str) -> Endpoint:
    """The endpoint that the block called ``block`` describes.

    Raises:
        InvalidInput: its URL or its key is none; neither is shown.
    """
    return Endpoint(
        require_url(url.strip(), f"the URL in the block {block}"),
        key_of(key, f"the signing key in the block {block}"),
        block,
    )


def require_url(url: str, name: str) -> str:
    """``url`` if events may be posted there: https, or http where they do not leave this machine.

    Args:
        name: what the URL is called, for the sentence.

    Raises:
        InvalidInput: it is none.

    >>> require_url("http://127.0.0.1:9000/hook", "BACKUP_WEBHOOK_URL")
    'http://127.0.0.1:9000/hook'
    >>> require_url("http://hooks.example.org/?token=x", "BACKUP_WEBHOOK_URL")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: BACKUP_WEBHOOK_URL is http, which anybody on the way can read; write https (http is for this machine's own loopback only).
    """
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in ("http", "https"):
        raise InvalidInput(f"{name} is no web address", "write it like https://hooks.example.org/backups")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InvalidInput(
            f"{name} is http, which anybody on the way can read",
            "write https (http is for this machine's own loopback only)",
        )
    return url


def _split(url: str) -> SplitResult | None:
    if any(ord(character) <= 32 or character == "\\" for character in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
        httpx.URL(url)  # what it cannot send to
    except (ValueError, httpx.InvalidURL):
        return None
    return parts


def key_of(text: str, name: str) -> bytes:
    """The bytes that ``text`` says: base64 after ``whsec_``, else the text itself.

    Args:
        name: what the key is called, for the sentence.

    Raises:
        InvalidInput: it is none, or too short to be one; it is not shown.

    >>> len(key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "the key"))
    24
    >>> key_of("whsec_short", "BACKUP_WEBHOOK_KEY")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: BACKUP_WEBHOOK_KEY begins with whsec_, and what follows is not 24 to 64 bytes in base64; make one with `echo whsec_$(openssl rand -base64 32)` and give it to the receiver too.
    """
    text = text.strip()
    if text.startswith(PREFIX):
        try:
            coded = text.removeprefix(PREFIX).rstrip("=")
            key = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not 24 <= len(key) <= 64:
            raise InvalidInput(f"{name} begins with whsec_, and what follows is not 24 to 64 bytes in base64", _MAKE)
        return key
    if text.startswith(("whsk_", "whpk_")):
        raise InvalidInput(f"{name} is one of a pair of keys, and events are signed with a shared one", _MAKE)
    if not re.fullmatch(r"[\x21-\x7e]{24,200}", text):
        raise InvalidInput(
            f"{name} is neither whsec_ and base64 nor a text of 24 to 200 visible ASCII characters without spaces",
            _MAKE,
        )
    return text.encode()


class _Again(Exception):
    """Carries what an attempt met to the retry's schedule; no values of ours in its text."""

    def __init__(self, cause: FleetError, wait: float | None = None) -> None:
        super().__init__(type(cause).__name__)
        self.cause, self.wait = cause, wait


async def post(to: Endpoint, event: Mapping[str, Any], patience: Patience | None = None) -> int:
    """Post ``event`` until it is taken; the number of attempts that took.

    Tried again are network faults, 408, 429 and 5xx, after the pause that a Retry-After asks for. Each attempt has the same
    ``webhook-id``, by which a receiver knows an event that reached it twice, and a signature of its own moment. Redirects
    are not followed: a body and its token go nowhere but to the address in the block.

    Raises:
        Refused: the endpoint does not want it.
        Unreachable: no answer, or "later", until patience ended.
    """
    import stamina

    given = patience or Patience()
    ends, attempts = time.monotonic() + given.total, 0

    def schedule(error: Exception) -> bool | float:
        if not isinstance(error, _Again):
            return False
        left = ends - time.monotonic()
        if error.wait is None:
            return left > 0
        return error.wait + 0.1 if error.wait < left else False

    identity, body = f"msg_{uuid4().hex}", json.dumps(event, separators=(",", ":"))
    # A proxy of the environment is for other machines.
    host = f"[{to.host}]" if ":" in to.host else to.host
    around = {f"all://{host}": None} if is_loopback(to.host) else None
    try:
        with _address_unlogged():
            async with httpx.AsyncClient(follow_redirects=False, mounts=around) as http:
                async for attempt in stamina.retry_context(
                    on=schedule,
                    attempts=given.attempts,
                    timeout=None,
                    wait_initial=given.wait,
                    wait_max=given.wait * 15,
                    wait_jitter=given.wait,
                ):
                    with attempt:
                        attempts += 1
                        await _once(http, to, identity, body, given.attempt)
    except _Again as again:
        tried = f"{again.cause.what} (tried {attempts} times)" if attempts > 1 else again.cause.what
        raise type(again.cause)(tried, again.cause.cure) from None
    return attempts


@contextmanager
def _address_unlogged() -> Iterator[None]:
    """httpx logs each request's address at INFO: not while the address may hold a token."""

    def without(record: logging.LogRecord) -> bool:
        return not any(isinstance(one, httpx.URL) for one in record.args or ())

    logger = logging.getLogger("httpx")
    logger.addFilter(without)
    try:
        yield
    finally:
        logger.removeFilter(without)


async def _once(http: httpx.AsyncClient, to: Endpoint, identity: str, body: str, seconds: float) -> None:
    from standardwebhooks.webhooks import Webhook

    moment = now()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "zero-fleet",
        "webhook-id": identity,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(to.key).sign(identity, moment, body),
    }
    try:
        async with (
            asyncio.timeout(seconds),
            http.stream("POST", to.url, content=body.encode(), headers=headers, timeout=seconds) as reply,
        ):
            status, wait = reply.status_code, retry_after(reply.headers.get("retry-after", ""), now())
    except (TimeoutError, httpx.TimeoutException):
        raise _Again(
            Unreachable(
                f"the webhook at {to.host} did not answer within {seconds:g} s", "see whether its service is up"
            )
        ) from None
    except httpx.HTTPError as error:
        fault = network_fault(error, to)
        raise (_Again(fault) if isinstance(fault, Unreachable) else fault) from None
    refused = refusal(status, to)
    if isinstance(refused, Unreachable):
        raise _Again(refused, wait)
    if refused is not None:
        raise refused


def refusal(status: int, to: Endpoint) -> FleetError | None:
    """What an endpoint's HTTP status means: None for taken, Unreachable where another attempt may help.

    >>> to = Endpoint("https://hooks.example.org/?token=hush", b"k" * 24, "hooks")
    >>> refusal(204, to) is None, type(refusal(503, to)).__name__, type(refusal(400, to)).__name__
    (True, 'Unreachable', 'Refused')
    >>> print(refusal(301, to))
    the webhook at hooks.example.org sends on to another address (301), and events are not sent after it; write the final address into the block hooks.
    """
    what = f"the webhook at {to.host} answered {status}"
    if 200 <= status < 300:
        return None
    if status in (408, 429) or status >= 500:
        return Unreachable(what, "see its service's log")
    if 300 <= status < 400:
        return Refused(
            f"the webhook at {to.host} sends on to another address ({status}), and events are not sent after it",
            f"write the final address into the block {to.block}",
        )
    if status in (401, 403):
        return Refused(what, f"give it the signing key of the block {to.block}, or correct the token in the URL there")
    if status in (404, 410):
        return Refused(what, f"correct the URL in the block {to.block}, or take the block's name out of backup-policy")
    return Refused(what, "see in its service's log what it dislikes")


def network_fault(error: BaseException, to: Endpoint) -> FleetError:
    """What a connection that failed means: Unreachable where another attempt may help; ``error``'s own text is not used."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    certificate = next((one for one in causes if isinstance(one, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return Refused(
            f"the certificate of the webhook at {to.host} is not good ({certificate.verify_message or 'not verified'})",
            "renew it; a CA of your own is trusted through SSL_CERT_FILE",
        )
    if any(isinstance(one, ssl.SSLError) for one in causes):
        return Refused(
            f"the webhook at {to.host} speaks no TLS on that port",
            f"correct the port of the URL in the block {to.block}",
        )
    if any(isinstance(one, socket.gaierror) for one in causes):
        return Unreachable(f"the webhook's host {to.host} is not found", f"correct the URL in the block {to.block}")
    if any(isinstance(one, ConnectionRefusedError) for one in causes):
        return Unreachable(f"the webhook at {to.host} refuses connections", "see whether its service is up")
    return Unreachable(
        f"the webhook at {to.host} could not be reached ({type(error).__name__})", "see whether its service is up"
    )


def retry_after(header: str, moment: datetime) -> float | None:
    """Seconds that a Retry-After asks for, as a number or a date; None when it asks for nothing that can be read.

    >>> retry_after("7", datetime(2026, 1, 2, tzinfo=UTC)), retry_after("soon", datetime(2026, 1, 2, tzinfo=UTC))
    (7.0, None)
    >>> retry_after("Fri, 02 Jan 2026 00:00:30 GMT", datetime(2026, 1, 2, tzinfo=UTC))
    30.0
    """
    text = header.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - moment).total_seconds())

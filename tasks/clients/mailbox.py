"""The e-mail API that a Zero may have: two paths behind a bearer token, and what its refusals mean.

It is the one of the operator's documents (``POST /api/emails/send``, ``GET /api/emails``). The real Zero speaks tRPC behind a
session cookie instead; it answers 404 here, which has a sentence of its own.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.clients.secrets import redact
from tasks.errors import FleetError, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    import httpx

SEND, LIST = "/api/emails/send", "/api/emails"
SECONDS = 30.0
"""For a whole answer; sending may wait for the provider."""
LONGEST = 5_000_000
"""Bytes of a list of mails; a longer one is refused."""
SHOWN = 120
"""Characters of a mail's text that a list shows."""


@dataclass(frozen=True)
class Mail:
    """A mail as a list shows it; its text is cut."""

    id: str
    to: str
    subject: str
    text: str
    at: str


@dataclass(frozen=True)
class Mailbox:
    """The e-mail API of one client's Zero.

    Args:
        client: its slug.
        base: where it is asked from here, like ``http://127.0.0.1:20000``.
        token: of the API; shown nowhere.
        block: where the token is kept.
        hidden: what must not be shown of what the server says, the token among it.
    """

    client: str
    base: str
    token: str = field(repr=False)
    block: str
    hidden: Sequence[str] = field(default=(), repr=False)

    async def send(self, to: str, subject: str, body: str) -> str:
        """Send one mail; the id that Zero gave it, empty when it gave none.

        Raises:
            NotFound, Refused, Unreachable: see ``refusal``.
        """
        async with self._asked("POST", SEND, {"to": to, "subject": subject, "body": body}) as answer:
            said = _members(answer)
        if said.get("success") is False or "error" in said:
            raise Refused(
                f"the Zero of {self.client} did not send it{self._words(said.get('error'))}",
                "correct what it names, or see in Zero that the account is connected, and run again",
            )
        found = said.get("id") or said.get("messageId") or ""
        return str(found)[:100] if isinstance(found, str | int) else ""

    async def latest(self, limit: int) -> list[Mail]:
        """The mails that Zero lists, at most ``limit``.

        Raises:
            NotFound, Refused, Unreachable: see ``refusal``.
        """
        async with self._asked("GET", LIST) as answer:
            try:
                said = answer.json()
            except ValueError:
                raise self._odd() from None
        rows = said.get("emails") if isinstance(said, dict) else said
        if not isinstance(rows, list):
            raise self._odd()
        return [mail_of(row, self.hidden) for row in rows[:limit] if isinstance(row, dict)]

    def _words(self, said: object) -> str:
        """A server's own words for a sentence: one line, printable, at most 150 characters, without secrets."""
        if isinstance(said, dict):
            said = said.get("error") or said.get("message")
        text = "".join(sign if sign.isprintable() else " " for sign in said) if isinstance(said, str) else ""
        text = redact(" ".join(text.split()), [self.token, *self.hidden])[:150]
        return f": {text}" if text else ""

    def _odd(self) -> Refused:
        return Refused(
            f"the Zero of {self.client} answers {LIST} with something that is no list of mails",
            f"look at it yourself (`curl {self.base}{LIST}` with its token)",
        )

    @asynccontextmanager
    async def _asked(self, method: str, path: str, content: object = None) -> AsyncIterator["httpx.Response"]:
        import asyncio

        import httpx

        from tasks.clients.readiness import http_client

        try:
            async with asyncio.timeout(SECONDS), http_client() as http:
                headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
                request = http.build_request(method, self.base + path, headers=headers, json=content, timeout=SECONDS)
                answer = await http.send(request, stream=True)
                try:
                    body = b""
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > LONGEST:
                            raise Refused(
                                f"the Zero of {self.client} answers {path} with more than {LONGEST >> 20} MB",
                                "look at it in Zero's own page",
                            )
                finally:
                    await answer.aclose()
        except (TimeoutError, httpx.TimeoutException):
            raise Unreachable(
                f"the Zero of {self.client} did not answer {path} within {SECONDS:.0f} s"
                + (", so it is not known whether the mail left" if method == "POST" else ""),
                "see how it fares with diagnose-client"
                + (", and look at list-zero-emails before sending again" if method == "POST" else ""),
            ) from None
        except httpx.ConnectError:
            raise Unreachable(
                f"nothing answers at {self.base} for {self.client} (connection refused)",
                f"run diagnose-client for {self.client}, or start-zero",
            ) from None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the Zero of {self.client} gave no proper answer to {path} ({type(error).__name__})",
                f"run diagnose-client for {self.client}",
            ) from None
        whole = httpx.Response(answer.status_code, headers=_kind(answer), content=body)
        if not whole.is_success:
            raise refusal(whole.status_code, self._words(_members(whole)), self, path)
        yield whole


def refusal(code: int, said: str, mailbox: Mailbox, path: str) -> FleetError:
    """What a status other than 2xx means.

    Args:
        said: the answer's own words for a sentence, with a colon before them; or nothing.

    >>> box = Mailbox("acme", "http://127.0.0.1:20000", "t", "zero-acme")
    >>> print(refusal(401, "", box, "/api/emails"))
    the Zero of acme does not take the token in the block zero-acme; run provision-client for acme, so that the container gets the block's token, and run again.
    """
    whose = f"the Zero of {mailbox.client}"
    if code in (401, 403):
        return Refused(
            f"{whose} does not take the token in the block {mailbox.block}",
            f"run provision-client for {mailbox.client}, so that the container gets the block's token, and run again",
        )
    if code in (404, 405) or 300 <= code < 400:
        return NotFound(
            f"{whose} has no e-mail API ({path} answers {code}); the real one speaks tRPC behind a login instead",
            "use an image that has this API, or Zero's own page",
        )
    if code == 429:
        return Unreachable(f"{whose} asks to wait: too many mails at once (429)", "run again in some minutes")
    if code >= 500:
        return Unreachable(
            f"{whose} failed at {path} ({code}){said}",
            f"read zero-logs of {mailbox.client}, or run diagnose-client, and run again",
        )
    return Refused(f"{whose} refused it ({code}){said}", "correct what it names and run again")


def mail_of(row: dict[str, Any], hidden: Sequence[str] = ()) -> Mail:
    """A mail as any of the servers that speak this API may name its parts; everything is cut.

    Args:
        hidden: secrets, which are taken out before it is cut: half of one would be left.

    >>> mail_of({"id": 1, "to": "a@b.example", "subject": "Hi", "body": "x" * 200, "sent_at": "2026-01-02"}).text[-2:]
    'x…'
    """

    def part(*names: str, longest: int = 200) -> str:
        value = next((row[name] for name in names if row.get(name) not in (None, "")), "")
        if isinstance(value, list):
            value = ", ".join(str(one) for one in value)
        text = redact(" ".join(str(value).split()), hidden)
        return text if len(text) <= longest else text[:longest] + "…"

    return Mail(
        part("id", "messageId"),
        part("to", "recipient"),
        part("subject"),
        part("body", "text", "snippet", longest=SHOWN),
        part("sent_at", "date", "receivedOn", "created_at"),
    )


def sentence(client: str, mails: Sequence[Mail], limit: int) -> str:
    """What was listed.

    >>> sentence("acme", [], 20)
    'acme: no e-mails'
    """
    if not mails:
        return f"{client}: no e-mails"
    count = "1 e-mail" if len(mails) == 1 else f"{len(mails)} e-mails"
    return f"{client}: {count}" + (f" (the first {limit})" if len(mails) == limit else "")


def _members(answer: "httpx.Response") -> dict[str, Any]:
    """The members of a JSON object; none when it is something else, which a server may well answer to a mail it took."""
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _kind(answer: "httpx.Response") -> dict[str, str]:
    return {"content-type": answer.headers["content-type"]} if "content-type" in answer.headers else {}

"""Asking Google over HTTP: one client per step, deadlines on every call, patience where it helps."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tasks.clock import now
from tasks.errors import FleetError, Refused, Unreachable
from tasks.gmail.answers import LONGEST_WAIT, Answer, Meaning, classify, explain
from tasks.gmail.endpoints import shown

CONNECT_SECONDS, TOTAL_SECONDS = 5.0, 15.0
ATTEMPTS, PATIENCE_SECONDS = 4, 90.0
BIGGEST_ANSWER = 1_000_000
"""Bytes; a profile has some hundred."""


class _TryAgain(Exception):
    """Carries what Google said to the retry's schedule; no values of ours in its text."""

    def __init__(self, cause: FleetError, wait: float | None) -> None:
        super().__init__(type(cause).__name__)
        self.cause, self.wait = cause, wait


@asynccontextmanager
async def google_client() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP/1.1 client for a few calls: no redirects (a token must not follow one), one TLS context, few connections."""
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=2),
        follow_redirects=False,
    ) as http:
        yield http


async def ask(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    what: str,
    *,
    token: str = "",
    form: Mapping[str, str] | None = None,
) -> tuple[Answer, dict[str, Any]]:
    """One request to Google, repeated with jitter on network faults, 408, 429 and 5xx, as long as that is short.

    Args:
        what: the request in words for a sentence: ``refreshing the token of user 42``.
        token: access token for the Authorization header.
        form: body of a POST; secrets go here, never into the URL.

    Returns:
        The classified answer and its JSON object (empty unless the answer is good).

    Raises:
        Unreachable: no answer, or "later" until patience ended.
        Refused: a good status with a body that is no JSON object.
    """
    import stamina

    def schedule(error: Exception) -> bool | float:
        if not isinstance(error, _TryAgain):
            return False
        if error.wait is None:
            return True
        return error.wait + 0.1 if error.wait <= LONGEST_WAIT else False

    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        async for attempt in stamina.retry_context(
            on=schedule, attempts=ATTEMPTS, timeout=PATIENCE_SECONDS, wait_initial=0.3, wait_max=8.0, wait_jitter=1.0
        ):
            with attempt:
                return await _once(http, method, url, what, headers, form)
    except _TryAgain as again:
        raise again.cause from None
    raise AssertionError("stamina ends by an answer or an error")


async def _once(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    what: str,
    headers: Mapping[str, str],
    form: Mapping[str, str] | None,
) -> tuple[Answer, dict[str, Any]]:
    try:
        reply = await http.request(method, url, headers=headers, data=form)
    except httpx.HTTPError as error:
        gone = Unreachable(
            f"{shown(url)} did not answer while {what} ({type(error).__name__})",
            "see whether this machine reaches the internet, then run it again",
        )
        raise _TryAgain(gone, None) from None
    answer = classify(reply.status_code, reply.headers, reply.content, now())
    if answer.meaning is Meaning.LATER:
        raise _TryAgain(explain(answer, what), answer.wait)
    if answer.meaning is not Meaning.GOOD:
        return answer, {}
    if not reply.content:
        return answer, {}
    document: Any = None
    if len(reply.content) <= BIGGEST_ANSWER:
        try:
            document = reply.json()
        except ValueError:
            document = None
    if not isinstance(document, dict):
        raise Refused(f"{shown(url)} answered no JSON object while {what}", "see what stands at that address")
    return answer, document

"""What Google's answers mean. Pure: a status, headers and a body go in, one word and a reason come out.

Sources: https://developers.google.com/identity/protocols/oauth2/web-server,
https://developers.google.com/workspace/gmail/api/guides/handle-errors, RFC 6749 section 5.2.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from tasks.errors import FleetError, NotConfigured, ReconnectNeeded, Refused, Unreachable


class Meaning(StrEnum):
    """What to do about an answer."""

    GOOD = "good"
    RECONNECT = "reconnect"
    """The grant is gone; only the user can give it again."""
    ADMIN = "admin"
    """Our client or project is refused: stop everything, tell the admin, touch no account."""
    STALE = "stale"
    """The access token is not taken: refresh it once."""
    SKIP = "skip"
    """The grant does not cover this field."""
    LATER = "later"
    """Trying again helps, after ``wait`` seconds where Google names them."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """A classified answer: what it means, Google's own word for it, and the seconds that Google asks to wait."""

    meaning: Meaning
    reason: str = ""
    wait: float | None = None


_RECONNECT = {"invalid_grant"}
_ADMIN = {
    "invalid_client",
    "unauthorized_client",
    "redirect_uri_mismatch",
    "deleted_client",
    "org_internal",
    "accessNotConfigured",
    "SERVICE_DISABLED",
}
_RATE = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "quotaExceeded", "dailyLimitExceeded"}
_SCOPE = {"insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficient_scope"}
_NO_MAILBOX = {"failedPrecondition", "FAILED_PRECONDITION"}
"""Gmail's 400 for a Google account without Gmail (\"Mail service not enabled\")."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,60}")
_UNTIL = re.compile(r"retry after (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)", re.IGNORECASE)
_SECONDS = re.compile(r"retry (?:after|in) (\d{1,6})(?:\s*s| seconds)?", re.IGNORECASE)
LONGEST_WAIT = 60.0
"""Seconds; a longer wish than this is told to the operator instead of waited for."""


def classify(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Answer:
    """What an answer of Google means.

    Args:
        status: HTTP status.
        headers: with lower-case names, or case-insensitive like httpx's.
        body: the answer's bytes; only Google's own error words are ever taken from it.
        now: the moment, for waits given as a date.
    """
    if 200 <= status < 300:
        return Answer(Meaning.GOOD)
    reasons, text = _reasons(body)
    if "insufficient_scope" in headers.get("www-authenticate", ""):
        reasons.append("insufficient_scope")
    reason = next(iter(reasons), f"HTTP {status}")
    if found := _first(reasons, _RECONNECT):
        return Answer(Meaning.RECONNECT, found)
    if found := _first(reasons, _ADMIN):
        return Answer(Meaning.ADMIN, found)
    if status == 429 or (status == 403 and _first(reasons, _RATE)):
        return Answer(Meaning.LATER, _first(reasons, _RATE) or reason, _wait(headers, text, now))
    if status == 401:
        return Answer(Meaning.STALE, reason)
    if status == 403 and (found := _first(reasons, _SCOPE)):
        return Answer(Meaning.SKIP, found)
    if status == 400 and (found := _first(reasons, _NO_MAILBOX)):
        return Answer(Meaning.SKIP, found)
    if status == 408 or status >= 500:
        return Answer(Meaning.LATER, reason, _wait(headers, text, now))
    return Answer(Meaning.REFUSED, reason)


def explain(answer: Answer, what: str) -> FleetError:
    """The error to raise for an answer that is not good, about ``what`` (``refreshing the token of user 42``)."""
    if answer.meaning is Meaning.RECONNECT:
        return ReconnectNeeded(
            f"Google answered no to {what} ({answer.reason})", "let the user connect again: run connect-gmail"
        )
    if answer.meaning is Meaning.ADMIN:
        cure = {
            "redirect_uri_mismatch": "register the gateway's callback as a redirect URI of the client in Google Cloud",
            "accessNotConfigured": "switch on the Gmail API in the client's project in Google Cloud",
            "SERVICE_DISABLED": "switch on the Gmail API in the client's project in Google Cloud",
        }.get(answer.reason, "correct client ID and secret in the block google-gmail")
        return NotConfigured(f"Google refused our client while {what} ({answer.reason})", cure)
    if answer.meaning is Meaning.LATER:
        when = f" and asks to wait {answer.wait:.0f} s" if answer.wait else ""
        return Unreachable(f"Google could not serve {what} ({answer.reason}){when}", "run it again later")
    if answer.meaning is Meaning.STALE:
        return Refused(
            f"Google did not take the access token while {what} ({answer.reason})", "run connect-gmail again"
        )
    if answer.meaning is Meaning.SKIP:
        return Refused(
            f"the user's grant does not cover {what} ({answer.reason})", "run connect-gmail and tick all boxes"
        )
    return Refused(
        f"Google answered no to {what} ({answer.reason})", "read Google's documentation of that word, then run again"
    )


def _reasons(body: bytes) -> tuple[list[str], str]:
    """Google's error words in ``body``, the most telling first, and its message (for a wish to wait; never shown)."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return [], body[:2000].decode("utf-8", "replace")
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str):  # RFC 6749: the token endpoint, userinfo
        return _words([error]), str(document.get("error_description", ""))
    if not isinstance(error, dict):
        return [], ""
    found: list[Any] = []
    for member in ("errors", "details"):
        rows = error.get(member)
        found += [row.get("reason") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return _words([*found, error.get("status")]), str(error.get("message", ""))


def _words(candidates: list[Any]) -> list[str]:
    return [word for word in candidates if isinstance(word, str) and _WORD.fullmatch(word)]


def _first(reasons: list[str], wanted: set[str]) -> str:
    return next((reason for reason in reasons if reason in wanted), "")


def _wait(headers: Mapping[str, str], text: str, now: datetime) -> float | None:
    """Seconds that Google asks to wait: the header Retry-After as seconds or a date, else a time in the message."""
    header = headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header[:8])
    if header:
        try:
            return max(0.0, (_aware(parsedate_to_datetime(header)) - now).total_seconds())
        except ValueError:
            pass
    if found := _UNTIL.search(text):
        return max(0.0, (datetime.fromisoformat(found[1].replace("Z", "+00:00")) - now).total_seconds())
    if found := _SECONDS.search(text):
        return float(found[1])
    return None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

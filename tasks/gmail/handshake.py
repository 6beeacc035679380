"""One login under way: its id, its state, its PKCE verifier, and whether a callback belongs to it. Pure."""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from tasks.gmail.endpoints import OAuthClient

_ID = re.compile(r"[a-f0-9]{32}")
_STATE = re.compile(r"(?P<id>[a-f0-9]{32})\.[A-Za-z0-9_-]{43}")
_CODE = re.compile(r"[\x21-\x7e]{1,2048}")
_ERROR = re.compile(r"[a-z_]{1,64}")


@dataclass(frozen=True)
class Handshake:
    """What the flow makes and the gateway needs; lives for minutes in the block ``gmail-handshake-<id>``."""

    id: str
    state: str = field(repr=False)
    code_verifier: str = field(repr=False)
    expires_at: datetime


class Verdict(StrEnum):
    """What a callback is worth."""

    GOOD = "good"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    MALFORMED = "malformed"


def new_handshake(now: datetime, minutes: int) -> Handshake:
    """A fresh handshake that is good for ``minutes``; state is ``<id>.<256 random bits>``, the verifier RFC 7636's."""
    ident = secrets.token_hex(16)
    return Handshake(
        id=ident,
        state=f"{ident}.{secrets.token_urlsafe(32)}",
        code_verifier=secrets.token_urlsafe(64),
        expires_at=now + timedelta(minutes=minutes),
    )


def is_id(value: str) -> bool:
    """Whether ``value`` can be a handshake's id; what is not never reaches Prefect.

    >>> is_id("a" * 32), is_id("../" + "a" * 29)
    (True, False)
    """
    return _ID.fullmatch(value) is not None


def id_of_state(state: str) -> str | None:
    """The handshake that ``state`` speaks of, or None where it is none of ours.

    >>> id_of_state("a" * 32 + "." + "b" * 43) == "a" * 32
    True
    >>> id_of_state("a" * 32 + "." + "b" * 43 + "\\n") is None
    True
    """
    found = _STATE.fullmatch(state)
    return found["id"] if found else None


def judge_callback(
    state: str, code: str, error: str, expected_state: str, expires_at: datetime, now: datetime
) -> Verdict:
    """What to do with a callback whose handshake was found; states are compared in constant time."""
    if not hmac.compare_digest(state.encode(), expected_state.encode()):
        return Verdict.UNKNOWN
    if now >= expires_at:
        return Verdict.EXPIRED
    if error:
        return Verdict.GOOD
    return Verdict.GOOD if _CODE.fullmatch(code) else Verdict.MALFORMED


def plain_error(error: str) -> str:
    """Google's word for why there is no code, or ``unknown_error`` where it is no such word.

    >>> plain_error("access_denied"), plain_error("<script>"), plain_error("")
    ('access_denied', 'unknown_error', '')
    """
    return "" if not error else error if _ERROR.fullmatch(error) else "unknown_error"


def authorization_url(client: OAuthClient, state: str, code_verifier: str, redirect: str) -> str:
    """Google's consent page for this login: offline access, consent asked each time, PKCE S256.

    google-auth-oauthlib builds the query from the verifier. It refuses plain http even on loopback unless
    OAUTHLIB_INSECURE_TRANSPORT is set, which we set nowhere: it is given Google's own address, and the query then goes to
    ``client.auth_uri`` (``require_endpoints`` has seen that one).
    """
    from google_auth_oauthlib.flow import Flow

    flow = Flow.from_client_config(
        {
            "web": {
                "client_id": client.client_id,
                "auth_uri": "https://accounts.google.com/o/oauth2/v2/auth",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        },
        scopes=list(client.scopes),
        redirect_uri=redirect,
        code_verifier=code_verifier,
    )
    url, _ = flow.authorization_url(access_type="offline", prompt="consent", state=state)
    return f"{client.auth_uri}?{urlsplit(url).query}"

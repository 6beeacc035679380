"""Tokens: exchange of a code, refresh, revocation. Our own calls over httpx; secrets travel in bodies and headers only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from tasks.clock import now
from tasks.errors import Refused
from tasks.gmail.answers import Answer, Meaning, explain
from tasks.gmail.endpoints import OAuthClient
from tasks.gmail.transport import ask

MARGIN = timedelta(minutes=5)
"""An access token this near its end counts as expired: it must outlive the calls that use it."""


@dataclass(frozen=True)
class GrantedTokens:
    """What a user granted."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    """Empty where Google sent none (it sends one on the first consent only, unless asked for consent again)."""
    expires_at: datetime | None
    scopes: tuple[str, ...]


async def exchange_code(
    http: httpx.AsyncClient, client: OAuthClient, code: str, code_verifier: str, redirect: str, user: str
) -> GrantedTokens:
    """The tokens for an authorization code, proven with the PKCE verifier.

    Raises:
        Refused: Google does not take the code (used, expired, of another client).
        NotConfigured: Google does not take our client, or the redirect URI is not registered.
        Unreachable: no answer.
    """
    what = f"exchanging the code of user {user}"
    answer, document = await ask(
        http,
        "POST",
        client.token_uri,
        what,
        form={
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": code_verifier,
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "redirect_uri": redirect,
        },
    )
    if answer.meaning is Meaning.RECONNECT:
        raise Refused(
            f"Google refused the code of user {user} ({answer.reason}: used before, too old, or of another client)",
            "run connect-gmail again and open its new link",
        )
    return read_tokens(_good(answer, document, _as_client(answer), what), client.scopes, "", now())


async def refresh_tokens(
    http: httpx.AsyncClient, client: OAuthClient, tokens: GrantedTokens, user: str
) -> GrantedTokens:
    """A new access token; the refresh token and scopes are kept where the answer has none.

    Raises:
        ReconnectNeeded: the grant is gone (withdrawn, unused for 6 months, or an app in Testing: 7 days).
        NotConfigured: Google does not take our client.
        Unreachable: no answer.
    """
    what = f"refreshing the token of user {user}"
    if not tokens.refresh_token:
        raise explain(Answer(Meaning.RECONNECT, "there is no refresh token"), what)
    answer, document = await ask(
        http,
        "POST",
        client.token_uri,
        what,
        form={
            "grant_type": "refresh_token",
            "refresh_token": tokens.refresh_token,
            "client_id": client.client_id,
            "client_secret": client.client_secret,
        },
    )
    return read_tokens(_good(answer, document, _as_client(answer), what), tokens.scopes, tokens.refresh_token, now())


async def revoke(http: httpx.AsyncClient, client: OAuthClient, token: str, user: str) -> None:
    """Withdraw the grant behind ``token``; a token that Google no longer knows counts as withdrawn.

    Raises:
        Refused: Google answered neither.
        Unreachable: no answer.
    """
    what = f"withdrawing the grant of user {user}"
    answer, _ = await ask(http, "POST", client.revoke_uri, what, form={"token": token})
    if answer.meaning is not Meaning.GOOD and answer.reason != "invalid_token":
        raise explain(answer, what)


def read_tokens(
    document: Mapping[str, Any], asked: tuple[str, ...], refresh_token: str, moment: datetime
) -> GrantedTokens:
    """The tokens in a token endpoint's answer.

    Args:
        document: the answer's JSON object.
        asked: scopes that hold where the answer names none (RFC 6749 section 5.1: then they are as asked).
        refresh_token: the one to keep where the answer has none.
        moment: when the answer came.

    Raises:
        Refused: it holds no access token.
    """
    access = document.get("access_token")
    if not isinstance(access, str) or not access:
        raise Refused("Google's answer holds no access token", "run it again; if it stays so, see the token endpoint")
    fresh, scope, seconds = document.get("refresh_token"), document.get("scope"), document.get("expires_in")
    lasting = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 10**7
    return GrantedTokens(
        access_token=access,
        refresh_token=fresh if isinstance(fresh, str) and fresh else refresh_token,
        expires_at=moment + timedelta(seconds=float(seconds)) if lasting and seconds else None,
        scopes=tuple(scope.split()) if isinstance(scope, str) and scope.strip() else asked,
    )


def access_expired(expires_at: datetime | None, moment: datetime) -> bool:
    """Whether an access token is at its end or near it; one of unknown end counts as expired."""
    return expires_at is None or moment >= expires_at - MARGIN


def _as_client(answer: Answer) -> Answer:
    """A 401 at the token endpoint speaks of our client, not of an access token."""
    return Answer(Meaning.ADMIN, answer.reason) if answer.meaning is Meaning.STALE else answer


def _good(answer: Answer, document: dict[str, Any], meant: Answer, what: str) -> dict[str, Any]:
    if answer.meaning is not Meaning.GOOD:
        raise explain(meant, what)
    return document

"""What Google says of a user. Names come from userinfo, never from Gmail's getProfile, which has none; no message is read."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import httpx

from tasks.clock import now
from tasks.errors import Refused
from tasks.gmail.answers import Meaning, explain
from tasks.gmail.endpoints import OAuthClient
from tasks.gmail.oauth import GrantedTokens, access_expired, refresh_tokens
from tasks.gmail.scopes import may_count, may_identify, may_read_language
from tasks.gmail.transport import ask


@dataclass(frozen=True)
class Profile:
    """A user's facts; None where Google does not say or the grant does not cover it. Identity is ``sub`` alone."""

    sub: str
    email: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    name: str | None = None
    picture: str | None = None
    locale: str | None = None
    language: str | None = None
    messages_total: int | None = None
    threads_total: int | None = None

    @property
    def called(self) -> str:
        """The user in words: name and address, as far as they are known."""
        name = self.name or " ".join(part for part in (self.given_name, self.family_name) if part)
        if name and self.email:
            return f"{name} <{self.email}>"
        return name or self.email or f"Google account {self.sub}"


def read_userinfo(document: Mapping[str, Any]) -> Profile:
    """A profile from userinfo in either of its shapes: OpenID's (``sub``) and v2's (``id``).

    Raises:
        Refused: it names no account.

    >>> read_userinfo({"id": "7", "given_name": "Ada", "email": "ada@example.org"}).called
    'Ada <ada@example.org>'
    """
    sub = _text(document, "sub") or _text(document, "id")
    if not sub:
        raise Refused("Google's userinfo names no account", "see userinfo_uri in the block google-gmail")
    return Profile(
        sub=sub,
        email=_text(document, "email"),
        given_name=_text(document, "given_name"),
        family_name=_text(document, "family_name"),
        name=_text(document, "name"),
        picture=_picture(document),
        locale=_text(document, "locale"),
    )


def with_counts(profile: Profile, document: Mapping[str, Any]) -> Profile:
    """``profile`` with the numbers of getProfile; its emailAddress fills in only where userinfo gave none."""
    return replace(
        profile,
        email=profile.email or _text(document, "emailAddress"),
        messages_total=_count(document, "messagesTotal"),
        threads_total=_count(document, "threadsTotal"),
    )


def gmail_requests(api: str) -> dict[str, str]:
    """The addresses of the two Gmail calls, built by google-api-python-client from its bundled discovery document (offline).

    Args:
        api: root of the Gmail API.

    Returns:
        ``profile`` and ``language`` to the address to GET.
    """
    from google.auth.credentials import AnonymousCredentials
    from googleapiclient.discovery import build

    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    users = build(
        "gmail", "v1", credentials=nobody, static_discovery=True, client_options={"api_endpoint": api}
    ).users()
    return {
        "profile": users.getProfile(userId="me", fields="emailAddress,messagesTotal,threadsTotal").uri,
        "language": users.settings().getLanguage(userId="me").uri,
    }


async def fetch_profile(
    http: httpx.AsyncClient, client: OAuthClient, tokens: GrantedTokens, user: str
) -> tuple[Profile, GrantedTokens]:
    """What Google says now, and the tokens as they are now: refreshed when expired, and once when Google finds them stale.

    Every field is asked for only where the *granted* scopes allow it; one that Google refuses for want of a scope stays
    None. Where a later call fails, a refreshed access token is lost, which costs nothing: Google's refresh tokens stay.

    Raises:
        ReconnectNeeded, NotConfigured, Refused, Unreachable: see ``refresh_tokens``.
    """
    fresh = tokens
    forced = False
    if access_expired(tokens.expires_at, now()):
        fresh, forced = await refresh_tokens(http, client, tokens, user), True

    async def get(url: str, what: str) -> dict[str, Any] | None:
        nonlocal fresh, forced
        answer, document = await ask(http, "GET", url, what, token=fresh.access_token)
        if answer.meaning is Meaning.STALE and not forced:
            fresh, forced = await refresh_tokens(http, client, fresh, user), True
            answer, document = await ask(http, "GET", url, what, token=fresh.access_token)
        if answer.meaning is Meaning.SKIP:
            return None
        if answer.meaning is not Meaning.GOOD:
            raise explain(answer, what)
        return document

    return await _read(get, client, fresh.scopes, user), fresh


async def _read(
    get: Callable[[str, str], Awaitable[dict[str, Any] | None]],
    client: OAuthClient,
    granted: tuple[str, ...],
    user: str,
) -> Profile:
    document = await get(client.userinfo_uri, f"reading the profile of user {user}")
    if document is None:
        raise Refused(f"the grant of user {user} does not say who this is", "run connect-gmail and tick all boxes")
    profile = read_userinfo(document)
    if not may_identify(granted):
        profile = Profile(sub=profile.sub)
    if not (may_count(granted) or may_read_language(granted)):
        return profile
    urls = await asyncio.to_thread(gmail_requests, client.gmail_api)
    if may_count(granted) and (counts := await get(urls["profile"], f"counting the messages of user {user}")):
        profile = with_counts(profile, counts)
    if may_read_language(granted) and (spoken := await get(urls["language"], f"reading the language of user {user}")):
        profile = replace(profile, language=_text(spoken, "displayLanguage"))
    return profile


def needs_gmail_refresh(
    refreshed_at: datetime | None, expires_at: datetime | None, moment: datetime, stale_after: timedelta
) -> bool:
    """Whether a user's profile is due: never read, read ``stale_after`` ago or longer, or its access token at its end."""
    return refreshed_at is None or moment - refreshed_at >= stale_after or access_expired(expires_at, moment)


def other_address(login_email: str | None, email: str | None) -> str | None:
    """The Gmail address where it is another than the one that the user logs in with: a fact to show, nothing to overwrite.

    >>> other_address("ada@example.org", "lovelace@gmail.com")
    'lovelace@gmail.com'
    >>> other_address("Ada@Example.org", "ada@example.org") is None
    True
    """
    if not login_email or not email or login_email.casefold() == email.casefold():
        return None
    return email


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if not isinstance(value, str):
        return None
    clean = "".join(character for character in value if character.isprintable()).strip()[:500]
    return clean or None


def _picture(document: Mapping[str, Any]) -> str | None:
    url = _text(document, "picture")
    return url if url and url.startswith("https://") else None


def _count(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None

"""The steps of the Gmail flows: load blocks by name, open the registry, call the plain functions, write what came of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from prefect import task
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import SecretStr
from sqlalchemy import Engine

from blocks.documents import find
from blocks.gmail import GmailHandshake, GmailToken, GoogleOAuthClient
from blocks.installation import installation
from blocks.registry import open_registry
from tasks.clock import now, spoken
from tasks.errors import Conflict, FleetError, NotConfigured, NotFound, ReconnectNeeded, Refused, Unreachable, needed
from tasks.gmail import rows
from tasks.gmail.endpoints import PERMISSIONS_PAGE, OAuthClient, client_of, redirect_uri
from tasks.gmail.handshake import new_handshake
from tasks.gmail.oauth import GrantedTokens, exchange_code, revoke
from tasks.gmail.profile import Profile, fetch_profile
from tasks.gmail.scopes import may_identify, not_granted
from tasks.gmail.transport import google_client
from tasks.registry.lock import hold
from tasks.registry.names import gmail_block, user_id
from tasks.registry.revision import require_head

CLIENT_BLOCK = "google-gmail"


@dataclass(frozen=True)
class Login:
    """A login under way, without its secrets."""

    id: str
    user: str
    link: str
    expires_at: datetime


@dataclass(frozen=True)
class Connected:
    """A grant that was saved."""

    not_granted: tuple[str, ...]
    """Scopes that the user did not tick, by short name."""
    email_before: str | None
    """The address of the account that was connected before, if one was."""


@task(name="begin login", cache_policy=NO_CACHE, persist_result=False)
async def begin_login(user: str, minutes: int) -> Login:
    """Make the handshake of a login that is good for ``minutes`` and publish its link; sweep handshakes that ended.

    The link is the gateway's own: it redirects to Google with the state, so that no state stands in an artifact or a log.
    """
    await _client()
    await _registry()
    redirect_uri(installation().gateway_url)
    handshake = new_handshake(now(), minutes)
    await GmailHandshake.sweep(now())
    await GmailHandshake(
        user=user,
        state=SecretStr(handshake.state),
        code_verifier=SecretStr(handshake.code_verifier),
        expires_at=handshake.expires_at,
    ).asave(GmailHandshake.block_name(handshake.id))
    link = f"{installation().gateway_url.rstrip('/')}/gmail/connect/{handshake.id}"
    until = spoken(handshake.expires_at, installation().time_zone, seconds=True)
    await acreate_link_artifact(
        link=link,
        link_text="Connect Gmail",
        key=_artifact(user),
        description=f"Link for user {_plain(user)} to connect their Gmail account; good once, until {until}.",
    )
    get_run_logger().info(
        "the consent link of user %s is published as the artifact %s; waiting for the user until %s",
        user,
        _artifact(user),
        until,
    )
    return Login(handshake.id, user, link, handshake.expires_at)


@task(name="await consent", cache_policy=NO_CACHE, persist_result=False)
async def await_consent(login: Login) -> None:
    """Wait until the gateway took Google's callback of this login, at most until its link ends.

    Raises:
        Unreachable: nobody came back in time.
    """
    name, asked = GmailHandshake.answer_name(login.id), 0
    while not await GmailHandshake.is_saved(name):
        if now() >= login.expires_at:
            raise Unreachable(
                f"user {login.user} did not come back from Google's consent page in time",
                "run connect-gmail again and open its new link; if they did consent, see whether GATEWAY_URL "
                f"({installation().gateway_url}) reaches the gateway from the user's browser",
            )
        asked += 1
        if asked % 60 == 0:
            get_run_logger().info("still waiting for user %s to consent", login.user)
        # Quick while somebody sits in front of it, patient afterwards: every poll is a request to Prefect's API.
        await asyncio.sleep(0.5 if asked < 60 else 3.0)


@task(name="exchange code", cache_policy=NO_CACHE, persist_result=False)
async def redeem(login: Login, login_email: str) -> Connected:
    """Exchange the code for tokens and save them as the user's block and row.

    Raises:
        Refused: the user or Google said no, or the grant does not say who this is; nothing is saved then.
        NotFound: the handshake was swept meanwhile.
    """
    user = login.user
    client = await _client()
    engine = await _registry()
    mine = await find(GmailHandshake, GmailHandshake.block_name(login.id))
    answer = await find(GmailHandshake, GmailHandshake.answer_name(login.id))
    if mine is None or answer is None:
        raise NotFound(f"the handshake of user {user} was removed while it was under way", "run connect-gmail again")
    if answer.error:
        raise _denied(user, answer.error)
    async with google_client() as http:
        tokens = await exchange_code(
            http,
            client,
            answer.code.get_secret_value(),
            mine.code_verifier.get_secret_value(),
            redirect_uri(installation().gateway_url),
            user,
        )
        async with _one_writer(engine, user):
            block = await find(GmailToken, gmail_block(user))
            if not may_identify(tokens.scopes):
                # Revoking ends every token of this account at our client, an older good one included.
                if block is None:
                    await revoke(http, client, tokens.access_token, user)
                raise Refused(
                    f"user {user} did not allow {', '.join(not_granted(client.scopes, tokens.scopes))}, so their "
                    "account cannot be told; nothing was saved",
                    "run connect-gmail again and let them tick all boxes",
                )
            row = await asyncio.to_thread(rows.find_row, engine, user)
            generation = max(row.generation if row else 0, block.generation if block else 0) + 1
            kept = tokens.refresh_token or (block.refresh_token.get_secret_value() if block else "")
            if not kept:
                raise Refused(
                    f"Google sent no refresh token for user {user}",
                    f"let them remove this application at {PERMISSIONS_PAGE}, then run connect-gmail again",
                )
            # The block first: a kill in between leaves a row that the next refresh raises to the block's generation.
            await _save(user, GrantedTokens(tokens.access_token, kept, tokens.expires_at, tokens.scopes), generation)
            await asyncio.to_thread(rows.record_grant, engine, user, generation, login_email, tokens.scopes, now())
    return Connected(tuple(not_granted(client.scopes, tokens.scopes)), row.email if row else None)


@task(name="sweep login", cache_policy=NO_CACHE, persist_result=False)
async def sweep_login(login: Login) -> None:
    """Delete the handshake with its code and verifier, and take the link out of the artifact."""
    await GmailHandshake.sweep(now(), login.id)
    await acreate_markdown_artifact(
        markdown="This login has ended; its link is of no use any more. Run `connect-gmail` for a new one.",
        key=_artifact(login.user),
        description=f"No login of user {_plain(login.user)} is under way.",
    )


@task(name="refresh profile", cache_policy=NO_CACHE, persist_result=False)
async def refresh_profile(user: str) -> Profile:
    """Ask Google who the user is and write it to their row; save the tokens only when they changed.

    Raises:
        NotFound: the user never connected.
        ReconnectNeeded: the grant is gone; the row says so.
        Conflict: the user connected anew meanwhile, or the tokens are those of another account than the row's.
    """
    client = await _client()
    engine = await _registry()
    async with _one_writer(engine, user):
        block = await find(GmailToken, gmail_block(user))
        if block is None:
            raise NotFound(f"user {user} has no connected Gmail account", "run connect-gmail for them first")
        row = await asyncio.to_thread(rows.ensure_row, engine, user, block.generation)
        tokens = GrantedTokens(
            block.access_token.get_secret_value(),
            block.refresh_token.get_secret_value(),
            block.expires_at,
            tuple(block.scopes),
        )
        try:
            async with google_client() as http:
                profile, fresh = await fetch_profile(http, client, tokens, user)
            if row.sub and row.sub != profile.sub:
                raise Conflict(
                    f"the tokens of user {user} are those of another Google account than the one connected",
                    "run connect-gmail for them again",
                )
        except ReconnectNeeded as gone:
            await asyncio.to_thread(rows.record_reconnect, engine, user, block.generation, str(gone))
            raise
        except NotConfigured:  # our client's fault, not this account's: its row stays as it is
            raise
        except FleetError as error:
            await asyncio.to_thread(rows.record_failure, engine, user, block.generation, str(error))
            raise
        if fresh != tokens:
            await _save(user, fresh, block.generation)
        if not await asyncio.to_thread(
            rows.record_profile, engine, user, block.generation, profile, fresh.scopes, now()
        ):
            raise Conflict(
                f"user {user} connected anew while their profile was read", "run refresh-gmail-profile again"
            )
    return profile


@task(name="read login e-mail", cache_policy=NO_CACHE, persist_result=False)
async def known_login_email(user: str) -> str | None:
    """The address that the user logs in to the site with, if a connect run was told one."""
    row = await asyncio.to_thread(rows.find_row, await _registry(), user)
    return row.login_email if row else None


def _denied(user: str, error: str) -> Refused:
    if error == "access_denied":
        return Refused(
            f"user {user} did not consent on Google's page (access_denied)",
            "run connect-gmail again when they want to; while the app is in Testing they must be a test user of it",
        )
    return Refused(
        f"Google sent user {user} back without a code ({error})", "read up that word in Google's OAuth pages"
    )


async def _client() -> OAuthClient:
    return client_of(needed(await find(GoogleOAuthClient, CLIENT_BLOCK), CLIENT_BLOCK))


async def _registry() -> Engine:
    engine = await open_registry()
    await asyncio.to_thread(require_head, engine)
    return engine


async def _save(user: str, tokens: GrantedTokens, generation: int) -> None:
    await GmailToken(
        user=user,
        access_token=SecretStr(tokens.access_token),
        refresh_token=SecretStr(tokens.refresh_token),
        expires_at=tokens.expires_at,
        scopes=list(tokens.scopes),
        generation=generation,
    ).asave(gmail_block(user), overwrite=True)


@asynccontextmanager
async def _one_writer(engine: Engine, user: str) -> AsyncIterator[None]:
    """Hold the user's Gmail data alone; taken and let go in a thread, because waiting for it blocks."""
    guard = hold(
        engine,
        f"gmail-{user_id(user)}",
        f"run {flow_run.get_name() or 'unnamed'}",
        installation().locks,
        time_zone=installation().time_zone,
    )
    await asyncio.to_thread(guard.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(guard.__exit__, None, None, None)


def _artifact(user: str) -> str:
    return f"gmail-{user_id(user)}"


def _plain(user: str) -> str:
    """A user's key inside Markdown."""
    return "`" + user.replace("`", "'") + "`"

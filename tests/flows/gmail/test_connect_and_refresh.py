"""From the link to the profile: the flows, the gateway as a process, the stand-in for Google with its own consent page."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from blocks.documents import find
from blocks.gmail import GmailHandshake, GmailToken, GoogleOAuthClient
from blocks.installation import installation
from flows.gmail.connect import connect_gmail
from flows.gmail.refresh import refresh_gmail_profile
from tasks.clock import now
from tasks.gmail.rows import find_row
from tasks.registry.lock import hold
from tasks.registry.models import GmailStatus
from tasks.registry.names import gmail_block, user_id
from tests.conftest import ROOT, free_port
from tests.deployments.gateway.running import running_gateway
from tests.standins.google.running import running

READONLY = "https://www.googleapis.com/auth/gmail.readonly"
LOGIN = "ada@site.example"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("gateway") / "gateway.log"


@pytest.fixture(scope="module")
def gateway(prefect_api, installed_registry, log):
    with running_gateway(free_port(), log, PREFECT_API_URL.value()) as base:
        yield base


@pytest.fixture(scope="module")
def google(gateway, tmp_path_factory):
    credentials = tmp_path_factory.mktemp("google") / "credentials.json"
    with running(free_port(), ROOT / ".state-cache", credentials, f"{gateway}/gmail/callback/") as stand_in:
        yield stand_in


@pytest.fixture
async def client_block(gateway, google, monkeypatch):
    """The block google-gmail for the stand-in, asking for Gmail too; the gateway's address as the setting."""
    monkeypatch.setattr(installation(), "gateway_url", gateway)
    block = GoogleOAuthClient(
        client_id=google.client_id,
        client_secret=SecretStr(google.client_secret),
        scopes=["openid", "email", "profile", READONLY],
        **google.endpoints,
    )
    await block.asave("google-gmail", overwrite=True)
    return block


async def artifact(user: str) -> str:
    """What the newest artifact of the user says."""
    async with get_client() as client:
        found = await client.read_latest_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"gmail-{user_id(user)}"]))
        )
    return str(found[0].data) if found else ""


async def link_of(user: str) -> str:
    for _ in range(150):
        data = await artifact(user)
        if "/gmail/connect/" in data:
            return data.partition("(")[2].rstrip(")")
        await asyncio.sleep(0.1)
    raise AssertionError("no link was published")


async def browse(link: str, *options: str) -> str:
    """Play the user's browser in a process of its own (its logs are not ours); the last page's title."""
    browser = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.standins.google.consent", link, *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await browser.communicate()
    return output.decode().strip()


@asynccontextmanager
async def login(user: str, **parameters: object) -> AsyncIterator[tuple[asyncio.Task[State[object]], str]]:
    """A connect-gmail run that waits for its user, and its link; nothing of the handshake may be left afterwards."""
    run = asyncio.ensure_future(connect_gmail(user=user, **parameters, return_state=True))
    link = await link_of(user)
    yield run, link
    await run
    ident = link.rsplit("/", 1)[-1]
    assert not await GmailHandshake.is_saved(GmailHandshake.block_name(ident))
    assert not await GmailHandshake.is_saved(GmailHandshake.answer_name(ident))
    assert "/gmail/connect/" not in await artifact(user)


async def connected(user: str, *options: str, **parameters: object) -> State[object]:
    async with login(user, **parameters) as (run, link):
        await browse(link, *options)
    return run.result()


async def test_a_user_connects_is_refreshed_loses_the_grant_and_connects_again(
    client_block, google, installed_registry, caplog, log
):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("prefect").addHandler(caplog.handler)
    async with login("42", login_email=LOGIN) as (run, link):
        handshake = await find(GmailHandshake, GmailHandshake.block_name(link.rsplit("/", 1)[-1]))
        assert await browse(link) == "Thank you"
    assert run.result().is_completed(), run.result().message
    assert run.result().message == (
        "user 42 connected as Ada Lovelace <ada@example.org>; logs in as ada@site.example, which was kept."
    )

    row = find_row(installed_registry, "42")
    assert (row.given_name, row.family_name, row.email) == ("Ada", "Lovelace", "ada@example.org")
    assert (row.login_email, row.status, row.generation) == (LOGIN, GmailStatus.CONNECTED, 1)
    assert (row.messages_total, row.threads_total, row.language, row.locale) == (1815, 843, "en-GB", "en")
    assert row.sub and row.picture and row.refreshed_at and READONLY in row.granted_scopes
    first = await find(GmailToken, gmail_block("42"))
    assert first.refresh_token.get_secret_value() and first.generation == 1

    # A good token: the profile is read again, the block stays as it is.
    state = await refresh_gmail_profile(user="42", return_state=True)
    assert state.message == (
        "profile of user 42 refreshed: Ada Lovelace <ada@example.org>; 1815 messages; language en-GB; "
        "logs in as ada@site.example, which was kept."
    )
    assert await find(GmailToken, gmail_block("42")) == first

    # An expired one, and one that Google no longer knows: refreshed, and the new one saved.
    for change in ({"expires_at": now() - timedelta(minutes=1)}, {"access_token": SecretStr("unknown")}):
        for name, value in change.items():
            setattr(first, name, value)
        await first.asave(gmail_block("42"), overwrite=True)
        assert (await refresh_gmail_profile(user="42", return_state=True)).is_completed()
        fresh = await find(GmailToken, gmail_block("42"))
        assert fresh.access_token != first.access_token and fresh.refresh_token == first.refresh_token
        first = fresh

    # The user withdraws the grant: said in a sentence, kept in the registry; connecting again puts it right.
    httpx.post(google.endpoints["revoke_uri"], data={"token": fresh.refresh_token.get_secret_value()}, trust_env=False)
    fresh.expires_at = now()
    await fresh.asave(gmail_block("42"), overwrite=True)
    state = await refresh_gmail_profile(user="42", return_state=True)
    assert state.is_failed() and "invalid_grant" in state.message and "run connect-gmail" in state.message
    row = find_row(installed_registry, "42")
    assert (row.status, row.last_error) == (GmailStatus.RECONNECT, state.message)
    state = await connected("42")
    assert state.message.startswith("user 42 connected as Ada Lovelace")
    row = find_row(installed_registry, "42")
    assert (row.status, row.last_error, row.generation, row.login_email) == (GmailStatus.CONNECTED, None, 2, LOGIN)

    # No secret in any log, artifact, state message or run name.
    async with get_client() as client:
        server = [entry.message for entry in await client.read_logs(limit=200)]
        runs = [str(run.model_dump()) for run in await client.read_flow_runs()]
        tasks = [str(run.model_dump()) for run in await client.read_task_runs()]
        artifacts = [str(found.data) + str(found.description) for found in await client.read_artifacts()]
    last = await find(GmailToken, gmail_block("42"))
    seen = "\n".join([caplog.text, log.read_text(), *server, *runs, *tasks, *artifacts])
    assert "waiting for the user" in seen
    for secret in (
        google.client_secret,
        handshake.state.get_secret_value(),
        handshake.state.get_secret_value().partition(".")[2],
        handshake.code_verifier.get_secret_value(),
        *(block.access_token.get_secret_value() for block in (first, fresh, last)),
        *(block.refresh_token.get_secret_value() for block in (first, fresh, last)),
    ):
        assert secret not in seen
    assert "code=" not in seen and "state=" not in log.read_text()
    logging.getLogger("prefect").removeHandler(caplog.handler)


async def test_a_user_who_says_no_is_named_and_nothing_stays(client_block, installed_registry):
    state = await connected("denied", "--deny")
    assert state.is_failed() and "did not consent" in state.message and "access_denied" in state.message
    assert await find(GmailToken, gmail_block("denied")) is None and find_row(installed_registry, "denied") is None


async def test_unticked_boxes_are_named_and_their_fields_stay_empty(client_block, installed_registry):
    state = await connected("partial", "--scopes", "openid email profile")
    assert state.message == (
        "user partial connected as Ada Lovelace <ada@example.org>; "
        "not granted: gmail.readonly, so what needs it stays empty."
    )
    row = find_row(installed_registry, "partial")
    assert (row.messages_total, row.language, row.given_name) == (None, None, "Ada")


async def test_a_grant_that_does_not_say_who_it_is_is_given_back(client_block, installed_registry):
    state = await connected("nobody", "--scopes", "openid")
    assert state.is_failed() and "did not allow email, gmail.readonly, profile" in state.message
    assert await find(GmailToken, gmail_block("nobody")) is None and find_row(installed_registry, "nobody") is None


async def test_a_code_that_google_refuses_is_a_sentence_and_nothing_stays(client_block, installed_registry):
    async with login("forged") as (run, link), httpx.AsyncClient(trust_env=False, timeout=20) as browser:
        handshake = await find(GmailHandshake, GmailHandshake.block_name(link.rsplit("/", 1)[-1]))
        await browser.get(
            f"{client_block_base(link)}/gmail/callback/",
            params={"state": handshake.state.get_secret_value(), "code": "4/forged"},
        )
    state = run.result()
    assert state.is_failed() and "Google refused the code of user forged (invalid_grant" in state.message
    assert "4/forged" not in state.message
    assert await find(GmailToken, gmail_block("forged")) is None and find_row(installed_registry, "forged") is None


def client_block_base(link: str) -> str:
    return link.partition("/gmail/")[0]


async def test_a_wrong_client_secret_tells_the_admin(client_block, installed_registry):
    client_block.client_secret = SecretStr("wrong")
    await client_block.asave("google-gmail", overwrite=True)
    state = await connected("wrong-client")
    assert state.is_failed() and "Google refused our client" in state.message and "google-gmail" in state.message


async def test_a_cancelled_login_is_swept_as_well(client_block):
    run = asyncio.ensure_future(connect_gmail(user="slow", wait_minutes=1, return_state=True))
    ident = (await link_of("slow")).rsplit("/", 1)[-1]
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    assert not await GmailHandshake.is_saved(GmailHandshake.block_name(ident))


async def test_the_wait_ends_with_a_sentence(client_block):
    from tasks.errors import Unreachable
    from tasks.gmail.steps import Login, await_consent

    with pytest.raises(Unreachable, match="did not come back from Google's consent page in time"):
        await await_consent.fn(Login("0" * 32, "42", "", now()))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"user": " 42"}, "is no key of a user"),
        ({"user": "4\n2"}, "is no key of a user"),
        ({"user": "42", "login_email": "not an address"}, "is no e-mail address"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_made(client_block, parameters, words):
    state = await connect_gmail(**parameters, return_state=True)
    assert state.is_failed() and words in state.message


async def test_a_user_who_never_connected_is_told_so(client_block):
    state = await refresh_gmail_profile(user="stranger", return_state=True)
    assert state.message == "user stranger has no connected Gmail account; run connect-gmail for them first."


async def test_an_address_that_is_not_googles_is_refused_before_a_secret_is_sent(client_block):
    client_block.token_uri = "https://evil.example/token"
    await client_block.asave("google-gmail", overwrite=True)
    for flow in (connect_gmail, refresh_gmail_profile):
        state = await flow(user="42", return_state=True)
        assert state.is_failed() and "which is not Google's" in state.message


async def test_two_writers_of_one_user_exclude_each_other(client_block, installed_registry, monkeypatch):
    monkeypatch.setattr("tasks.gmail.steps.hold", lambda *given, **named: hold(*given, **named, wait=0.3))
    with hold(installed_registry, f"gmail-{user_id('42')}", "run other (disconnect)", installation().locks):
        state = await refresh_gmail_profile(user="42", return_state=True)
    assert state.is_failed() and "is held by run other (disconnect)" in state.message

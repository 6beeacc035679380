import time
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import httpx
import pytest
import respx

from tasks.errors import NotConfigured, ReconnectNeeded, Refused, Unreachable
from tasks.gmail.oauth import GrantedTokens, access_expired, exchange_code, read_tokens, refresh_tokens, revoke
from tasks.gmail.transport import google_client
from tests.tasks.gmail import google_answers as google
from tests.tasks.gmail.test_endpoints import GOOGLE

NOW = datetime(2026, 1, 2, tzinfo=UTC)
OLD = GrantedTokens("access-old", "refresh-old", NOW, ("openid",))
BACK = "https://fleet.example.org/gmail/callback/"


@pytest.fixture
def token_endpoint():
    with respx.mock() as router:
        yield router.post(GOOGLE.token_uri)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Retries without their pauses: the schedule is stamina's own."""
    import stamina

    stamina.set_testing(True, attempts=3, cap=True)
    yield
    stamina.set_testing(False)


async def exchange():
    async with google_client() as http:
        return await exchange_code(http, GOOGLE, "4/code", "verifier", BACK, "42")


async def refresh(tokens=OLD):
    async with google_client() as http:
        return await refresh_tokens(http, GOOGLE, tokens, "42")


async def test_a_code_is_exchanged_with_its_verifier_in_the_body(token_endpoint):
    token_endpoint.respond(json=google.TOKENS)
    tokens = await exchange()
    assert (
        tokens.access_token == google.TOKENS["access_token"] and tokens.refresh_token == google.TOKENS["refresh_token"]
    )
    assert "openid" in tokens.scopes and len(tokens.scopes) == 3
    request = token_endpoint.calls.last.request
    sent = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
    assert sent == {
        "grant_type": "authorization_code",
        "code": "4/code",
        "code_verifier": "verifier",
        "client_id": GOOGLE.client_id,
        "client_secret": GOOGLE.client_secret,
        "redirect_uri": BACK,
    }
    assert request.url.query == b""


async def test_a_refused_code_is_refused_and_not_a_lost_grant(token_endpoint):
    token_endpoint.respond(400, json=google.INVALID_GRANT)
    with pytest.raises(
        Refused, match=r"Google refused the code of user 42 \(invalid_grant.*run connect-gmail again"
    ) as refusal:
        await exchange()
    assert "4/code" not in str(refusal.value)
    assert token_endpoint.call_count == 1


async def test_a_lost_grant_asks_the_user_to_connect_again(token_endpoint):
    token_endpoint.respond(400, json=google.INVALID_GRANT)
    with pytest.raises(ReconnectNeeded, match="run connect-gmail"):
        await refresh()
    assert token_endpoint.call_count == 1


@pytest.mark.parametrize("body", [google.INVALID_CLIENT, google.UNAUTHORIZED_CLIENT, {"error": "something_new"}])
async def test_a_client_that_google_does_not_take_is_the_admins_matter(token_endpoint, body):
    token_endpoint.respond(401, json=body)
    with pytest.raises(NotConfigured, match="refused our client"):
        await refresh()


async def test_an_unregistered_redirect_names_the_cure(token_endpoint):
    token_endpoint.respond(400, json=google.REDIRECT_MISMATCH)
    with pytest.raises(NotConfigured, match="register the gateway's callback"):
        await exchange()


async def test_a_busy_google_is_asked_again(token_endpoint):
    token_endpoint.side_effect = [
        httpx.Response(503),
        httpx.ConnectError("no route"),
        httpx.Response(200, json={"access_token": "new", "expires_in": 3599}),
    ]
    tokens = await refresh()
    assert (tokens.access_token, tokens.refresh_token, tokens.scopes) == ("new", "refresh-old", ("openid",))


async def test_a_google_that_stays_away_is_unreachable_without_a_secret_in_the_sentence(token_endpoint):
    token_endpoint.side_effect = httpx.ConnectError("no route to refresh-old")
    with pytest.raises(Unreachable, match=r"oauth2.googleapis.com/token did not answer") as gone:
        await refresh()
    assert "refresh-old" not in str(gone.value) and gone.value.__cause__ is None
    assert token_endpoint.call_count == 3


async def test_a_short_wait_that_google_asks_for_is_kept(token_endpoint):
    import stamina

    stamina.set_testing(False)
    token_endpoint.side_effect = [
        httpx.Response(429, json=google.TOO_MANY, headers={"Retry-After": "2"}),
        httpx.Response(200, json={"access_token": "new", "expires_in": 3599}),
    ]
    started = time.monotonic()
    assert (await refresh()).access_token == "new"
    assert 2.0 <= time.monotonic() - started < 4.5


async def test_a_wait_longer_than_a_minute_is_told_and_not_waited_for(token_endpoint):
    token_endpoint.respond(429, json=google.TOO_MANY, headers={"Retry-After": "900"})
    with pytest.raises(Unreachable, match="asks to wait 900 s"):
        await refresh()
    assert token_endpoint.call_count == 1


async def test_a_redirect_of_the_token_endpoint_is_not_followed(token_endpoint):
    token_endpoint.respond(307, headers={"Location": "https://evil.example/"})
    with pytest.raises(Refused, match="HTTP 307"):
        await refresh()


@pytest.mark.parametrize("content", [b"<html>hello</html>", b"[]", b'{"access_token": 7}'])
async def test_an_answer_that_holds_no_token_is_refused(token_endpoint, content):
    token_endpoint.respond(200, content=content)
    with pytest.raises(Refused):
        await refresh()


@respx.mock
@pytest.mark.parametrize(("status", "body"), [(200, {}), (400, {"error": "invalid_token"})])
async def test_a_grant_that_google_no_longer_knows_counts_as_revoked(status, body):
    respx.post(GOOGLE.revoke_uri).respond(status, json=body)
    async with google_client() as http:
        await revoke(http, GOOGLE, "refresh-old", "42")
    assert b"refresh-old" in respx.calls.last.request.content and respx.calls.last.request.url.query == b""


def test_without_a_refresh_token_in_the_answer_the_old_one_is_kept():
    assert read_tokens({"access_token": "a"}, ("openid",), "old", NOW).refresh_token == "old"
    assert read_tokens({"access_token": "a", "refresh_token": ""}, ("openid",), "old", NOW).refresh_token == "old"
    assert read_tokens({"access_token": "a", "refresh_token": "new"}, ("openid",), "old", NOW).refresh_token == "new"


def test_granted_scopes_win_over_those_asked_for():
    assert read_tokens({"access_token": "a", "scope": "openid"}, ("openid", "email"), "", NOW).scopes == ("openid",)
    assert read_tokens({"access_token": "a"}, ("openid", "email"), "", NOW).scopes == ("openid", "email")


@pytest.mark.parametrize("seconds", [None, "3600", True, -1, 10**9])
def test_an_end_that_is_no_number_of_seconds_is_unknown_and_so_expired(seconds):
    tokens = read_tokens({"access_token": "a", "expires_in": seconds}, (), "", NOW)
    assert tokens.expires_at is None and access_expired(tokens.expires_at, NOW)


def test_an_access_token_near_its_end_counts_as_expired():
    assert not access_expired(NOW + timedelta(minutes=6), NOW)
    assert access_expired(NOW + timedelta(minutes=5), NOW)


def test_tokens_do_not_show_themselves():
    assert "access-old" not in repr(OLD) and "refresh-old" not in repr(OLD)

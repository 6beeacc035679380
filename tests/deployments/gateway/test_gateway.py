import asyncio
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from blocks.documents import find
from blocks.gmail import GmailHandshake, GoogleOAuthClient
from deployments.gateway.pages import SECURITY_HEADERS
from tasks.clock import now
from tasks.gmail.handshake import Handshake, new_handshake
from tests.conftest import free_port
from tests.deployments.gateway.running import running_gateway

CODE = "4/0Ab_this-code-must-stand-in-no-log"


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gateway") / "gateway.log"


@pytest.fixture(scope="module")
def gateway(prefect_api, log):
    with running_gateway(free_port(), log, PREFECT_API_URL.value()) as base:
        yield base


@pytest.fixture
async def browser(gateway):
    async with httpx.AsyncClient(base_url=gateway, timeout=30, trust_env=False) as client:
        yield client


async def begin(minutes: int = 10) -> Handshake:
    handshake = new_handshake(now(), minutes)
    await GmailHandshake(
        user="42",
        state=SecretStr(handshake.state),
        code_verifier=SecretStr(handshake.code_verifier),
        expires_at=handshake.expires_at,
    ).asave(GmailHandshake.block_name(handshake.id))
    return handshake


async def answer_of(handshake: Handshake) -> GmailHandshake | None:
    return await find(GmailHandshake, GmailHandshake.answer_name(handshake.id))


def call(browser, **query):
    return browser.get("/gmail/callback/", params=query)


async def test_it_says_whether_prefect_answers(browser):
    reply = await browser.get("/health")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok", "prefect": True})


async def test_the_link_leads_to_googles_page_and_back_to_the_setting_never_to_the_host_header(browser, gateway):
    await GoogleOAuthClient(client_id="id", client_secret=SecretStr("GOCSPX-s3cret")).asave(
        "google-gmail", overwrite=True
    )
    handshake = await begin()
    reply = await browser.get(
        f"/gmail/connect/{handshake.id}", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    )
    assert reply.status_code == 302
    target = urlsplit(reply.headers["location"])
    assert f"{target.scheme}://{target.netloc}{target.path}" == "https://accounts.google.com/o/oauth2/v2/auth"
    query = parse_qs(target.query)
    assert query["state"] == [handshake.state] and query["redirect_uri"] == [f"{gateway}/gmail/callback/"]
    assert query["code_challenge_method"] == ["S256"]
    assert handshake.code_verifier not in target.query and "s3cret" not in target.query
    assert reply.headers["referrer-policy"] == "no-referrer" and reply.headers["cache-control"] == "no-store"


async def test_a_callback_is_good_once_and_its_code_goes_into_the_block_only(browser):
    handshake = await begin()
    reply = await call(browser, state=handshake.state, code=CODE, scope="openid email")
    assert reply.status_code == 200 and "You can close this window" in reply.text and CODE not in reply.text
    for name, value in SECURITY_HEADERS.items():
        assert reply.headers[name] == value
    answer = await answer_of(handshake)
    assert answer is not None and answer.code.get_secret_value() == CODE

    again = await call(browser, state=handshake.state, code="4/another")
    assert again.status_code == 409 and "used before" in again.text
    assert (await answer_of(handshake)).code.get_secret_value() == CODE
    assert (await browser.get(f"/gmail/connect/{handshake.id}")).status_code == 404


async def test_of_many_callbacks_at_once_exactly_one_wins(browser, soak):
    handshake = await begin()
    codes = [f"4/code-{number}" for number in range(40 if soak else 6)]
    replies = await asyncio.gather(*(call(browser, state=handshake.state, code=code) for code in codes))
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * (len(codes) - 1)
    winner = next(code for code, reply in zip(codes, replies, strict=True) if reply.status_code == 200)
    assert (await answer_of(handshake)).code.get_secret_value() == winner


async def test_a_denial_is_kept_as_its_word(browser):
    handshake = await begin()
    reply = await call(browser, state=handshake.state, error="access_denied")
    assert reply.status_code == 200 and "nothing was connected" in reply.text
    answer = await answer_of(handshake)
    assert (answer.error, answer.code.get_secret_value()) == ("access_denied", "")


async def test_an_expired_login_is_refused_with_a_sentence(browser):
    handshake = await begin(minutes=-1)
    for reply in (
        await call(browser, state=handshake.state, code=CODE),
        await browser.get(f"/gmail/connect/{handshake.id}"),
    ):
        assert reply.status_code == 410 and "too old" in reply.text
    assert await answer_of(handshake) is None


async def test_an_unknown_or_crooked_state_is_refused_and_uses_nothing_up(browser):
    handshake = await begin()
    for state in (
        "",
        "x",
        "<script>alert(1)</script>",
        new_handshake(now(), 10).state,
        f"{handshake.id}.{'b' * 43}",
        handshake.state + "\n",
        "../" + handshake.state,
    ):
        reply = await call(browser, state=state, code=CODE)
        assert reply.status_code == 400 and "<script>" not in reply.text, state
    assert (await call(browser, code=CODE)).status_code == 400
    assert (await call(browser, state=handshake.state)).status_code == 400
    assert (await call(browser, state=handshake.state, code=CODE, pad="x" * 9000)).status_code == 414
    assert (await browser.head("/gmail/callback/", params={"state": handshake.state, "code": CODE})).status_code == 405
    assert (await browser.post("/gmail/callback/", params={"state": handshake.state, "code": CODE})).status_code == 405
    assert (await browser.get("/gmail/callback", params={"state": handshake.state, "code": CODE})).status_code == 404
    assert (await browser.get("/gmail/connect/..%2F..%2Fhealth")).status_code == 404
    assert await answer_of(handshake) is None
    assert (await call(browser, state=handshake.state, code=CODE)).status_code == 200


async def test_old_logins_are_swept_and_those_under_way_are_not(browser):
    old, current, mine = await begin(minutes=-5), await begin(), await begin()
    await call(browser, state=mine.state, code=CODE)
    assert await GmailHandshake.sweep(now() - timedelta(minutes=1), mine.id) >= 3
    assert not await GmailHandshake.is_saved(GmailHandshake.block_name(old.id))
    assert not await GmailHandshake.is_saved(GmailHandshake.block_name(mine.id))
    assert await answer_of(mine) is None
    assert await GmailHandshake.is_saved(GmailHandshake.block_name(current.id))


async def test_the_log_holds_neither_codes_nor_states_nor_ids(browser, log):
    handshake = await begin()
    await browser.get(f"/gmail/connect/{handshake.id}")
    await call(browser, state=handshake.state, code=CODE)
    text = log.read_text()
    assert "GET /gmail/callback/ -> 200" in text
    for secret in (CODE, "4/0Ab", handshake.state, handshake.id, handshake.code_verifier, "?"):
        assert secret not in text


async def test_without_prefects_api_it_says_so_and_keeps_serving(tmp_path):
    with running_gateway(free_port(), tmp_path / "log", f"http://127.0.0.1:{free_port()}/api") as base:
        async with httpx.AsyncClient(base_url=base, timeout=120, trust_env=False) as browser:
            health = await browser.get("/health")
            assert (health.status_code, health.json()["prefect"]) == (503, False)
            reply = await call(browser, state=new_handshake(now(), 1).state, code=CODE)
            assert reply.status_code == 503 and "again in a minute" in reply.text
    assert CODE not in (tmp_path / "log").read_text()

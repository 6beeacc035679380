import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import httpx
import pytest
import respx

from tasks.clock import now
from tasks.errors import NotConfigured, ReconnectNeeded, Refused
from tasks.gmail.oauth import GrantedTokens
from tasks.gmail.profile import (
    Profile,
    fetch_profile,
    gmail_requests,
    needs_gmail_refresh,
    other_address,
    read_userinfo,
    with_counts,
)
from tasks.gmail.scopes import LANGUAGE_SCOPES, PROFILE_SCOPES, may_count, may_identify, may_read_language, not_granted
from tasks.gmail.transport import google_client
from tests.tasks.gmail import google_answers as google
from tests.tasks.gmail.test_endpoints import GOOGLE

NOW = datetime(2026, 1, 2, tzinfo=UTC)
READONLY = "https://www.googleapis.com/auth/gmail.readonly"
BASIC = ("openid", "https://www.googleapis.com/auth/userinfo.email", "https://www.googleapis.com/auth/userinfo.profile")


def tokens(*scopes, minutes=60):
    return GrantedTokens("access", "refresh", now() + timedelta(minutes=minutes), scopes)


async def fetch(given):
    async with google_client() as http:
        return await fetch_profile(http, GOOGLE, given, "42")


@pytest.fixture
def router():
    with respx.mock(assert_all_called=False) as router:
        yield router


def gmail_document(name="gmail.v1.json"):
    place = files("googleapiclient.discovery_cache") / "documents" / name
    return json.loads(place.read_text())


def test_our_gmail_addresses_are_those_of_googles_discovery_document():
    document = gmail_document()
    urls = gmail_requests("https://gmail.googleapis.com")
    users = document["resources"]["users"]
    for name, method in (
        ("profile", users["methods"]["getProfile"]),
        ("language", users["resources"]["settings"]["methods"]["getLanguage"]),
    ):
        assert method["httpMethod"] == "GET"
        assert urls[name].partition("?")[0] == document["rootUrl"] + method["flatPath"].replace("{userId}", "me")
    assert "messages" not in urls["profile"].partition("?")[0] and "threads" not in urls["language"]


def test_the_scopes_that_open_a_field_are_those_of_googles_discovery_document():
    users = gmail_document()["resources"]["users"]
    assert set(users["methods"]["getProfile"]["scopes"]) == PROFILE_SCOPES
    assert set(users["resources"]["settings"]["methods"]["getLanguage"]["scopes"]) == LANGUAGE_SCOPES


def test_what_we_read_is_in_googles_discovery_documents_and_getprofile_has_no_name():
    gmail, oauth2 = gmail_document()["schemas"], gmail_document("oauth2.v2.json")["schemas"]
    assert set(gmail["Profile"]["properties"]) == {"emailAddress", "messagesTotal", "threadsTotal", "historyId"}
    assert "displayLanguage" in gmail["LanguageSettings"]["properties"]
    assert {"id", "email", "given_name", "family_name", "name", "picture", "locale"} <= set(
        oauth2["Userinfo"]["properties"]
    )


def test_the_stand_ins_and_other_roots_keep_the_paths():
    assert gmail_requests("http://127.0.0.1:9")["profile"].startswith("http://127.0.0.1:9/gmail/v1/users/me/profile?")


def test_both_shapes_of_userinfo_are_read():
    openid = read_userinfo(google.USERINFO)
    assert openid == Profile(
        sub="10769150350006150715113082367",
        email="jsmith@example.com",
        given_name="Jane",
        family_name="Doe",
        name="Jane Doe",
        picture="https://lh4.googleusercontent.com/photo.jpg",
        locale="en",
    )
    second = {**google.USERINFO, "id": google.USERINFO["sub"]}
    del second["sub"]
    assert read_userinfo(second) == openid


@pytest.mark.parametrize("document", [{}, {"sub": ""}, {"sub": 7}, {"email": "a@b"}])
def test_userinfo_that_names_nobody_is_refused(document):
    with pytest.raises(Refused, match="names no account"):
        read_userinfo(document)


def test_odd_values_of_google_become_nothing():
    odd = read_userinfo(
        {"sub": "1", "name": 7, "given_name": "A\nB\x00", "picture": "javascript:alert(1)", "locale": ""}
    )
    assert (odd.name, odd.given_name, odd.picture, odd.locale) == (None, "AB", None, None)
    assert with_counts(odd, {"messagesTotal": "7", "threadsTotal": -1}).messages_total is None


async def test_with_the_basic_scopes_only_userinfo_is_asked(router):
    info = router.get(GOOGLE.userinfo_uri).respond(json=google.USERINFO)
    given = tokens(*BASIC)
    profile, after = await fetch(given)
    assert profile.called == "Jane Doe <jsmith@example.com>" and after is given
    assert router.calls.call_count == 1
    assert info.calls.last.request.headers["authorization"] == "Bearer access"


async def test_with_gmail_readonly_counts_and_language_come_along_and_no_message_is_touched(router):
    router.get(GOOGLE.userinfo_uri).respond(json=google.USERINFO)
    router.get(path="/gmail/v1/users/me/profile").respond(
        json={"emailAddress": "x@y", "messagesTotal": 3, "threadsTotal": 2}
    )
    router.get(path="/gmail/v1/users/me/settings/language").respond(json={"displayLanguage": "fr"})
    profile, _ = await fetch(tokens(*BASIC, READONLY))
    assert (profile.messages_total, profile.threads_total, profile.language) == (3, 2, "fr")
    assert profile.email == "jsmith@example.com" and profile.given_name == "Jane"
    assert {call.request.url.path for call in router.calls} == {
        "/v1/userinfo",
        "/gmail/v1/users/me/profile",
        "/gmail/v1/users/me/settings/language",
    }


@pytest.mark.parametrize(("status", "body"), [(403, google.NO_SCOPE), (400, google.NO_MAILBOX)])
async def test_a_field_that_the_grant_does_not_cover_is_left_out(router, status, body):
    router.get(GOOGLE.userinfo_uri).respond(json=google.USERINFO)
    router.get(path="/gmail/v1/users/me/profile").respond(status, json=body)
    router.get(path="/gmail/v1/users/me/settings/language").respond(json={"displayLanguage": "fr"})
    profile, _ = await fetch(tokens(*BASIC, READONLY))
    assert (profile.messages_total, profile.language, profile.given_name) == (None, "fr", "Jane")


async def test_a_disabled_api_stops_the_run_for_the_admin(router):
    router.get(GOOGLE.userinfo_uri).respond(json=google.USERINFO)
    router.get(path="/gmail/v1/users/me/profile").respond(403, json=google.API_DISABLED)
    with pytest.raises(NotConfigured, match="switch on the Gmail API"):
        await fetch(tokens(*BASIC, READONLY))


async def test_an_expired_access_token_is_refreshed_first_and_a_good_one_not(router):
    router.get(GOOGLE.userinfo_uri).respond(json=google.USERINFO)
    router.post(GOOGLE.token_uri).respond(json={"access_token": "fresh", "expires_in": 3599})
    _, after = await fetch(tokens(*BASIC, minutes=1))
    assert (after.access_token, after.refresh_token) == ("fresh", "refresh")
    assert [call.request.url.path for call in router.calls] == ["/token", "/v1/userinfo"]


async def test_a_stale_access_token_is_refreshed_once_and_only_once(router):
    router.post(GOOGLE.token_uri).respond(json={"access_token": "fresh", "expires_in": 3599})
    info = router.get(GOOGLE.userinfo_uri)
    info.side_effect = [httpx.Response(401, json=google.INVALID_CREDENTIALS), httpx.Response(200, json=google.USERINFO)]
    _, after = await fetch(tokens(*BASIC))
    assert after.access_token == "fresh"
    info.side_effect = [httpx.Response(401, json=google.INVALID_CREDENTIALS)] * 2
    with pytest.raises(Refused, match="did not take the access token"):
        await fetch(tokens(*BASIC))


async def test_a_grant_that_is_gone_says_reconnect(router):
    router.post(GOOGLE.token_uri).respond(400, json=google.INVALID_GRANT)
    with pytest.raises(ReconnectNeeded):
        await fetch(tokens(*BASIC, minutes=-60))


def test_a_profile_is_due_when_never_read_or_stale_or_its_token_is_at_its_end():
    day, later = timedelta(hours=24), NOW + timedelta(hours=1)
    assert needs_gmail_refresh(None, later, NOW, day)
    assert needs_gmail_refresh(NOW - day, later, NOW, day)
    assert needs_gmail_refresh(NOW, NOW, NOW, day)
    assert not needs_gmail_refresh(NOW - timedelta(hours=23), later, NOW, day)


def test_fields_follow_the_granted_scopes():
    assert may_identify(BASIC) and not may_identify(["openid"])
    assert may_count([READONLY]) and may_read_language([READONLY]) and not may_count(BASIC)
    assert not may_read_language(["https://www.googleapis.com/auth/gmail.metadata"])
    assert not_granted(["openid", "email", "profile", READONLY], BASIC) == ["gmail.readonly"]


def test_another_gmail_address_is_shown_and_never_takes_the_logins_place():
    assert other_address("ada@example.org", "lovelace@gmail.com") == "lovelace@gmail.com"
    assert other_address(None, "lovelace@gmail.com") is None
    assert replace(Profile("1"), email="x@y").called == "x@y" and Profile("1").called == "Google account 1"

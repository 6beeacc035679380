import base64
import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from tasks.gmail.handshake import (
    Verdict,
    authorization_url,
    id_of_state,
    is_id,
    judge_callback,
    new_handshake,
)
from tests.tasks.gmail.test_endpoints import GOOGLE

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def judge(handshake, state=None, code="4/0Ab_code", error="", now=NOW):
    return judge_callback(
        handshake.state if state is None else state, code, error, handshake.state, handshake.expires_at, now
    )


def test_a_handshake_names_itself_in_its_state_and_shows_no_secret():
    handshake = new_handshake(NOW, 10)
    assert is_id(handshake.id) and id_of_state(handshake.state) == handshake.id
    assert handshake.expires_at == NOW + timedelta(minutes=10)
    assert 43 <= len(handshake.code_verifier) <= 128  # RFC 7636
    assert handshake.state not in repr(handshake) and handshake.code_verifier not in repr(handshake)
    assert new_handshake(NOW, 10).state != handshake.state


def test_a_callback_with_state_and_code_is_good_until_its_end():
    handshake = new_handshake(NOW, 10)
    assert judge(handshake) is Verdict.GOOD
    assert judge(handshake, now=NOW + timedelta(minutes=9, seconds=59)) is Verdict.GOOD
    assert judge(handshake, now=NOW + timedelta(minutes=10)) is Verdict.EXPIRED


def test_another_random_part_for_the_same_id_is_unknown():
    handshake = new_handshake(NOW, 10)
    assert judge(handshake, state=f"{handshake.id}.{'b' * 43}") is Verdict.UNKNOWN
    assert judge(handshake, state="ä") is Verdict.UNKNOWN


def test_a_callback_without_a_code_or_with_a_strange_one_is_malformed_unless_it_tells_an_error():
    handshake = new_handshake(NOW, 10)
    assert judge(handshake, code="") is Verdict.MALFORMED
    assert judge(handshake, code="a\nb") is Verdict.MALFORMED
    assert judge(handshake, code="a" * 2049) is Verdict.MALFORMED
    assert judge(handshake, code="", error="access_denied") is Verdict.GOOD


@given(st.text(max_size=80))
def test_no_text_but_ours_names_a_handshake(text):
    found = id_of_state(text)
    assert found is None or (is_id(found) and len(text) == 76)


def test_the_consent_page_is_asked_with_pkce_state_and_offline_access_and_without_secrets():
    handshake = new_handshake(NOW, 10)
    url = authorization_url(
        GOOGLE, handshake.state, handshake.code_verifier, "https://fleet.example.org/gmail/callback/"
    )
    assert url.startswith(GOOGLE.auth_uri + "?")
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    challenge = base64.urlsafe_b64encode(hashlib.sha256(handshake.code_verifier.encode()).digest()).decode().rstrip("=")
    assert query == {
        "response_type": "code",
        "client_id": GOOGLE.client_id,
        "redirect_uri": "https://fleet.example.org/gmail/callback/",
        "scope": "openid email profile",
        "state": handshake.state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "access_type": "offline",
        "prompt": "consent",
    }
    assert handshake.code_verifier not in url and GOOGLE.client_secret not in url

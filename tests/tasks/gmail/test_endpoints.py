from dataclasses import replace

import pytest

from tasks.errors import NotConfigured
from tasks.gmail.endpoints import OAuthClient, is_trusted, redirect_uri, require_endpoints

GOOGLE = OAuthClient(
    client_id="id.apps.googleusercontent.com",
    client_secret="s3cret",
    scopes=("openid", "email", "profile"),
    auth_uri="https://accounts.google.com/o/oauth2/v2/auth",
    token_uri="https://oauth2.googleapis.com/token",
    revoke_uri="https://oauth2.googleapis.com/revoke",
    userinfo_uri="https://openidconnect.googleapis.com/v1/userinfo",
    gmail_api="https://gmail.googleapis.com",
)


def test_googles_own_endpoints_are_good():
    assert require_endpoints(GOOGLE) is GOOGLE


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/token",
        "http://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com.evil.example/token",
        "https://oauth2.googleapis.com:8443/token",
        "https://user@oauth2.googleapis.com/token",
        "http://127.0.0.1.evil.example/token",
        "https://evil.example\\@oauth2.googleapis.com/token",
        "http://10.0.0.1/token",
        "file:///etc/passwd",
        "",
    ],
)
def test_an_endpoint_elsewhere_is_refused_by_name(url):
    with pytest.raises(NotConfigured, match="token_uri of the block google-gmail"):
        require_endpoints(replace(GOOGLE, token_uri=url))


def test_a_stand_in_on_loopback_is_good():
    assert is_trusted("http://127.0.0.1:4002/token")
    assert is_trusted("http://[::1]:4002/token")
    assert is_trusted("http://localhost/token")


@pytest.mark.parametrize("field", ["client_id", "client_secret"])
def test_an_empty_client_is_refused(field):
    with pytest.raises(NotConfigured, match="no client ID or no client secret"):
        require_endpoints(replace(GOOGLE, **{field: " "}))


def test_the_secret_is_not_in_the_clients_representation():
    assert "s3cret" not in repr(GOOGLE)


def test_the_redirect_keeps_a_path_of_the_gateway():
    assert redirect_uri("https://fleet.example.org/zero/") == "https://fleet.example.org/zero/gmail/callback/"


@pytest.mark.parametrize(
    "url", ["", "fleet", "ftp://x", "http://fleet.example.org", "https://x?a=1", "https://u:p@x", "https://x y"]
)
def test_a_gateway_url_that_google_would_not_redirect_to_is_refused(url):
    with pytest.raises(NotConfigured) as refusal:
        redirect_uri(url)
    assert "p@" not in str(refusal.value)

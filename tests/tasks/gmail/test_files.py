import json
from datetime import UTC, datetime

import pytest

from tasks.errors import FleetError, InvalidInput, NotFound
from tasks.gmail.credentials_file import read_credentials_file
from tasks.gmail.token_file import read_token_file

WEB = {
    "client_id": "id.apps.googleusercontent.com",
    "project_id": "fleet",
    "auth_uri": "https://accounts.google.com/o/oauth2/auth",
    "token_uri": "https://oauth2.googleapis.com/token",
    "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
    "client_secret": "GOCSPX-s3cret",
    "redirect_uris": ["http://localhost:8000/gmail/callback/"],
}
TOKEN = {
    "token": "ya29.access",
    "refresh_token": "1//s3cret",
    "token_uri": "https://oauth2.googleapis.com/token",
    "client_id": "id",
    "client_secret": "GOCSPX-s3cret",
    "scopes": ["https://www.googleapis.com/auth/gmail.readonly"],
    "expiry": "2026-01-02T03:04:05.678901Z",
}


@pytest.fixture
def write(tmp_path):
    def put(content):
        path = tmp_path / "file.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return put


@pytest.mark.parametrize("kind", ["web", "installed"])
def test_googles_credentials_are_read(write, kind):
    client = read_credentials_file(write({kind: WEB}))
    assert (client.client_id, client.client_secret) == (WEB["client_id"], "GOCSPX-s3cret")
    assert client.redirect_uris == ("http://localhost:8000/gmail/callback/",)
    assert "s3cret" not in repr(client)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        [],
        {},
        {"web": {}},
        {"web": 7},
        {"web": {**WEB, "client_secret": ""}},
        {"web": {name: value for name, value in WEB.items() if name != "client_secret"}},
        {"type": "service_account", "private_key": "s3cret"},
    ],
)
def test_a_file_that_is_no_client_is_refused_in_a_sentence_without_its_secret(write, content):
    with pytest.raises(InvalidInput, match=r"GMAIL_CREDENTIALS_FILE .*file\.json") as refusal:
        read_credentials_file(write(content))
    assert "s3cret" not in str(refusal.value)


def test_a_token_of_the_old_way_is_read(write):
    tokens = read_token_file(write(TOKEN))
    assert (tokens.access_token, tokens.refresh_token) == ("ya29.access", "1//s3cret")
    assert tokens.scopes == ("https://www.googleapis.com/auth/gmail.readonly",)
    assert tokens.expires_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert "s3cret" not in repr(tokens)


def test_a_token_without_an_access_token_counts_as_expired(write):
    tokens = read_token_file(write({**TOKEN, "token": None}))
    assert tokens.access_token == "" and tokens.expires_at is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        [],
        {},
        {**TOKEN, "refresh_token": ""},
        {**TOKEN, "refresh_token": None},
        {**TOKEN, "expiry": "soon"},
    ],
)
def test_a_file_that_is_no_token_is_refused_in_a_sentence_without_its_secret(write, content):
    with pytest.raises(InvalidInput, match=r"GMAIL_TOKEN_FILE .*file\.json") as refusal:
        read_token_file(write(content))
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("read", [read_credentials_file, read_token_file])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(NotFound, match=r"none\.json does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(FleetError):
        read(tmp_path)

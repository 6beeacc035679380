import json
from datetime import UTC, datetime

import pytest

from tasks.errors import NotConfigured, ReconnectNeeded, Refused, Unreachable
from tasks.gmail.answers import Answer, Meaning, classify, explain
from tests.tasks.gmail import google_answers as google

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def answer(status, document, headers=None):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return classify(status, headers or {}, body, NOW)


@pytest.mark.parametrize(
    ("status", "document", "meaning", "reason"),
    [
        (200, {}, Meaning.GOOD, ""),
        (400, google.INVALID_GRANT, Meaning.RECONNECT, "invalid_grant"),
        (401, google.INVALID_CLIENT, Meaning.ADMIN, "invalid_client"),
        (401, google.UNAUTHORIZED_CLIENT, Meaning.ADMIN, "unauthorized_client"),
        (400, google.REDIRECT_MISMATCH, Meaning.ADMIN, "redirect_uri_mismatch"),
        (403, google.API_DISABLED, Meaning.ADMIN, "accessNotConfigured"),
        (401, google.INVALID_CREDENTIALS, Meaning.STALE, "authError"),
        (403, google.NO_SCOPE, Meaning.SKIP, "insufficientPermissions"),
        (400, google.NO_MAILBOX, Meaning.SKIP, "failedPrecondition"),
        (403, google.RATE_LIMIT, Meaning.LATER, "rateLimitExceeded"),
        (403, google.USER_RATE_LIMIT, Meaning.LATER, "userRateLimitExceeded"),
        (429, google.TOO_MANY, Meaning.LATER, "rateLimitExceeded"),
        (500, google.BACKEND, Meaning.LATER, "backendError"),
        (408, b"", Meaning.LATER, "HTTP 408"),
        (502, b"<html>bad gateway</html>", Meaning.LATER, "HTTP 502"),
        (403, b"<html>no</html>", Meaning.REFUSED, "HTTP 403"),
        (400, {"error": "invalid_request"}, Meaning.REFUSED, "invalid_request"),
        (302, b"", Meaning.REFUSED, "HTTP 302"),
    ],
)
def test_each_answer_has_one_meaning(status, document, meaning, reason):
    found = answer(status, document)
    assert (found.meaning, found.reason) == (meaning, reason)


@pytest.mark.parametrize(
    ("headers", "document", "seconds"),
    [
        ({"retry-after": "7"}, google.TOO_MANY, 7.0),
        ({"retry-after": "Fri, 02 Jan 2026 00:01:00 GMT"}, google.TOO_MANY, 60.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:00 GMT"}, google.TOO_MANY, 0.0),
        ({}, google.TOO_MANY_UNTIL, 30.5),
        ({"retry-after": "soon"}, google.TOO_MANY_UNTIL, 30.5),
        ({}, {"error": {"code": 429, "message": "Quota exceeded. Retry after 12 seconds"}}, 12.0),
        ({}, google.TOO_MANY, None),
    ],
)
def test_the_wait_is_read_from_the_header_and_from_the_text(headers, document, seconds):
    assert answer(429, document, headers).wait == seconds


def test_a_missing_scope_is_also_read_from_the_header():
    header = {"www-authenticate": 'Bearer realm="https://accounts.google.com/", error="insufficient_scope", scope="…"'}
    assert answer(403, google.NO_SCOPE_BY_HEADER, header) == Answer(Meaning.SKIP, "insufficient_scope")


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b'{"error":[]}', b'{"error":{"errors":7,"details":[1]}}', b"\xff", b"[" * 5000]
)
def test_an_odd_body_is_only_its_status(body):
    assert answer(400, body) == Answer(Meaning.REFUSED, "HTTP 400")


def test_only_googles_words_are_repeated_never_its_text():
    found = answer(400, {"error": "code 4/0Ab is bad <b>", "error_description": "4/0Ab"})
    assert found.reason == "HTTP 400"


@pytest.mark.parametrize(
    ("meaning", "kind"),
    [
        (Meaning.RECONNECT, ReconnectNeeded),
        (Meaning.ADMIN, NotConfigured),
        (Meaning.LATER, Unreachable),
        (Meaning.STALE, Refused),
        (Meaning.SKIP, Refused),
        (Meaning.REFUSED, Refused),
    ],
)
def test_each_meaning_is_one_class_of_error(meaning, kind):
    assert type(explain(Answer(meaning, "word"), "refreshing the token of user 42")) is kind


def test_a_disabled_api_tells_the_admin_where_to_switch_it_on():
    assert "switch on the Gmail API" in str(explain(answer(403, google.API_DISABLED), "counting"))

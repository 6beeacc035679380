"""Webhooks to a real receiver: signed as the specification says, tried again where that helps, and never a token shown."""

import json
import logging
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from tasks.backups import delivery, events, webhook
from tasks.backups.manifest import Made, Manifest
from tasks.backups.source import Target
from tasks.backups.webhook import Endpoint, Patience
from tasks.errors import InvalidInput, Refused, Unreachable
from tasks.registry.models import Delivery
from tests.conftest import free_port
from tests.tasks.backups.mail_server import certificates
from tests.tasks.backups.webhook_server import KEY, TOKEN, Answer, receiving

MOMENT = datetime(2026, 11, 20, 2, 0, 1, 234567, tzinfo=UTC)
QUICK = Patience(wait=0.02)
MANIFEST = Manifest(
    target="client:acme", run_id="run-1", database="zero_client_acme", server="db:5432", taken_at=MOMENT, seconds=1.23456,
    server_version="16.4", pg_dump_version="16.4", database_bytes=9000, raw_bytes=5000, file_bytes=2000, sha256="ab" * 32,
    encoding="UTF8", rows={"public.mails": 7, "public.letters of zoë": 2}, large_objects=3, extensions=[],
    roles="CREATE ROLE hush_role;", grants="GRANT hush_right;",
)  # fmt: skip
MADE = Made(1, Target(client="acme"), Path("/backups/acme/latest_backup.sql.gz"), MANIFEST, "postgres")
EVENT = events.finished(MADE.target, MADE, None, "", "run-1", MOMENT)


def to(url: str, key: str = KEY) -> Endpoint:
    return webhook.endpoint(url, key, "hooks")


@pytest.fixture(autouse=True)
def _nothing_of_the_address_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    assert not [record for record in caplog.get_records("call") if TOKEN in record.getMessage()]


async def test_an_event_arrives_once_with_a_signature_that_the_library_takes():
    with receiving() as receiver:
        assert await webhook.post(to(receiver.url), EVENT) == 1
    (got,) = receiver.got
    assert got.event() == EVENT and got.path == f"/hook?token={TOKEN}"
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["webhook-id"].startswith("msg_") and got.headers["webhook-signature"].startswith("v1,")
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60


async def test_another_key_or_an_altered_body_is_not_taken():
    with receiving() as receiver:
        await webhook.post(to(receiver.url, KEY.replace("c2Vj", "c2Vk")), EVENT)
        await webhook.post(to(receiver.url), EVENT)
    other, ours = receiver.got
    assert ours.event() == EVENT
    ours.body = ours.body.replace(b'"good"', b'"gone"')
    for got in (other, ours):
        with pytest.raises(WebhookVerificationError):
            got.event()


async def test_a_text_is_a_key_as_it_stands():
    text = "correct-horse-battery-staple"
    with receiving() as receiver:
        await webhook.post(to(receiver.url, text), EVENT)
    assert receiver.got[0].event(text.encode()) == EVENT


async def test_what_fails_for_a_while_is_tried_again_under_one_id_and_signed_anew():
    with receiving(Answer(500), Answer(503), Answer(200)) as receiver:
        assert await webhook.post(to(receiver.url), EVENT, QUICK) == 3
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert [got.event() for got in receiver.got] == [EVENT] * 3


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
async def test_it_comes_again_when_it_was_asked_to(status, dated):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if dated else "1"
    with receiving(Answer(status, {"Retry-After": later}), Answer()) as receiver:
        began = time.monotonic()
        assert await webhook.post(to(receiver.url), EVENT, QUICK) == 2
    assert time.monotonic() - began >= 0.9


async def test_a_wish_to_wait_for_longer_than_its_patience_ends_it():
    with (
        receiving(Answer(429, {"Retry-After": "3600"})) as receiver,
        pytest.raises(Unreachable, match=r"answered 429; "),
    ):
        await webhook.post(to(receiver.url), EVENT)
    assert len(receiver.got) == 1


async def test_patience_ends_and_the_sentence_says_how_often_it_tried():
    with receiving(Answer(500)) as receiver, pytest.raises(Unreachable) as failed:
        await webhook.post(to(receiver.url), EVENT, replace(QUICK, attempts=3))
    assert str(failed.value) == "the webhook at 127.0.0.1 answered 500 (tried 3 times); see its service's log."
    assert len(receiver.got) == 3


async def test_no_attempt_begins_when_the_time_is_over():
    with receiving(Answer(500, seconds=0.3)) as receiver, pytest.raises(Unreachable, match="answered 500"):
        await webhook.post(to(receiver.url), EVENT, replace(QUICK, total=0.1))
    assert len(receiver.got) == 1


async def test_one_that_does_not_answer_is_left_after_the_deadline_of_an_attempt():
    with receiving(Answer(seconds=60), Answer()) as receiver:
        began = time.monotonic()
        assert await webhook.post(to(receiver.url), EVENT, replace(QUICK, attempt=0.5)) == 2
        assert time.monotonic() - began < 30
        receiver.answers = [Answer(seconds=60)]
        with pytest.raises(Unreachable, match=r"did not answer within 0.5 s \(tried 2 times\)"):
            await webhook.post(to(receiver.url), EVENT, replace(QUICK, attempt=0.5, attempts=2))


async def test_an_answer_that_drips_does_not_outlast_the_deadline(tmp_path):
    import socket
    import threading

    ends = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not ends.wait(0.1):
                    connection.sendall(b"x: y\r\n")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(Unreachable, match="did not answer within 1 s"):
            await webhook.post(to(url), EVENT, replace(QUICK, attempt=1.0, attempts=1))
        ends.set()
        thread.join(timeout=30)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 413])
async def test_a_no_is_not_asked_again(status):
    with receiving(Answer(status)) as receiver, pytest.raises(Refused, match=f"at 127.0.0.1 answered {status}; "):
        await webhook.post(to(receiver.url), EVENT, QUICK)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status):
    said = pytest.raises(Refused, match="write the final address into the block hooks")
    with (
        receiving() as other,
        receiving(Answer(status, {"Location": f"http://127.0.0.1:{other.port}/"})) as receiver,
        said,
    ):
        await webhook.post(to(receiver.url), EVENT, QUICK)
    assert (len(receiver.got), len(other.got)) == (1, 0)


async def test_nobody_there_is_said_in_words():
    url = f"http://127.0.0.1:{free_port()}/{TOKEN}"
    with pytest.raises(Unreachable) as failed:
        await webhook.post(to(url), EVENT, replace(QUICK, attempts=2))
    said = "the webhook at 127.0.0.1 refuses connections (tried 2 times); see whether its service is up."
    assert str(failed.value) == said
    with pytest.raises(Unreachable, match=r"the webhook's host nobody\.invalid is not found"):
        await webhook.post(to(f"https://nobody.invalid/{TOKEN}"), EVENT, replace(QUICK, attempts=1, attempt=60.0))


async def test_certificates_are_verified_and_a_ca_of_ones_own_may_be_trusted(tmp_path, monkeypatch):
    ca, cert, key = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with receiving(tls=context) as receiver:
        with pytest.raises(Refused, match=r"the certificate of the webhook at 127.0.0.1 is not good \(.+\); renew it"):
            await webhook.post(to(receiver.url), EVENT, QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        assert await webhook.post(to(receiver.url), EVENT, QUICK) == 1
    with (
        receiving() as plain,
        pytest.raises(Refused, match="no TLS on that port; correct the port of the URL in the block"),
    ):
        await webhook.post(to(plain.url.replace("http:", "https:")), EVENT, QUICK)
    assert [got.event() for got in receiver.got] == [EVENT] and plain.got == []


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with receiving() as receiver:
        assert await webhook.post(to(receiver.url), EVENT, replace(QUICK, attempts=1)) == 1


@pytest.mark.parametrize(
    "url",
    ["", "hooks.example.org/x", "ftp://hooks.example.org", "https://?x", "https://a b/", "https://h\\x", "https://h:99999/",
     "http://hooks.example.org/", "http://127.0.0.1.example.org/", "http://10.0.0.7/", "https://h/\n", "https://[::1/"],
)  # fmt: skip
def test_an_address_that_events_may_not_go_to_is_refused_unshown(url):
    with pytest.raises(InvalidInput) as refused:
        webhook.require_url(url, "BACKUP_WEBHOOK_URL")
    assert str(refused.value).startswith("BACKUP_WEBHOOK_URL is ") and not (url and url in str(refused.value))


@pytest.mark.parametrize("url", ["https://hooks.example.org/x?token=1", "http://localhost:9/", "http://[::1]:9/"])
def test_an_address_that_events_may_go_to(url):
    assert webhook.require_url(url, "x") == url


@pytest.mark.parametrize(
    "key",
    ["", "whsec_", "short", "whsec_c2hvcnQ=", "whsec_" + "!" * 32, "with spaces in it, and long enough", "ü" * 30, "x" * 201,
     "whsk_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LQ==", "whsec_" + "A" * 120],
)  # fmt: skip
def test_nonsense_for_a_key_is_refused_unshown(key):
    with pytest.raises(InvalidInput) as refused:
        webhook.key_of(key, "the signing key in the block hooks")
    assert str(refused.value).startswith("the signing key in the block hooks ") and "openssl rand" in str(refused.value)
    assert not key or key not in str(refused.value) or key in ("whsec_", "short")


def test_a_key_may_lack_its_padding_and_have_a_line_end():
    assert webhook.key_of(KEY.rstrip("=") + "\n", "x") == webhook.key_of(KEY, "x")


def test_the_event_of_a_good_backup_holds_its_facts_and_no_tables_roles_or_rights():
    failed = Refused("only a@example.org got it", "correct the other")
    sent = delivery.Delivered(
        Delivery.FAILED, ["a@example.org"], "it was not delivered to everybody", failed, 1, MOMENT
    )
    event = events.finished(MADE.target, MADE, sent, "", "run-1", MOMENT)
    assert event == {
        "type": "backup.finished",
        "timestamp": "2026-11-20T02:00:01.234Z",
        "data": {
            "target": "client:acme", "client": "acme", "database": None, "status": "good", "error": None,
            "run_id": "run-1", "path": "/backups/acme/latest_backup.sql.gz", "taken_at": "2026-11-20T02:00:01.234Z",
            "seconds": 1.235, "file_bytes": 2000, "raw_bytes": 5000, "database_bytes": 9000, "sha256": "ab" * 32,
            "tables": 2, "rows": 9, "large_objects": 3, "server_version": "16.4", "dated_error": None, "delivery": "failed",
            "delivery_error": "only a@example.org got it; correct the other.",
            "delivery_next_try": "2026-11-20T02:00:01.234Z",
        },
    }  # fmt: skip
    assert "hush" not in json.dumps(event) and "mails" not in json.dumps(event)
    assert EVENT["data"]["delivery"] == "off" and EVENT["data"]["delivery_error"] is None


def test_both_endings_have_the_same_fields_and_long_sentences_are_cut():
    failed = events.finished(Target(database="crm"), None, None, "x" * 9000, "run-1", MOMENT)
    assert failed["data"].keys() == EVENT["data"].keys()
    assert (failed["data"]["database"], failed["data"]["client"]) == ("crm", None)
    assert len(json.dumps(failed)) < 4000


def test_an_endpoint_shows_its_host_alone():
    shown = repr(to(f"https://me:{TOKEN}@hooks.example.org/{TOKEN}")) + str(to("https://hooks.example.org/").host)
    assert TOKEN not in shown and KEY not in shown and "hooks.example.org" in shown

"""Delivery through a real SMTP conversation with the stand-in: TLS, logins, sizes, refusals, cut connections."""

import os
import socket
import threading
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.backups import delivery, message, replies
from tasks.backups.delivery import Post, check, deliver
from tasks.backups.mail import Account, send, send_patiently
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target
from tasks.errors import FleetError, NotConfigured, Refused, Unreachable
from tasks.registry.models import Delivery
from tests.conftest import free_port
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SENDER = message.address("Sicherungen Größe <ops@example.org>", "sender")


@pytest.fixture(scope="module")
def pem(tmp_path_factory) -> tuple[Path, Path, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def box(tmp_path, pem):
    """Account, what the server knows, and the folder of what arrived."""
    with running(tmp_path / "mail", pem[1], pem[2]) as (post, port):
        yield Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0])), post, tmp_path / "mail"


@pytest.fixture
def backup(tmp_path) -> tuple[Manifest, Path]:
    path = tmp_path / "Größe latest.sql.gz"
    path.write_bytes(os.urandom(300_001))
    made = Manifest(
        "client:acme", "run", "zero_client_acme", "db:5432", WHEN, 1.5, "16.14", "16.14", 1_000_000, 900_000, 300_001,
        "ab" * 32, "UTF8", {"public.t": 3}, 0, [],
    )  # fmt: skip
    return made, path


def _post(*recipients: str) -> Post:
    return Post(
        SENDER, list(recipients), "[AgentAssistant] Backup", "UTC", "<zero-fleet.1@example.org>", "ops", wait=0.05
    )


def _deliver(account: Account, post: Post, backup) -> delivery.Delivered:
    made, path = backup
    with path.open("rb") as file:
        return deliver(account, post, Target(client="acme"), made, file, path)


def test_the_mail_arrives_with_the_file_and_everything_a_mail_needs(box, backup):
    account, _, folder = box
    came = _deliver(replace(account, password="abcd efgh ijkl mnop"), _post("a@example.org", "b@example.org"), backup)
    assert (came.state, came.accepted, came.error) == (Delivery.SENT, ["a@example.org", "b@example.org"], None)
    (mail,) = mails(folder)
    assert mail["subject"] == "[AgentAssistant] Backup acme - 2026-01-02 03:04"
    assert mail["from"] == "Sicherungen Größe <ops@example.org>" and mail["to"] == "a@example.org, b@example.org"
    assert mail["message-id"] == "<zero-fleet.1@example.org>" and mail["date"].datetime == WHEN
    (attachment,) = mail.iter_attachments()
    assert attachment.get_filename() == "Größe latest.sql.gz" and attachment.get_content_type() == "application/gzip"
    assert attachment.get_content() == backup[1].read_bytes()
    text = mail.get_body().get_content()
    assert "ab" * 32 in text and "psql -X -v ON_ERROR_STOP=1 -h db -p 5432 -U ops" in text and "1 with 3 rows" in text
    assert not mail.defects


def test_the_announced_size_is_the_size(box, backup):
    """What SIZE= says must be what goes over the wire, to the byte."""
    account, _, folder = box
    for size in (0, 1, 56, 57, 58, 57 * 1024, 57 * 1024 + 1):
        backup[1].write_bytes(os.urandom(size))
        letter = message.letter(SENDER, ["a@example.org"], "s", "t\n.dot\n", "<1@x>", WHEN, "UTC", ("f", size))
        with backup[1].open("rb") as file:
            send(account, "ops@example.org", ["a@example.org"], letter, file)
        stored = sorted(folder.glob("*.eml"))[-1].read_bytes()
        stuffed = letter.head.count(b"\r\n..")
        assert len(stored) == letter.size - stuffed
        (attachment,) = mails(folder)[-1].iter_attachments()
        assert attachment.get_content() == backup[1].read_bytes()


def test_it_trusts_no_other_ca_no_other_name_and_nothing_expired(box, backup, tmp_path, pem):
    account, _, folder = box
    other = certificates(tmp_path / "other")
    came = _deliver(replace(account, ca_file=str(other[0])), _post("a@example.org"), backup)
    assert "certificate of localhost" in came.sentence and "was not accepted" in came.sentence
    came = _deliver(replace(account, host="127.1"), _post("a@example.org"), backup)
    assert "certificate of 127.1" in came.sentence and "was not accepted" in came.sentence
    old = certificates(tmp_path / "old", days=-1)
    with running(tmp_path / "m", old[1], old[2]) as (_, port):
        came = _deliver(replace(account, port=port, ca_file=str(old[0])), _post("a@example.org"), backup)
    assert "certificate has expired" in came.sentence
    assert mails(folder) == []


def test_it_names_a_refused_login_without_the_password(box, backup):
    account, post, _ = box
    came = _deliver(replace(account, password="wrong-secret"), _post("a@example.org"), backup)
    assert came.state == Delivery.FAILED and isinstance(came.error, Refused)
    assert "SMTP authentication failed" in came.sentence and "wrong-secret" not in came.sentence
    assert post.connections == 1  # a wrong password is not tried again
    came = _deliver(replace(account, password="größe"), _post("a@example.org"), backup)
    assert isinstance(came.error, NotConfigured) and "größe" not in came.sentence


def test_it_names_a_refused_connection_and_a_host_that_does_not_exist(box, backup):
    account = replace(box[0], port=free_port())
    assert "connection refused by localhost" in _deliver(account, _post("a@example.org"), backup).sentence
    account = replace(box[0], host="no-such-host.invalid")
    assert "there is no host no-such-host.invalid" in _deliver(account, _post("a@example.org"), backup).sentence


def test_it_says_when_the_kind_of_tls_is_wrong(box, backup, tmp_path, pem):
    came = _deliver(replace(box[0], security="SSL"), _post("a@example.org"), backup)
    assert "WRONG_VERSION_NUMBER" in came.sentence and "set the SMTP type STARTTLS" in came.sentence
    came = _deliver(replace(box[0], security="PLAIN", username=""), _post("a@example.org"), backup)
    assert "wants TLS first" in came.sentence
    with running(tmp_path / "ssl", pem[1], pem[2], implicit=True) as (_, port):
        account = replace(box[0], port=port)
        letter = message.letter(SENDER, ["a@example.org"], "s", "t", "<1@x>", WHEN, "UTC")
        with pytest.raises(Unreachable, match="waits for TLS from the first byte"):
            send(account, "ops@example.org", ["a@example.org"], letter, seconds=1)
        assert _deliver(replace(account, security="SSL"), _post("a@example.org"), backup).state == Delivery.SENT
    assert len(mails(tmp_path / "ssl")) == 1


def test_it_says_when_a_server_has_no_starttls(backup, tmp_path):
    with running(tmp_path / "m", None, None) as (_, port):
        came = _deliver(Account("localhost", port, "STARTTLS", USER, PASSWORD), _post("a@example.org"), backup)
    assert "offers no STARTTLS" in came.sentence


def test_a_partial_refusal_names_who_and_is_no_delivery(box, backup):
    came = _deliver(box[0], _post("a@example.org", "refused@example.org", "full@example.org"), backup)
    assert came.state == Delivery.FAILED and came.accepted == ["a@example.org"]
    assert "only a@example.org got it" in came.sentence
    assert "recipient refused@example.org was refused" in came.sentence and "mailbox full" in came.sentence
    assert len(mails(box[2])) == 1


def test_a_whole_refusal_names_the_recipient(box, backup):
    came = _deliver(box[0], _post("refused@example.org"), backup)
    assert (came.state, came.accepted) == (Delivery.FAILED, [])
    assert "550 5.1.1" in came.sentence and "EMAIL_BACKUP_RECIPIENT" in came.sentence


def test_greylisting_is_waited_out(box, backup):
    assert _deliver(box[0], _post("greylist@example.org"), backup).state == Delivery.SENT
    assert box[1].connections == 2


def test_a_connection_cut_inside_data_is_tried_again(box, backup):
    # More than the system's buffers take, or the cut would come after the last byte.
    backup[1].write_bytes(os.urandom(20_000_000))
    backup = (replace(backup[0], file_bytes=20_000_000), backup[1])
    assert _deliver(box[0], _post("cut@example.org"), backup).state == Delivery.SENT
    assert box[1].connections == 2 and len(mails(box[2])) == 1


def test_a_server_that_vanishes_with_the_whole_mail_is_not_asked_twice(box, backup):
    came = _deliver(box[0], _post("vanish@example.org"), backup)
    assert isinstance(came.error, replies.Undecided) and "may or may not have been delivered" in came.sentence
    assert box[1].connections == 1


def test_a_rate_limit_is_named(box, backup):
    assert "limits how much may be sent" in _deliver(box[0], _post("ratelimit@example.org"), backup).sentence


def test_what_is_too_big_by_the_announcement_goes_without_the_file(backup, tmp_path, pem):
    with running(tmp_path / "m", pem[1], pem[2], size=100_000) as (_, port):
        account = Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0]))
        came = _deliver(account, _post("a@example.org"), backup)
    assert came.state == Delivery.SENT_WITHOUT_FILE and "WITHOUT the file" in came.sentence
    (mail,) = mails(tmp_path / "m")
    assert not list(mail.iter_attachments())
    text = " ".join(mail.get_content().split())
    assert "NOT attached" in text and str(backup[1]) in text


def test_what_is_refused_as_too_big_after_data_is_no_delivery_with_the_file(box, backup):
    """This recipient's server refuses every size with 552, so the report fails as well and that is said."""
    came = _deliver(box[0], _post("toobig@example.org"), backup)
    assert came.state == Delivery.FAILED and "552 5.3.4" in came.sentence


def test_a_silent_server_is_left_after_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        account = Account("127.0.0.1", silent.getsockname()[1], "STARTTLS", USER, PASSWORD)
        letter = message.letter(SENDER, ["a@example.org"], "s", "t", "<1@x>", WHEN, "UTC")
        with pytest.raises(Unreachable, match="did not answer within 1 s at the step connect"):
            send(account, "ops@example.org", ["a@example.org"], letter, seconds=1)


def test_something_that_speaks_no_smtp_is_named():
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
        connection.recv(100)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=answer, args=(other,), daemon=True).start()
        account = Account("127.0.0.1", other.getsockname()[1], "STARTTLS", USER, PASSWORD)
        with pytest.raises(FleetError):
            send(
                account, "ops@example.org", ["a@b.c"], message.letter(SENDER, ["a@b.c"], "s", "t", "<1@x>", WHEN, "UTC")
            )


def test_the_file_is_never_held_in_memory(box, tmp_path):
    size = 18 * 2**20
    path = tmp_path / "big"
    path.write_bytes(os.urandom(size))
    letter = message.letter(SENDER, ["a@example.org"], "s", "t", "<1@x>", WHEN, "UTC", ("big", size))

    class Hole:
        """Stands for the socket: takes everything, keeps nothing."""

        total = 0

        def sendall(self, data: bytes) -> None:
            self.total += len(data)

    from tasks.backups.mail import _pieces

    hole = Hole()
    tracemalloc.start()
    with path.open("rb") as file:
        for piece in _pieces(letter, file):
            hole.sendall(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert hole.total == letter.size and peak < 2 * 2**20


def test_trying_again_ends():
    tried = []

    def never():
        tried.append(1)
        raise Unreachable("a", "b")

    with pytest.raises(Unreachable):
        send_patiently(never, attempts=3, wait=0.01)
    assert len(tried) == 3


def test_the_settings_are_checked_step_by_step(box, tmp_path):
    account, _, folder = box
    seen = []
    reply = check(account, SENDER, "a@example.org", "<1@x>", WHEN, "UTC", lambda step: seen.append(step.name))
    assert tuple(seen) == delivery.STEPS and reply.startswith("250 2.0.0 stored")
    assert mails(folder)[0]["subject"] == "Zero Fleet - test"
    for wrong, step in (
        (replace(account, host="no-such-host.invalid"), "resolve"),
        (replace(account, port=free_port()), "connect"),
        (replace(account, ca_file=str(certificates(tmp_path / "other")[0])), "tls"),
        (replace(account, security="SSL"), "tls"),
        (replace(account, password="wrong"), "login"),
    ):
        with pytest.raises(FleetError, match=f"the step {step} failed"):
            check(wrong, SENDER, "a@example.org", "<1@x>", WHEN, "UTC", lambda step: None)
    for recipient, step in (("refused@example.org", "recipient"), ("toobig@example.org", "message")):
        with pytest.raises(FleetError, match=f"the step {step} failed"):
            check(account, SENDER, recipient, "<1@x>", WHEN, "UTC", lambda step: None)


@pytest.mark.parametrize(
    ("stage", "code", "text", "kind", "words"),
    [
        ("login", 535, "5.7.8 Username and Password not accepted", Refused, "make an app password"),
        ("login", 534, "5.7.9 Application-specific password required", Refused, "make an app password"),
        ("login", 454, "4.7.0 Temporary authentication failure", Unreachable, "could not take the mail now"),
        ("sender", 530, "5.7.0 Must issue a STARTTLS command first", Refused, "wants TLS first"),
        ("sender", 530, "5.7.0 Authentication Required", Refused, "wants a login first"),
        ("sender", 552, "5.3.4 Message size exceeds fixed limit", replies.TooBig, "too big"),
        ("sender", 553, "5.7.1 Sender address rejected: not owned by auth user", Refused, "DEFAULT_FROM_EMAIL"),
        ("recipient", 552, "5.2.2 mailbox full", Refused, "was refused"),
        ("recipient", 451, "4.7.1 greylisted", Unreachable, "greylisted"),
        ("recipient", 550, "5.1.1 no such user", Refused, "was refused"),
        ("message", 550, "5.4.5 Daily user sending quota exceeded", Unreachable, "limits how much"),
        ("message", 554, "5.7.1 spam", Refused, "refused the mail"),
        ("greeting", 421, "4.3.2 too busy", Unreachable, "could not take the mail now"),
    ],
)
def test_replies_are_classified(stage, code, text, kind, words):
    where = replies.Where("smtp.gmail.com", 587, "STARTTLS", "me@gmail.com")
    error = replies.refusal(stage, code, text, where, "a@example.org")
    assert type(error) is kind and words in str(error)


def test_a_personal_outlook_account_is_told_the_truth():
    where = replies.Where("smtp-mail.outlook.com", 587, "STARTTLS", "me@hotmail.com")
    error = replies.refusal(
        "login", 535, "5.7.139 Authentication unsuccessful, basic authentication is disabled.", where
    )
    assert "take no passwords since September 2024" in str(error)


@pytest.mark.parametrize("value", ["", "nobody", "a b@example.org", "a@example.org\r\nBcc: x@y.z", "größe@example.org"])
def test_a_wrong_recipient_is_refused_before_anything_is_sent(value):
    with pytest.raises(FleetError):
        message.require_recipients(True, [value])


def test_a_prefix_with_a_line_break_cannot_make_a_header():
    assert "\n" not in message.subject("a\r\nBcc: x@y.z", Target(client="acme"), WHEN, "UTC")

"""Delivery through a real SMTP conversation with the stand-in: TLS, logins, sizes, refusals, cut connections."""

import os
import socket
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.backups import delivery, message, providers, replies
from tasks.backups.delivery import check
from tasks.backups.mail import Account, send, send_patiently
from tasks.backups.manifest import Manifest
from tasks.backups.posted import Book
from tasks.backups.source import Target
from tasks.errors import FleetError, NotConfigured, Refused, Unreachable
from tasks.registry.models import Delivery, MailState
from tests.conftest import free_port
from tests.tasks.backups import posting
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running
from tests.tasks.backups.posting import SENDER, WHEN
from tests.tasks.backups.posting import post as _post


@pytest.fixture(scope="module")
def pem(tmp_path_factory) -> tuple[Path, Path, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def box(tmp_path, pem):
    """Account, what the server knows, and the folder of what arrived."""
    with running(tmp_path / "mail", pem[1], pem[2]) as (post, port):
        yield Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0])), post, tmp_path / "mail"


@pytest.fixture
def book(tmp_path):
    with posting.books(tmp_path) as engine:
        yield Book(engine, posting.row_of(engine))


@pytest.fixture
def backup(tmp_path, book) -> tuple[Manifest, Path, Book]:
    path = tmp_path / "Größe latest.sql.gz"
    path.write_bytes(os.urandom(300_001))
    return posting.manifest(300_001), path, book


def _deliver(account: Account, given: delivery.Post, backup) -> delivery.Delivered:
    return posting.deliver(account, given, backup[2], backup[:2])


def _noted(backup) -> list[tuple[MailState, list[str]]]:
    return [(one.state, one.accepted) for one in backup[2].mails()]


def test_the_mail_arrives_with_the_file_and_everything_a_mail_needs(box, backup):
    account, _, folder = box
    came = _deliver(replace(account, password="abcd efgh ijkl mnop"), _post("a@example.org", "b@example.org"), backup)
    assert (came.state, came.accepted, came.error) == (Delivery.SENT, ["a@example.org", "b@example.org"], None)
    (mail,) = mails(folder)
    assert mail["subject"] == "[AgentAssistant] Backup acme - 2026-01-02 03:04"
    assert mail["from"] == "Sicherungen Größe <ops@example.org>" and mail["to"] == "a@example.org, b@example.org"
    assert mail["message-id"] == "<zero-fleet.1@example.org>" and mail["date"].datetime == WHEN
    attachment, beside = mail.iter_attachments()
    assert beside.get_filename() == "Größe latest.sql.gz.json"
    assert Manifest.from_json(beside.get_content().decode(), backup[1]) == backup[0]
    assert attachment.get_filename() == "Größe latest.sql.gz" and attachment.get_content_type() == "application/gzip"
    assert attachment.get_content() == backup[1].read_bytes()
    text = mail.get_body().get_content()
    assert (
        "ab" * 32 in text
        and "psql -X -v ON_ERROR_STOP=1 -h db -p 5432 -U zero_client_acme" in text
        and "1 with 3 rows" in text
    )
    assert not mail.defects
    assert _noted(backup) == [(MailState.SENT, ["a@example.org", "b@example.org"])]


def test_the_announced_size_is_the_size(box, backup):
    """What SIZE= says must be what goes over the wire, to the byte."""
    account, _, folder = box
    for size in (0, 1, 56, 57, 58, 57 * 1024, 57 * 1024 + 1):
        backup[1].write_bytes(os.urandom(size + 5))
        small = ("f.json", os.urandom(size % 100))
        letter = message.letter(
            SENDER, ["a@example.org"], "s", "t\n.dot\n", "<1@x>", WHEN, "UTC", ("f", size), 5, small
        )
        with backup[1].open("rb") as file:
            send(account, "ops@example.org", ["a@example.org"], letter, file)
        stored = sorted(folder.glob("*.eml"))[-1].read_bytes()
        stuffed = letter.head.count(b"\r\n..")
        assert len(stored) == letter.size - stuffed
        attachment, beside = mails(folder)[-1].iter_attachments()
        assert attachment.get_content() == backup[1].read_bytes()[5:]
        assert (beside.get_filename(), beside.get_content()) == small


def test_it_trusts_no_other_ca_no_other_name_and_nothing_expired(box, backup, tmp_path, pem):
    account, _, folder = box
    other = certificates(tmp_path / "other")
    came = _deliver(replace(account, ca_file=str(other[0])), _post("a@example.org"), backup)
    assert "certificate of localhost" in came.sentence and "was not accepted" in came.sentence
    wrong = certificates(tmp_path / "wrong", host="mx.example.org")
    with running(tmp_path / "w", wrong[1], wrong[2]) as (_, port):
        came = _deliver(replace(account, port=port, ca_file=str(wrong[0])), _post("a@example.org"), backup)
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in came.sentence
    assert "write EMAIL_HOST as in its certificate" in came.sentence
    old = certificates(tmp_path / "old", days=-1)
    with running(tmp_path / "m", old[1], old[2]) as (_, port):
        came = _deliver(replace(account, port=port, ca_file=str(old[0])), _post("a@example.org"), backup)
    assert "certificate has expired" in came.sentence
    assert isinstance(came.error, Refused)
    assert mails(folder) == [] and _noted(backup) == []


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
    assert box[1].connections == 3  # the first asks for the limit
    assert _noted(backup) == [(MailState.FAILED, []), (MailState.SENT, ["greylist@example.org"])]


def test_greylisting_of_one_is_waited_out_without_mailing_the_other_twice(box, backup):
    came = _deliver(box[0], _post("a@example.org", "greylist@example.org"), backup)
    assert (came.state, came.accepted) == (Delivery.SENT, ["a@example.org", "greylist@example.org"])
    assert [mail["to"] for mail in mails(box[2])] == ["a@example.org, greylist@example.org", "greylist@example.org"]
    assert [accepted for _, accepted in _noted(backup)] == [["a@example.org"], ["greylist@example.org"]]
    assert [mail["subject"] for mail in mails(box[2])] == ["[AgentAssistant] Backup acme - 2026-01-02 03:04"] * 2


def test_a_connection_cut_inside_data_is_tried_again(box, backup):
    # More than the system's buffers take, or the cut would come after the last byte.
    backup[1].write_bytes(os.urandom(20_000_000))
    backup = (replace(backup[0], file_bytes=20_000_000), *backup[1:])
    assert _deliver(box[0], _post("cut@example.org"), backup).state == Delivery.SENT
    assert box[1].connections == 3 and len(mails(box[2])) == 1
    assert _noted(backup) == [(MailState.FAILED, []), (MailState.SENT, ["cut@example.org"])]
    assert "cut the connection at the step message" in str(backup[2].mails()[0].error)
    assert mails(box[2])[0]["subject"] == "[AgentAssistant] Backup acme - 2026-01-02 03:04"


def test_a_server_that_is_silent_inside_data_is_left_after_the_deadline(box, backup):
    came = _deliver(box[0], _post("silent@example.org", seconds=2), backup)
    assert isinstance(came.error, Unreachable) and "did not answer within 2 s at the step message" in came.sentence
    assert _noted(backup) == [(MailState.FAILED, [])] * 3


@pytest.mark.parametrize(("recipient", "arrives"), [("vanish@example.org", 0), ("keepvanish@example.org", 1)])
def test_a_server_that_vanishes_with_the_whole_mail_is_not_asked_twice_unsaid(box, backup, recipient, arrives):
    came = _deliver(box[0], _post(recipient), backup)
    assert isinstance(came.error, replies.Undecided) and "may or may not have been delivered" in came.sentence
    assert box[1].connections == 2 and len(mails(box[2])) == arrives
    assert _noted(backup) == [(MailState.SENDING, [recipient])]
    came = _deliver(box[0], _post(recipient, "b@example.org"), backup)
    assert came.state == Delivery.SENT
    mail = mails(box[2])[-1]
    assert mail["subject"] == "[AgentAssistant] Backup acme - 2026-01-02 03:04 (an earlier one may have arrived)"
    assert f"may have arrived at {recipient}; if it did" in " ".join(mail.get_body().get_content().split())
    assert {one["message-id"] for one in mails(box[2])} == {"<zero-fleet.1@example.org>"}


def test_a_rate_limit_is_named(box, backup):
    came = _deliver(box[0], _post("ratelimit@example.org"), backup)
    assert "limits how much may be sent" in came.sentence and isinstance(came.error, Unreachable)


def test_who_has_it_is_not_mailed_again_and_who_was_refused_is(box, backup):
    account, _, folder = box
    assert _deliver(account, _post("a@example.org", "refused@example.org"), backup).state == Delivery.FAILED
    came = _deliver(account, _post("a@example.org", "b@example.org"), backup)
    assert (came.state, came.sentence) == (Delivery.SENT, "mailed to b@example.org")
    assert [mail["to"] for mail in mails(folder)] == ["a@example.org, refused@example.org", "b@example.org"]
    came = _deliver(account, _post("a@example.org", "b@example.org"), backup)
    assert (came.state, came.sentence) == (Delivery.SENT, "it was mailed to a@example.org, b@example.org before")
    assert len(mails(folder)) == 2


def test_on_demand_it_is_mailed_again_and_says_so(box, backup):
    account, _, folder = box
    _deliver(account, _post("a@example.org"), backup)
    came = _deliver(account, _post("a@example.org", again=True), backup)
    assert (came.state, came.sentence) == (Delivery.SENT, "mailed again to a@example.org")
    first, second = mails(folder)
    assert second["subject"] == first["subject"] + " (sent again)"
    assert "SENT AGAIN: a@example.org had this backup mailed before" in " ".join(
        second.get_body().get_content().split()
    )
    assert first["message-id"] != second["message-id"]  # or a mailbox would hide it
    came = _deliver(account, _post("a@example.org", "refused@example.org", again=True), backup)
    assert "refused@example.org was refused" in came.sentence and len(mails(folder)) == 2


def test_what_is_too_big_by_the_announcement_goes_without_the_file(backup, tmp_path, pem):
    with running(tmp_path / "m", pem[1], pem[2], size=100_000) as (_, port):
        account = Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0]))
        came = _deliver(account, _post("a@example.org"), backup)
    assert came.state == Delivery.SENT_WITHOUT_FILE and "WITHOUT the file" in came.sentence
    assert "takes mails up to 97.7 KiB" in came.sentence
    (mail,) = mails(tmp_path / "m")
    assert not list(mail.iter_attachments())
    text = " ".join(mail.get_content().split())
    assert "NOT attached" in text and str(backup[1]) in text and "ab" * 32 in text and "gunzip -c" in text
    assert mail["message-id"] == "<zero-fleet.1.report@example.org>"


def test_what_is_refused_as_too_big_after_data_goes_without_the_file(box, backup):
    came = _deliver(box[0], _post("bigfile@example.org"), backup)
    assert came.state == Delivery.SENT_WITHOUT_FILE and "552 5.3.4" in came.sentence
    (mail,) = mails(box[2])
    assert "NOT attached" in mail.get_content() and mail["subject"] == "[AgentAssistant] Backup acme - 2026-01-02 03:04"
    assert _noted(backup) == [(MailState.FAILED, []), (MailState.SENT, ["bigfile@example.org"])]


def test_what_is_refused_as_too_big_always_is_no_delivery(box, backup):
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
    tried = check(account, SENDER, "a@example.org", "<1@x>", WHEN, "UTC", lambda step: seen.append(step.name))
    assert tuple(seen) == delivery.STEPS and tried.reply.startswith("250 2.0.0 stored")
    assert tried.room == "it takes mails up to 34.2 MiB, so files up to about 25.0 MiB"
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
    assert "Microsoft refuses passwords of personal Outlook accounts since September 2024" in str(error)


def test_a_personal_outlook_account_is_refused_without_connecting(backup, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a))
    for host, user in (("smtp-mail.outlook.com", "me@example.org"), ("smtp.office365.com", "me@hotmail.com")):
        account = Account(host, 587, "STARTTLS", user, PASSWORD)
        came = _deliver(account, _post("a@example.org"), backup)
        assert isinstance(came.error, Refused) and "cannot send: Microsoft refuses passwords" in came.sentence
        with pytest.raises(Refused, match=r"cannot send: Microsoft refuses .*; send through another provider"):
            check(account, SENDER, "a@example.org", "<1@x>", WHEN, "UTC", lambda step: None)
    assert asked == []


@pytest.mark.parametrize("provider", providers.KNOWN, ids=lambda one: one.name)
def test_each_provider_is_known_by_its_host(provider, tmp_path, monkeypatch, book):
    """A real conversation under the provider's own name: its advice for a password, its limit where none is announced."""
    ca, cert, key = certificates(tmp_path / "tls", host=provider.host)
    path = tmp_path / "latest.sql.gz"
    path.write_bytes(os.urandom(1000))
    with running(tmp_path / "m", cert, key, size=0, implicit=provider.security == "SSL") as (_, port):
        found = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **k: found("127.0.0.1" if host == provider.host else host, *a, **k)
        )
        account = Account(provider.host, port, provider.security, USER, "wrong", str(ca))
        came = posting.deliver(account, _post("a@example.org"), book, (posting.manifest(1000), path))
        assert "SMTP authentication failed" in came.sentence and provider.password in came.sentence
        account = replace(account, password=PASSWORD)
        made = posting.manifest(provider.limit)
        came = posting.deliver(account, _post("a@example.org"), book, (made, path))
        assert came.state == Delivery.SENT_WITHOUT_FILE and "too big to mail" in came.sentence
        tried = check(account, SENDER, "a@example.org", "<1@x>", WHEN, "UTC", lambda step: None)
        assert tried.limit == provider.limit


@pytest.mark.parametrize("value", ["", "nobody", "a b@example.org", "a@example.org\r\nBcc: x@y.z", "größe@example.org"])
def test_a_wrong_recipient_is_refused_before_anything_is_sent(value):
    with pytest.raises(FleetError):
        message.require_recipients(True, [value])


def test_a_prefix_with_a_line_break_cannot_make_a_header():
    assert "\n" not in message.subject("a\r\nBcc: x@y.z", Target(client="acme"), WHEN, "UTC")

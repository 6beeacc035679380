"""Deliveries with the registry and the locks: what is told of good, failed, later, superseded and killed ones."""

import hashlib
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, timedelta
from email.message import EmailMessage
from pathlib import Path

import pyrage
import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from tasks.backups import delivery, mailing, posted
from tasks.backups import manifest as manifests
from tasks.backups.keeper import Keeper
from tasks.backups.mail import Account
from tasks.backups.manifest import Made
from tasks.backups.posted import Book
from tasks.clock import now
from tasks.errors import Conflict, FleetError, NotConfigured, NotFound, Refused, Unreachable
from tasks.registry.models import BackupKind, BackupMail, BackupRun, Delivery, MailState
from tests.conftest import free_port
from tests.tasks.backups import dying, posting
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running
from tests.tasks.backups.posting import ACME, post

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pem(tmp_path_factory) -> tuple[Path, Path, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


def _keeper(engine: Engine, folder: Path) -> Keeper:
    return Keeper(engine, folder / "locks", "run-1", "Europe/Vienna")


@pytest.fixture
def keeper(registry, tmp_path) -> Keeper:
    return _keeper(registry, tmp_path)


def _made(engine: Engine, folder: Path, data: bytes = b"", **other: object) -> Made:
    """A good backup, as backup-database leaves it: file, manifest, row."""
    path = folder / "backups" / "latest_backup.sql.gz"
    path.parent.mkdir(exist_ok=True)
    data = data or os.urandom(1000)
    path.write_bytes(data)
    made = posting.manifest(len(data), hashlib.sha256(data).hexdigest(), **other)
    manifests.beside(path).write_text(made.to_json())
    return Made(posting.row_of(engine, made, path), ACME, path, made, "ops")


def _row(engine: Engine, made: Made) -> BackupRun:
    with Session(engine) as session:
        return session.get_one(BackupRun, made.row_id)


def _deliver(keeper: Keeper, made: Made, account: Account, given: delivery.Post) -> delivery.Delivered:
    mark = f"backup.{made.row_id}"
    return mailing.deliver(keeper, made, account, replace(given, mark=mark), lambda step: None)


@contextmanager
def _server(folder: Path, pem):
    with running(folder, pem[1], pem[2]) as (_, port):
        yield Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0]))


def test_a_delivery_is_told_and_older_ones_need_not_come_any_more(keeper, tmp_path, pem):
    engine = keeper.engine
    lost, later = _made(engine, tmp_path), _made(engine, tmp_path)
    safety = _made(engine, tmp_path)
    with Session(engine) as session:
        session.get_one(BackupRun, safety.row_id).kind = BackupKind.SAFETY
        session.get_one(BackupRun, safety.row_id).delivery = Delivery.OFF
        session.commit()
    posted.failed(engine, lost.row_id, Unreachable("mx is gone", "wait"))
    made = _made(engine, tmp_path)
    assert [(one, row.id) for one, row in posted.undelivered(engine)] == [(ACME, made.row_id)]
    with _server(tmp_path / "m", pem) as account:
        came = _deliver(keeper, made, account, post("a@example.org"))
    assert (came.state, came.attempts, came.next_try) == (Delivery.SENT, 1, None)
    row = _row(engine, made)
    assert (row.delivery, row.recipients, row.delivery_error) == (Delivery.SENT, "a@example.org", None)
    assert (row.delivery_attempts, row.deliver_after) == (1, None)
    assert row.message_id == mails(tmp_path / "m")[0]["message-id"]
    assert [_row(engine, one).delivery for one in (lost, later)] == [Delivery.SUPERSEDED] * 2
    assert _row(engine, lost).deliver_after is None and _row(engine, safety).delivery is Delivery.OFF
    assert posted.undelivered(engine) == []


def test_a_delivery_that_waiting_may_mend_is_tried_again_four_times(keeper, tmp_path):
    made = _made(keeper.engine, tmp_path)
    account = Account("localhost", free_port(), "STARTTLS", USER, PASSWORD)
    waits = []
    for attempt in range(1, 7):
        before = now()
        came = _deliver(keeper, made, account, post("a@example.org"))
        row = _row(keeper.engine, made)
        assert (row.delivery, row.delivery_attempts, came.attempts) == (Delivery.FAILED, attempt, attempt)
        assert "connection refused by localhost" in (row.delivery_error or "")
        assert (row.deliver_after is None) == (came.next_try is None)
        if came.next_try is not None and row.deliver_after is not None:
            assert came.next_try == row.deliver_after and row.deliver_after.minute % 5 == row.deliver_after.second == 0
            assert came.next_try.utcoffset() == timedelta(hours=came.next_try.dst() != timedelta(0), minutes=60)
            waits.append(row.deliver_after.astimezone(UTC) - before)
    assert len(waits) == 4
    for waited, planned in zip(waits, posted.WAITS, strict=True):
        assert planned <= waited <= planned + timedelta(minutes=6)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unreachable("a", "b"), True),
        (Conflict("a", "b"), True),
        (Refused("the password", "b"), False),
        (NotConfigured("a", "b"), False),
    ],
)
def test_what_a_person_must_mend_waits_for_one(keeper, tmp_path, error, again):
    made = _made(keeper.engine, tmp_path)
    came = mailing.undelivered(keeper, made.row_id, error)
    row = _row(keeper.engine, made)
    assert row.delivery is Delivery.FAILED and (row.deliver_after is not None) is again
    assert (came.next_try is not None) is again
    assert [row.id for _, row in posted.undelivered(keeper.engine)] == [made.row_id]


def test_what_was_delivered_stays_so_when_sending_it_again_fails(keeper, tmp_path, pem):
    made = _made(keeper.engine, tmp_path)
    with _server(tmp_path / "m", pem) as account:
        _deliver(keeper, made, account, post("a@example.org"))
    came = _deliver(keeper, made, account, post("a@example.org", again=True))
    assert came.state is Delivery.FAILED and "it was not sent again: connection refused" in came.sentence
    row = _row(keeper.engine, made)
    assert (row.delivery, row.deliver_after, row.delivery_attempts) == (Delivery.SENT, None, 2)


def test_a_backup_whose_file_was_replaced_is_told(keeper, tmp_path):
    made = _made(keeper.engine, tmp_path)
    _made(keeper.engine, tmp_path)
    came = _deliver(keeper, made, Account("localhost", 1, "PLAIN"), post("a@example.org"))
    assert isinstance(came.error, NotFound) and "a newer backup of client acme took the place" in came.sentence
    assert _row(keeper.engine, made).delivery is Delivery.FAILED


def test_mails_of_a_forgotten_backup_are_not_those_of_the_next_with_its_number(keeper, tmp_path, pem):
    made = _made(keeper.engine, tmp_path)
    with _server(tmp_path / "m", pem) as account:
        _deliver(keeper, made, account, post("a@example.org"))
        with Session(keeper.engine) as session:
            row = session.get_one(BackupRun, made.row_id)
            row.started_at, row.delivery = now(), Delivery.PENDING
            session.commit()
        assert _deliver(keeper, made, account, post("a@example.org")).sentence == "mailed to a@example.org"
    assert len(mails(tmp_path / "m")) == 2


def test_one_delivery_of_a_target_at_a_time(keeper, tmp_path):
    made = _made(keeper.engine, tmp_path)
    with (
        keeper.hold(f"mail-{ACME.key}", "mail of client acme"),
        pytest.raises(Conflict, match=r"is held by run run-1 \(mail of client acme\)"),
    ):
        mailing.deliver(keeper, made, Account("localhost", 1, "PLAIN"), post("a@example.org"), lambda step: None, 0.1)


def test_a_server_that_vanished_is_in_the_registry_and_in_the_next_mail(keeper, tmp_path, pem):
    made = _made(keeper.engine, tmp_path)
    with _server(tmp_path / "m", pem) as account:
        came = _deliver(keeper, made, account, post("keepvanish@example.org"))
        assert came.next_try is not None and came.state is Delivery.FAILED
        (mail,) = Book(keeper.engine, made.row_id).mails()
        assert (mail.state, mail.accepted) == (MailState.SENDING, ["keepvanish@example.org"])
        assert "may or may not have been delivered" in str(mail.error) and mail.ended_at is not None
        assert _deliver(keeper, made, account, post("keepvanish@example.org")).state is Delivery.SENT
    first, second = mails(tmp_path / "m")
    assert second["subject"] == f"{first['subject']} (an earlier one may have arrived)"
    assert first["message-id"] == second["message-id"]


def _mail(state: MailState, mail: posted.Mail = posted.WHOLE, error: str | None = None, **other: object) -> BackupMail:
    given = {"message_id": "<1@x>", "accepted": ["a@b.c"]} | other
    return BackupMail(backup_id=1, part=mail[0], parts=mail[1], started_at=now(), state=state, error=error, **given)


@pytest.mark.parametrize(
    ("noted", "ended"),
    [
        ([], None),
        ([_mail(MailState.SENT)], Delivery.SENT),
        ([_mail(MailState.SENT, message_id="<1.report@x>")], Delivery.SENT_WITHOUT_FILE),
        ([_mail(MailState.SENT, error="b@b.c was refused")], None),
        ([_mail(MailState.SENT, error="greylisted"), _mail(MailState.SENT)], Delivery.SENT),
        ([_mail(MailState.SENDING)], None),
        ([_mail(MailState.FAILED)], None),
        ([_mail(MailState.SENT, (1, 2))], None),
        ([_mail(MailState.SENT, (1, 2)), _mail(MailState.SENT, (2, 2))], Delivery.SENT_IN_PARTS),
        ([_mail(MailState.SENT, (1, 2)), _mail(MailState.FAILED, (2, 2)), _mail(MailState.SENT)], Delivery.SENT),
        ([_mail(MailState.SENT, (1, 2), "x"), _mail(MailState.SENT, (2, 2))], None),
    ],
)
def test_how_a_killed_delivery_ended(noted, ended):
    for number, one in enumerate(noted):
        one.id = number
    assert posted.concluded(noted) is ended


def test_settling_tells_what_killed_runs_left(keeper, tmp_path):
    """Of each moment at which a run can be killed: before a mail, inside it, after handing it over, after its end."""
    engine = keeper.engine
    made = [_made(engine, tmp_path) for _ in range(4)]
    books = [Book(engine, one.row_id) for one in made]
    inside, over, done = (books[n].begin("<1@x>", posted.WHOLE) for n in (1, 2, 3))
    books[2].handing_over(over, ["a@b.c"])
    books[3].handing_over(done, ["a@b.c"])
    books[3].sent(done, ["a@b.c"], None)
    assert inside
    posted.settle(engine, ACME)
    rows = [_row(engine, one) for one in made]
    assert [row.delivery for row in rows] == [Delivery.FAILED] * 3 + [Delivery.SENT]
    assert [row.delivery_error for row in rows] == [posted.NOT_MAILED, posted.NOT_MAILED, posted.UNKNOWN, None]
    assert rows[3].recipients == "a@b.c"
    states = [mail.state for book in books for mail in book.mails()]
    assert states == [MailState.FAILED, MailState.SENDING, MailState.SENT]
    posted.settle(engine, ACME)
    assert [_row(engine, one).delivery for one in made] == [row.delivery for row in rows]


# SIGKILL


@pytest.fixture
def standin(tmp_path, pem):
    """The mail server as a program of its own: what is forked and killed here has no thread of it."""
    (tmp_path / "password").write_text(PASSWORD)
    port = free_port()
    command = [
        sys.executable, "-m", "tests.standins.smtp", "--port", str(port), "--cert", str(pem[1]), "--key", str(pem[2]),
        "--user", USER, "--password-file", str(tmp_path / "password"), "--maildir", str(tmp_path / "mail"),
        "--size", "1500000",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        account = Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0]))
        deadline = time.monotonic() + 30
        while True:
            try:
                delivery.mail.limit(account)
                break
            except Unreachable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield account
        process.terminate()


@pytest.mark.parametrize("way", ["whole", "parts"])
def test_after_a_kill_the_registry_is_true_and_the_next_mail_says_what_may_have_come(standin, tmp_path, way, soak):
    chance, folder = random.Random(), tmp_path / "mail"
    identity = pyrage.x25519.Identity.generate()
    age = (str(identity.to_public()),) if way == "parts" else ()
    given = post("a@example.org", too_big="parts", age=age, wait=0.01)
    size = 900_000 if way == "whole" else 2_500_000
    with posting.books(tmp_path) as engine:

        def act(made: Made):
            return lambda own: _deliver(_keeper(own, tmp_path), made, standin, given)

        made = _made(engine, tmp_path, os.urandom(size))
        started = time.monotonic()
        points = dying.run(engine, act(made), tmp_path)
        usual = time.monotonic() - started
        assert points is not None and _row(engine, made).delivery in posted.DONE
        chosen = range(1, points + 1) if soak else chance.sample(range(1, points + 1), 5)
        kills = [{"point": point} for point in chosen]
        kills += [{"seconds": chance.uniform(0.01, usual)} for _ in range(25 if soak else 3)]
        seen = set()
        for kill in kills:
            made = _made(engine, tmp_path, os.urandom(size))
            dying.run(engine, act(made), tmp_path, **kill)
            seen.add(_check_after_a_kill(engine, tmp_path, folder, made, standin, given))
            assert sorted(os.listdir(made.path.parent)) == [made.path.name, manifests.beside(made.path).name]
        assert not soak or seen >= {"delivered", "to be sent"}


def _ours(folder: Path, made: Made) -> list[EmailMessage]:
    return [one for one in mails(folder) if f".backup.{made.row_id}" in one["message-id"].partition("@")[0] + "."
            and one["message-id"].split("backup.")[1].split("@")[0].split(".")[0] == str(made.row_id)]  # fmt: skip


def _check_after_a_kill(
    engine: Engine, tmp_path: Path, folder: Path, made: Made, account: Account, given: delivery.Post
) -> str:
    """What the registry says of a killed delivery is what the mail server saw, and the next one says what it must."""
    book = Book(engine, made.row_id)
    time.sleep(0.05)  # the server may be storing what it got
    arrived = _ours(folder, made)
    posted.settle(engine, ACME)
    row, known = _row(engine, made), posted.standing(book.mails())
    ids = [one["message-id"] for one in arrived]
    assert len(ids) == len(set(ids)), "a mail was sent twice"
    for mail in book.mails():
        if mail.state == MailState.SENT:
            assert mail.message_id in ids
        if mail.state == MailState.FAILED:
            assert mail.message_id not in ids
    assert {mail.message_id for mail in book.mails() if mail.state != MailState.FAILED} >= set(ids)
    ended = "delivered" if row.delivery in posted.DONE else "to be sent"
    assert (ended == "delivered") == known.reached("a@example.org")
    if ended == "to be sent":
        assert row.delivery is Delivery.FAILED
        assert row.delivery_error == (posted.UNKNOWN if known.may_have else posted.NOT_MAILED)
    came = _deliver(_keeper(engine, tmp_path), made, account, given)
    assert came.state in posted.DONE and _row(engine, made).delivery in posted.DONE
    second = _ours(folder, made)[len(arrived) :]
    assert bool(second) == (ended == "to be sent")
    for mail in second:
        doubtful = mail["message-id"] in {one.message_id for one in book.mails() if one.state == MailState.SENDING}
        assert mail["subject"].endswith("(an earlier one may have arrived)") is doubtful
        assert doubtful or mail["message-id"] not in ids
    assert posted.standing(book.mails()).reached("a@example.org")
    return ended


def test_an_unexpected_error_leaves_a_delivery_that_is_settled(keeper, tmp_path, pem, monkeypatch):
    made = _made(keeper.engine, tmp_path)
    with _server(tmp_path / "m", pem) as account:
        monkeypatch.setattr(delivery.mail, "offer", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _deliver(keeper, made, account, post("a@example.org"))
        monkeypatch.undo()
        assert _row(keeper.engine, made).delivery is Delivery.PENDING
        assert _deliver(keeper, made, account, post("a@example.org")).state is Delivery.SENT
    assert "earlier" not in mails(tmp_path / "m")[0]["subject"]


def test_every_error_has_its_cure(keeper, tmp_path):
    made = _made(keeper.engine, tmp_path)
    made.path.unlink()
    came = _deliver(keeper, made, Account("localhost", 1, "PLAIN"), post("a@example.org"))
    assert isinstance(came.error, FleetError) and "run backup-database for client acme first" in came.sentence

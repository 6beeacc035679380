"""The stand-in as the demo starts it: a program that takes mail, ends on SIGTERM, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.backups import message
from tasks.backups.mail import Account, send
from tasks.errors import Unreachable
from tests.conftest import free_port
from tests.tasks.backups.mail_server import certificates, mails

ROOT = Path(__file__).parents[3]


@pytest.fixture
def command(tmp_path):
    ca, cert, key = certificates(tmp_path / "tls")
    (tmp_path / "password").write_text("stand-in-password\n")
    port = free_port()
    arguments = [
        sys.executable, "-m", "tests.standins.smtp", "--port", str(port), "--cert", str(cert), "--key", str(key),
        "--user", "u@example.org", "--password-file", str(tmp_path / "password"), "--maildir", str(tmp_path / "mail"),
    ]  # fmt: skip
    return arguments, Account("localhost", port, "STARTTLS", "u@example.org", "stand-in-password", str(ca))


def _deliver(account: Account) -> None:
    letter = message.letter(
        message.address("a@example.org", "sender"),
        ["b@example.org"],
        "hello",
        "text",
        "<1@x>",
        datetime.now(UTC),
        "UTC",
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            send(account, "a@example.org", ["b@example.org"], letter, seconds=5)
            return
        except Unreachable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_it_takes_a_mail_and_ends_on_term(command, tmp_path):
    arguments, account = command
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        _deliver(account)
        process.terminate()
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0 and "stand-in-password" not in said
    assert [mail["subject"] for mail in mails(tmp_path / "mail")] == ["hello"]


def test_it_ends_with_its_parent(command):
    arguments, account = command
    parent = f"import subprocess, time; print(subprocess.Popen({arguments!r}).pid, flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        _deliver(account)
        starter.kill()
        starter.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the stand-in outlived its parent")
        time.sleep(0.1)

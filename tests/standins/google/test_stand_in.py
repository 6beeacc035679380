import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, free_port
from tests.standins.google.running import running


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    credentials = tmp_path_factory.mktemp("google") / "credentials.json"
    with running(free_port(), ROOT / ".state-cache", credentials, "http://localhost:8000/gmail/callback/") as stand_in:
        yield stand_in


def test_a_token_that_it_did_not_give_is_refused(google):
    for address in (google.endpoints["userinfo_uri"], f"{google.base}/gmail/v1/users/me/profile"):
        reply = httpx.get(address, headers={"Authorization": "Bearer made-up"}, trust_env=False)
        assert reply.status_code == 401 and "nobody@" not in reply.text


def test_it_has_no_messages_to_give(google):
    for path in ("messages", "threads", "labels"):
        reply = httpx.get(
            f"{google.base}/gmail/v1/users/me/{path}", headers={"Authorization": "Bearer x"}, trust_env=False
        )
        assert reply.status_code == 404


def listening(pid: int) -> set[str]:
    """Local addresses that process ``pid`` listens on, as /proc writes them."""
    sockets = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def test_it_listens_on_loopback_alone_and_its_emulator_dies_with_it(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.standins.google", "--port", str(port)),
            *("--cache", str(ROOT / ".state-cache"), "--credentials", str(tmp_path / "credentials.json")),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline().startswith("ready")
    emulator = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    assert listening(process.pid) == listening(emulator) == {"0100007F"}  # 127.0.0.1
    secret = json.loads((tmp_path / "credentials.json").read_text())["web"]["client_secret"]
    assert (tmp_path / "credentials.json").stat().st_mode & 0o777 == 0o600
    for pid in (process.pid, emulator):
        assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if (
            not Path(f"/proc/{emulator}").exists()
            or "Z" in Path(f"/proc/{emulator}/stat").read_text().split(")")[1][:3]
        ):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the emulator outlived its parent")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_lock_file_names_no_registry():
    text = (ROOT / "tests/standins/google/package-lock.json").read_text()
    assert '"resolved"' not in text and not re.search(r"https?://[^/]*registry", text)
    assert text.count('"integrity"') == len(json.loads(text)["packages"]) - 1

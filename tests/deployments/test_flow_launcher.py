"""A flow's process is a fork of the launcher, and cannot be told from one that was started anew."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from deployments.one_machine import flow_process
from deployments.one_machine.settings import ROOT

ENGINE = """
import json, os, signal, sys, time

def ended(number, frame):
    os.write(1, f"told {number}\\n".encode())
    raise SystemExit(7)

signal.signal(signal.SIGTERM, ended)
print(json.dumps({"pid": os.getpid(), "folder": os.getcwd(), "run": os.environ.get("PREFECT__FLOW_RUN_ID"),
                  "imported": an_imported.WORD if (an_imported := sys.modules.get("an_imported")) else None}), flush=True)
what = os.environ.get("WHAT", "")
if what == "wait":
    time.sleep(60)
if what == "raise":
    raise ValueError("as it should")
raise SystemExit(int(what or 0))
"""
LAUNCHER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from deployments.one_machine import flow_engine, flow_launcher
import an_imported
flow_engine.ENGINE, flow_launcher.ROOT = "an_engine", Path(sys.argv[1])
flow_launcher.preload = lambda modules: None
Path(sys.argv[1], "settings.json").write_text(json.dumps(flow_launcher.decisive(flow_launcher.worker_environment())))
flow_launcher.main()
"""


@dataclass
class Launching:
    """A launcher whose flows are an engine of this test's."""

    folder: Path
    process: subprocess.Popen[bytes]
    asked: list[subprocess.Popen[str]] = field(default_factory=list)

    def ask(self, **environment: str) -> subprocess.Popen[str]:
        """A flow's process, as the worker starts it."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", flow_process.__file__],
            env=self.environment() | self.settings() | {"PREFECT__FLOW_RUN_ID": "1234567890abcdef", **environment},
            cwd=self.folder / "work", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.asked.append(process)
        return process

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
        return kept | {
            flow_process.FOLDER: str(self.folder / "run"), "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(self.folder),
        }  # fmt: skip

    def settings(self) -> dict[str, str]:
        """What the worker's settings add, which are the launcher's too."""
        found: dict[str, str] = json.loads((self.folder / "settings.json").read_text())
        return found

    def said(self, text: str, seconds: float = 20) -> str:
        """The launcher's log, when it has ``text``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            log = (self.folder / "log").read_text()
            if text in log:
                return log
            time.sleep(0.02)
        raise AssertionError(f"the launcher did not say {text!r}: {log}")


@pytest.fixture
def launching(tmp_path: Path) -> Iterator[Launching]:
    # A folder whose socket would have a path of more than 108 bytes.
    folder = tmp_path / ("long" * 30)
    (folder / "work").mkdir(parents=True)
    (folder / "an_engine.py").write_text(ENGINE)
    (folder / "an_imported.py").write_text("WORD = 'first'")
    (folder / "prefect.yaml").write_text("deployments: []")
    with (folder / "log").open("wb") as log:
        one = Launching(folder, subprocess.Popen(["true"]))
        one.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(folder)], env=one.environment(), cwd=folder, stdout=log, stderr=log
        )
    try:
        one.said("ready")
        yield one
    finally:
        for process in [*one.asked, one.process]:
            process.kill()
            process.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout
    said: dict[str, object] = json.loads(process.stdout.readline())
    return said


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def test_a_fork_has_the_environment_folder_and_output_of_who_asked(launching):
    asked = launching.ask(PREFECT__FLOW_RUN_ID="a-run-of-0123456789")
    said = first_line(asked)
    assert said["run"] == "a-run-of-0123456789"
    assert said["folder"] == str(launching.folder / "work")
    assert said["imported"] == "first", "it was not forked from what had been imported"
    assert said["pid"] != asked.pid
    assert asked.wait(5) == 0


def test_many_run_at_once(launching):
    asked = [launching.ask(WHAT="wait") for _ in range(10)]
    pids = {first_line(one)["pid"] for one in asked}
    assert len(pids) == 10
    for one in asked:
        one.terminate()
    assert [one.wait(5) for one in asked] == [7] * 10


def test_it_is_named_after_its_run(launching):
    said = first_line(launching.ask(WHAT="wait", PREFECT__FLOW_RUN_ID="x-0123456789"))
    assert psutil.Process(int(str(said["pid"]))).name() == "flow-0123456789"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_its_exit_code_is_the_flows(launching, code):
    assert launching.ask(WHAT=str(code)).wait(5) == code


def test_an_exception_ends_with_its_traceback_and_1(launching):
    asked = launching.ask(WHAT="raise")
    _, errors = asked.communicate(timeout=5)
    assert asked.returncode == 1
    assert "ValueError: as it should" in errors


def test_a_signal_of_the_worker_reaches_the_flow(launching):
    asked = launching.ask(WHAT="wait")
    first_line(asked)
    asked.terminate()
    said, _ = asked.communicate(timeout=5)
    assert said == f"told {int(signal.SIGTERM)}\n"
    assert asked.returncode == 7


def test_a_flow_that_is_killed_is_seen_to_be(launching):
    asked = launching.ask(WHAT="wait")
    os.kill(int(str(first_line(asked)["pid"])), signal.SIGKILL)
    assert asked.wait(5) == -signal.SIGKILL


def test_the_flow_dies_with_who_asked(launching):
    asked = launching.ask(WHAT="wait")
    fork = int(str(first_line(asked)["pid"]))
    asked.kill()
    assert gone(fork)
    assert launching.ask().wait(5) == 0, "the launcher went with it"


def test_a_flow_that_stands_still_dies_with_who_asked_too(launching):
    asked = launching.ask(WHAT="wait")
    fork = int(str(first_line(asked)["pid"]))
    os.kill(fork, signal.SIGSTOP)
    asked.kill()
    assert gone(fork)


def test_who_asked_dies_with_its_worker(launching):
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', {flow_process.__file__!r}])"
    worker = subprocess.Popen(
        [sys.executable, "-c", script], env=launching.environment() | launching.settings() | {"WHAT": "wait"}, cwd=launching.folder / "work",
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    launching.asked.append(worker)
    fork = int(str(first_line(worker)["pid"]))
    worker.kill()
    assert gone(fork)


def test_a_launcher_that_stands_still_keeps_no_flow_from_its_end(launching):
    asked = [launching.ask(WHAT="wait") for _ in range(3)]
    forks = [int(str(first_line(one)["pid"])) for one in asked]
    launching.process.send_signal(signal.SIGSTOP)
    try:
        asked[0].terminate()
        assert asked[0].wait(5) == 7
        asked[1].kill()
        assert gone(forks[1])
        os.kill(forks[2], signal.SIGTERM)
        assert asked[2].wait(5) == 7
    finally:
        launching.process.send_signal(signal.SIGCONT)
    assert launching.ask().wait(5) == 0


def test_flows_die_with_the_launcher_and_their_worker_learns_it(launching):
    asked = launching.ask(WHAT="wait")
    fork = int(str(first_line(asked)["pid"]))
    launching.process.kill()
    assert gone(fork)
    assert asked.wait(5) == -signal.SIGKILL


def test_without_a_launcher_it_starts_prefects_engine_itself(launching):
    launching.process.kill()
    launching.process.wait()
    asked = launching.ask(PREFECT__FLOW_RUN_ID="none")
    _, errors = asked.communicate(timeout=30)
    assert asked.returncode == 1
    assert "Invalid flow run id" in errors


@pytest.mark.parametrize("folder", ["", "/nobody/made/it"])
def test_where_no_launcher_ever_was_it_starts_prefects_engine_itself(launching, folder):
    asked = launching.ask(PREFECT__FLOW_RUN_ID="none", **{flow_process.FOLDER: folder})
    _, errors = asked.communicate(timeout=30)
    assert asked.returncode == 1
    assert "Invalid flow run id" in errors


def test_a_launcher_that_stands_still_does_not_hold_up_a_run(launching, monkeypatch):
    short = launching.folder / "flow_process.py"
    short.write_text(Path(flow_process.__file__).read_text().replace("ANSWER_SECONDS = 10.0", "ANSWER_SECONDS = 0.3"))
    monkeypatch.setattr(flow_process, "__file__", str(short))
    launching.process.send_signal(signal.SIGSTOP)
    try:
        asked = launching.ask(PREFECT__FLOW_RUN_ID="none")
        _, errors = asked.communicate(timeout=30)
    finally:
        launching.process.send_signal(signal.SIGCONT)
    assert "Invalid flow run id" in errors
    # And what it finds when it goes on, nobody asks for any more.
    time.sleep(0.3)
    assert not psutil.Process(launching.process.pid).children()


@pytest.mark.parametrize("name", ["PREFECT_LOGGING_LEVEL", "PYTHONUTF8"])
def test_other_settings_are_not_the_launchers_to_serve(launching, name):
    asked = launching.ask(PREFECT__FLOW_RUN_ID="none", **{name: "1" if name.startswith("PY") else "DEBUG"})
    _, errors = asked.communicate(timeout=30)
    assert "Invalid flow run id" in errors
    launching.said(f"other settings: {name}")


def test_a_changed_file_is_not_served_and_the_launcher_starts_anew(launching):
    running = launching.ask(WHAT="wait")
    first_line(running)
    (launching.folder / "an_imported.py").write_text("WORD = 'second'  # longer")
    declined = launching.ask(PREFECT__FLOW_RUN_ID="none")
    _, errors = declined.communicate(timeout=30)
    assert "Invalid flow run id" in errors, "a flow ran with what was imported before the change"
    assert "starting anew" not in launching.said("has changed")
    assert running.poll() is None, "a flow that ran was ended for it"
    running.terminate()
    assert running.wait(5) == 7
    launching.said("starting anew")
    assert launching.process.poll() is None


def test_its_socket_is_its_users_alone(launching):
    assert (launching.folder / "run").stat().st_mode & 0o777 == 0o700

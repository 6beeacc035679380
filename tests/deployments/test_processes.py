"""The stack's processes are known again when the note about them is lost."""

import os
import signal
import sys
from pathlib import Path

import pytest

from deployments.one_machine import processes

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def run(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    yield folder
    processes.stop("sleeper", folder)


def start(run: Path, **environment: str) -> int:
    return processes.start("sleeper", SLEEPER, run, run, {**os.environ, **environment}, run)


def test_starting_twice_starts_one(run):
    assert start(run) == start(run)


def test_other_settings_start_it_anew(run):
    first = start(run)
    second = start(run, TIME_ZONE="Europe/Vienna")
    assert first != second
    assert processes.alive("sleeper", run).pid == second


def test_a_lost_note_does_not_orphan_the_process(run):
    pid = start(run)
    (run / "sleeper.json").unlink()
    assert processes.alive("sleeper", run).pid == pid
    assert processes.stop("sleeper", run) is True
    assert processes.alive("sleeper", run) is None


def test_a_pid_that_another_process_has_now_is_not_taken_for_ours(run):
    pid = start(run)
    note = (run / "sleeper.json").read_text()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (run / "sleeper.json").write_text(note.replace(str(pid), str(os.getpid())))
    assert processes.alive("sleeper", run) is None


def test_a_process_that_ignores_term_is_stopped_all_the_same(run, monkeypatch):
    monkeypatch.setattr(processes, "TERM_SECONDS", 0.3)
    monkeypatch.setattr(processes, "INT_SECONDS", 0.3)
    deaf = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (15, 2)]; print('x', flush=True); time.sleep(60)"
    processes.start("sleeper", [sys.executable, "-c", deaf], run, run, dict(os.environ), run)
    while "x" not in (run / "sleeper.log").read_text():
        pass
    assert processes.stop("sleeper", run) is True
    assert processes.alive("sleeper", run) is None

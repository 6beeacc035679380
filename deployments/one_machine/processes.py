"""Starting and stopping the stack's processes: detached, logged, and known by pid and start time (a pid alone is reused)."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "ZERO_FLEET_PROCESS"
"""In the environment of what we start: which of the stack's processes it is."""
TERM_SECONDS = 12.0
INT_SECONDS = 4.0


def start(name: str, command: Sequence[str], run: Path, logs: Path, environment: Mapping[str, str], cwd: Path) -> int:
    """Start ``command`` as ``name`` unless it runs already with the same command and settings; its pid.

    Args:
        run: folder that remembers what runs.
        logs: folder of logs; ``<name>.log`` is appended to, and kept once as ``.1`` when over 10 MB.
    """
    found = alive(name, run)
    shape = _shape(command, environment)
    if found is not None:
        if _noted_shape(name, run) == shape:
            return found.pid
        stop(name, run)
    log = logs / f"{name}.log"
    if log.exists() and log.stat().st_size > 10_000_000:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as sink:
        os.chmod(log, 0o600)
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=cwd,
            env={**environment, MARK: f"{name} of {run}"},
            start_new_session=True,
        )  # fmt: skip
    noted = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "shape": shape}
    (run / f"{name}.json").write_text(json.dumps(noted))
    return process.pid


def _noted_shape(name: str, run: Path) -> str | None:
    try:
        return str(json.loads((run / f"{name}.json").read_text())["shape"])
    except (OSError, ValueError, KeyError):
        return None


def _shape(command: Sequence[str], environment: Mapping[str, str]) -> str:
    settings = {
        key: value
        for key, value in environment.items()
        if key.startswith(("PREFECT_", "ZERO_FLEET_")) or key in ("TIME_ZONE", "GATEWAY_URL", "SSL_CERT_FILE")
    }
    return hashlib.sha256(json.dumps([list(command), settings], sort_keys=True).encode()).hexdigest()


def alive(name: str, run: Path) -> psutil.Process | None:
    """The process called ``name`` if it runs."""
    try:
        noted = json.loads((run / f"{name}.json").read_text())
    except (OSError, ValueError):
        return _find(name, run)  # the note is lost, the process perhaps not
    try:
        process = psutil.Process(noted["pid"])
        # Some systems round the start time.
        if abs(process.create_time() - noted["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except (KeyError, psutil.Error):
        return None
    return process


def variable(name: str, run: Path, key: str) -> str | None:
    """The variable ``key`` that the process called ``name`` was started with, if it runs and has it."""
    process = alive(name, run)
    try:
        return process.environ().get(key) if process else None
    except psutil.Error:
        return None


def _find(name: str, run: Path) -> psutil.Process | None:
    """The process that was started as ``name`` of this state folder, by the marks in its environment; not its children."""

    def marked(process: psutil.Process | None) -> bool:
        try:
            found = process.environ() if process else {}
        except psutil.Error:  # gone, or somebody else's
            return False
        return found.get(MARK) == f"{name} of {run}"

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if marked(process) and not marked(process.parent()) and process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None


def ask(name: str, run: Path) -> None:
    """Send TERM to ``name`` and go on; ``stop`` sees to the rest."""
    process = alive(name, run)
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.terminate()


def stop(name: str, run: Path) -> bool:
    """Stop ``name`` and all that it started: TERM, then INT, then KILL. True if it ran.

    A worker started from a shell with ``&`` ignores INT and once ignored TERM; so each is tried, and seen to have worked.
    """
    process = alive(name, run)
    if process is None:
        (run / f"{name}.json").unlink(missing_ok=True)
        return False
    family = [process]
    with contextlib.suppress(psutil.Error):
        family += process.children(recursive=True)
    for sign, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGINT, INT_SECONDS), (signal.SIGKILL, INT_SECONDS)):
        with contextlib.suppress(psutil.Error):
            process.send_signal(sign)
        if _gone(process, patience):
            break
    for child in family[1:]:
        with contextlib.suppress(psutil.Error):
            child.kill()
    (run / f"{name}.json").unlink(missing_ok=True)
    return True


def _gone(process: psutil.Process, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False

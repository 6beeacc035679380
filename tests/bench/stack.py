"""A running stack for figures that need one: the one that is up, else one of our own that is gone afterwards."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deployments.one_machine.settings import ROOT, Stack, stack

PORTS = 6
"""Prefect's port and those that the stack takes after it."""


@contextmanager
def running_stack() -> Iterator[Stack]:
    """The stack that environment and ``.env`` describe when it is up; else a demo stack in a folder under /tmp.

    Ours comes from ``python -m deployments.one_machine up`` with the demo's stand-ins, and goes with ``clean``.
    """
    place = stack()
    if (place.state / "keys" / "api").exists() and _answers(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="zero-fleet-bench-") as folder:
        state = Path(folder) / "state"
        # The folder that marks a state folder as the demo's, so that `up` brings the stand-ins.
        (state / "demo").mkdir(mode=0o700, parents=True)
        first = _free_ports()
        gateway = first + PORTS
        ours = {
            "ZERO_FLEET_STATE": str(state),
            "ZERO_FLEET_PORT": str(first),
            "GATEWAY_URL": f"http://localhost:{gateway}",
            "GATEWAY_PORT": str(gateway),
        }
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            _command("up")
            yield stack()
        finally:
            _command("clean", "--confirm", stack().fleet)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _answers(place: Stack) -> bool:
    try:
        return httpx.get(f"{place.api}/health", timeout=3, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _free_ports() -> int:
    """The first of some ports in a row that are free now."""
    for first in range(14200, 24000, 100):
        try:
            for port in range(first, first + PORTS + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no seven free ports in a row from 14200 to 24000")


def _command(what: str, *more: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployments.one_machine", what, *more],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
        raise RuntimeError(f"the stack's {what} failed: {' '.join(last)}")

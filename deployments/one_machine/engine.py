"""The machine's Docker Engine: used when it is there, installed and started where we may, else asked for in one line."""

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import NotConfigured, Unreachable

START_SECONDS = 40
DAEMON_PID = Path("/var/run/docker.pid")


@dataclass(frozen=True)
class Bridge:
    """Docker's default bridge: what ``host.docker.internal`` (host-gateway) is to a container on Linux."""

    gateway: str
    subnet: str


def answers(seconds: int = 5) -> bool:
    """Whether an engine answers where DOCKER_HOST (or the default socket) says."""
    import docker

    try:
        client = docker.from_env(timeout=seconds)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:
        return False


def ensure(log: Path, say: Callable[[str], None]) -> bool:
    """Return when an engine answers; True if we started the daemon for it.

    Args:
        log: file for the daemon's output.
        say: told of what takes time.

    Raises:
        NotConfigured: there is none, and it is not ours to install it; the sentence has the line to type.
        Unreachable: it was started and does not answer.
    """
    if answers():
        return False
    if os.environ.get("DOCKER_HOST"):
        raise Unreachable(
            f"no Docker Engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}", "start it, or unset DOCKER_HOST"
        )
    if os.geteuid() != 0:
        line = "sudo systemctl start docker" if shutil.which("dockerd") else "sudo apt-get install -y docker.io"
        if shutil.which("docker") and not shutil.which("dockerd"):
            line = "open -a Docker" if os.uname().sysname == "Darwin" else "sudo systemctl start docker"
        if Path("/var/run/docker.sock").exists():
            line = "sudo usermod -aG docker $USER && newgrp docker"
        raise NotConfigured("no Docker Engine answers, and only root may start one", f"type `{line}` and run again")
    if not shutil.which("dockerd"):
        if not shutil.which("apt-get"):
            raise NotConfigured(
                "Docker Engine is not installed, and this system has no apt-get", "install it and run again"
            )
        say("installing Docker Engine (apt-get install docker.io)")
        _apt_install("docker.io", "iptables", "ca-certificates")
    say("starting dockerd")
    _start_daemon(log)
    return True


def _apt_install(*packages: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotConfigured(f"`{' '.join(command)}` failed ({last[:200]})", "mend that and run again")


def _start_daemon(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    # A daemon that was killed leaves its pid file, and a new one refuses to start while that pid is alive as anything.
    if DAEMON_PID.exists() and not _is_daemon(DAEMON_PID):
        DAEMON_PID.unlink(missing_ok=True)
    with log.open("ab") as sink:
        daemon = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/", start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers(2):
            return
        if daemon.poll() is not None and not answers(2):
            break
        time.sleep(0.2)
    raise Unreachable("dockerd was started and does not answer", f"read the end of {log}")


def _is_daemon(pid_file: Path) -> bool:
    try:
        pid = int(pid_file.read_text())
        return b"dockerd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def stop_daemon() -> bool:
    """Stop the daemon that ``ensure`` started (its containers stop with it); True if there was one."""
    if not _is_daemon(DAEMON_PID):
        return False
    pid = int(DAEMON_PID.read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.1)
    return True


def bridge() -> Bridge:
    """The default bridge of the engine.

    Raises:
        Unreachable: the engine has none (it was started with ``--bridge=none``).
    """
    import docker

    client = docker.from_env(timeout=10)
    try:
        config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    except (docker.errors.NotFound, KeyError, IndexError):
        raise Unreachable(
            "Docker has no default bridge, so containers cannot reach this machine",
            "set ZERO_POSTGRES_URL to a server that they can reach",
        ) from None
    finally:
        client.close()
    subnet = config["Subnet"]
    # An engine without containers so far names no gateway; it is the subnet's first address then.

    return Bridge(config.get("Gateway") or str(next(ipaddress.ip_network(subnet).hosts())), subnet)


def is_local() -> bool:
    """Whether the engine runs on this machine's own kernel (not Docker Desktop's, not a remote one)."""
    return os.uname().sysname == "Linux" and not os.environ.get("DOCKER_HOST", "unix://").startswith(("tcp", "ssh"))

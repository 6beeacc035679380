"""Programs that we start: they end when we do, however we end."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# PR_SET_PDEATHSIG (1) with SIGTERM (15): pg_dump then cancels its statement on the server, which SIGKILL would leave behind.
# A launcher and not preexec_fn, because we start it from a thread of a process with many.
_LAUNCH = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 15)
except AttributeError:
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def start(
    arguments: Sequence[str | Path],
    env: dict[str, str],
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own that gets SIGTERM when this process dies, however it dies.

    Its three streams are as given; what is a pipe is unbuffered.

    Args:
        arguments: the program by its full path, and what it is given.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *map(str, arguments)]
    return subprocess.Popen(
        launcher, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, bufsize=0
    )


def stop(child: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End ``child`` if it still runs: SIGTERM, so that it can clean up after itself, then SIGKILL after ``patience`` seconds."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe:
            with suppress(BrokenPipeError):  # what was buffered for a child that is gone
                pipe.close()

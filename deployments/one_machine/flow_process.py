"""The command of the work pool: a flow's process, forked from the launcher where one runs, else started anew.

Half of a short run's time went into importing Prefect and the flows (1.5 s of processor, measured); the launcher has them
imported. This program asks it for a fork, hands over its environment, folder and output, passes the worker's signals on,
and ends as the flow ends. Only Python's own library is used, and no site-packages: it starts in 30 ms.

A worker that is killed can neither watch nor end its flows; one that goes on alone would hold its client's lock while the
operator tries again. Linux's parent-death signal survives exec; elsewhere a thread watches the parent. A fork dies with
this process, because the launcher sees the connection close.
"""

import json
import os
import platform
import select
import signal
import socket
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
SOCKET = "flows.sock"
"""In the folder that the variable FOLDER names."""
FOLDER = "ZERO_FLEET_LAUNCHER"
FORWARDED = (signal.SIGTERM, signal.SIGINT)
ANSWER_SECONDS = 10.0
"""For a launcher that is there but does not answer: it stands still, and the run must not."""
MAX_MESSAGE = 1 << 20
HELLO, FORKED, DECLINED = b"hello", b"forked", b"declined"
"""What the launcher says: to who connects, and to who asked; last comes the exit code."""


def main() -> None:
    """Bind this process to its parent; then become Prefect's engine, or stand for the fork that is."""
    parent = os.getppid()
    if platform.system() == "Linux":
        die_with_parent(parent)
        code = _forked()
        if code is None:
            os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])  # noqa: S606
        _end(code)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    import runpy

    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent, the process ``parent``, ends (prctl(2))."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def name_process(name: str) -> None:
    """Let ``ps`` and ``top`` call this process ``name`` (prctl(2))."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _forked() -> int | None:
    """The exit code of the fork that ran the flow, as ``os.waitstatus_to_exitcode`` says it; None where none was made."""
    folder = os.environ.get(FOLDER, "")
    connection = _connected(folder) if folder else None
    if connection is None:
        return None
    # From here on a signal of the worker is told to the launcher between two looks; one that comes earlier waits.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    for number in FORWARDED:
        signal.signal(number, lambda got, _frame: os.write(tell, bytes([got])))
    try:
        greeted = connection.recv(16) == HELLO
        if greeted:
            asked = json.dumps(dict(os.environ)).encode()
            here = os.open(".", os.O_RDONLY)
            socket.send_fds(connection, [asked], [1, 2, here])
        accepted = greeted and connection.recv(16) == FORKED
    except OSError:  # it stands still, or it died: nothing was started, and what was dies with the connection
        accepted = False
    if not accepted:
        connection.close()
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        if select.select([told], [], [], 0)[0]:
            os.kill(os.getpid(), os.read(told, 1)[0])
        return None
    connection.settimeout(None)
    answers = connection.fileno()
    while True:
        ready = select.select([answers, told], [], [])[0]
        if told in ready:
            connection.send(os.read(told, 1))
        if answers in ready:
            said = connection.recv(16)
            return int(said) if said else -signal.SIGKILL  # the launcher was killed, and its forks with it


def _connected(folder: str) -> socket.socket | None:
    """The launcher's socket in ``folder``, whose path may be longer than a socket's (108 bytes)."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        connection.connect(f"/proc/self/fd/{handle}/{SOCKET}")
    except OSError:
        connection.close()
        return None
    finally:
        os.close(handle)
    return connection


def _end(code: int) -> None:
    """End as the fork did, by the same signal if it was one."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


if __name__ == "__main__":
    main()

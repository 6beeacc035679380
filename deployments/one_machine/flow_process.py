"""The command of the work pool: a flow's process, forked from the launcher where one runs, else started anew.

Half of a short run's time went into importing Prefect and the flows (1.5 s of processor, measured); the launcher has them
imported. This program asks it for a fork, hands over its environment, folder and output, passes the worker's signals on,
and ends as the flow ends; once there is a fork, neither waits for the launcher any more. Only Python's own library is used, and no site-packages: it starts in 30 ms.

A worker that is killed can neither watch nor end its flows; one that goes on alone would hold its client's lock while the
operator tries again. Linux's parent-death signal survives exec; elsewhere the engine watches its parent. A fork dies with
this process, because it sees the connection close, and with the launcher.
"""

import contextlib
import json
import os
import platform
import select
import signal
import socket
import sys
from collections.abc import Iterator

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
SOCKET = "flows.sock"
"""In the folder that the variable FOLDER names."""
FOLDER = "ZERO_FLEET_LAUNCHER"
ENGINE = "deployments.one_machine.flow_engine"
FORWARDED = (signal.SIGTERM, signal.SIGINT)
ANSWER_SECONDS = 10.0
"""For a launcher that is there but does not answer: it stands still, and the run must not."""
LAST_WORD_SECONDS = 2.0
"""For the launcher to say by which signal a fork ended that said nothing itself."""
MAX_MESSAGE = 1 << 20
HELLO, FORKED, DECLINED = b"hello", b"forked", b"declined"
"""What the launcher says: to who connects, and to who asked, with a handle of the fork; last comes the exit code."""


def main() -> None:
    """Bind this process to its parent; then become Prefect's engine, or stand for the fork that is."""
    if platform.system() == "Linux":
        die_with_parent(os.getppid())
        code = _forked()
        if code is not None:
            _end(code)
    os.execv(sys.executable, [sys.executable, "-m", ENGINE])  # noqa: S606


@contextlib.contextmanager
def socket_path(folder: str | os.PathLike[str]) -> Iterator[str]:
    """A path of the launcher's socket in ``folder``, valid in the block: the folder's own may be longer than a socket's (108 bytes).

    Raises:
        OSError: there is no such folder, or it may not be read.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)


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


def _forked() -> int | None:
    """The exit code of the fork that ran the flow, as ``os.waitstatus_to_exitcode`` says it; None where none was made."""
    folder = os.environ.get(FOLDER, "")
    connection = _connected(folder) if folder else None
    if connection is None:
        return None
    # From here on a signal of the worker is passed on between two looks; one that comes earlier waits.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    for number in FORWARDED:
        signal.signal(number, lambda got, _frame: os.write(tell, bytes([got])))
    ended, end = os.pipe()
    fork = _ask(connection, end)
    os.close(end)
    if fork is None:
        connection.close()
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        if select.select([told], [], [], 0)[0]:
            os.kill(os.getpid(), os.read(told, 1)[0])
        return None
    while True:
        ready = select.select([ended, told], [], [])[0]
        if told in ready:
            _pass_on(fork, os.read(told, 1)[0])
        if ended in ready:
            said = os.read(ended, 16)
            return int(said) if said else _last_word(connection)


def _ask(connection: socket.socket, end: int) -> int | None:
    """A handle (pidfd) of the fork; None: there is none.

    Args:
        end: where the fork says its exit code, and which closes when it ends in another way.
    """
    try:
        if connection.recv(16) != HELLO:
            return None
        here = os.open(".", os.O_RDONLY)
        socket.send_fds(connection, [json.dumps(dict(os.environ)).encode()], [1, 2, here, end])
        os.close(here)
        said, handles, _, _ = socket.recv_fds(connection, 16, 1)
        return handles[0] if said == FORKED else None
    except OSError:  # it stands still, or it died: nothing was started, and what was dies with the connection
        return None


def _pass_on(fork: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended
        signal.pidfd_send_signal(fork, number)


def _last_word(connection: socket.socket) -> int:
    """How a fork ended that did not say so itself: killed, and by which signal only the launcher can know."""
    try:
        connection.settimeout(LAST_WORD_SECONDS)
        said = connection.recv(16)
    except OSError:
        said = b""
    return int(said) if said else -signal.SIGKILL


def _connected(folder: str) -> socket.socket | None:
    """A connection to the launcher whose socket is in ``folder``; None: nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        with socket_path(folder) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


def _end(code: int) -> None:
    """End as the fork did, by the same signal if it was one."""
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


if __name__ == "__main__":
    main()

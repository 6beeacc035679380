"""The command of the work pool: a flow's process that dies with its worker.

A worker that is killed can neither watch nor end its flows; one that goes on alone would hold its client's lock while the
operator tries again. Linux's parent-death signal survives exec; elsewhere a thread watches the parent.
"""

import ctypes
import os
import platform
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to its parent, then become Prefect's engine."""
    parent = os.getppid()
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
        os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])  # noqa: S606
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    import runpy

    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()

"""A process that has imported Prefect and every flow, and forks one process per flow run; it runs nothing itself.

flow_process.py asks over a socket in a folder of the installation's own. A fork begins where ``python -m prefect.engine``
would after its imports, with the asker's environment, folder and output. It dies with its asker and with the launcher.

Asked with other settings of Prefect or Python than its own, or after a file that it imported has changed, it declines, and
the flow's process imports for itself; after a change it starts itself anew as soon as no fork of it runs.
"""

import atexit
import contextlib
import gc
import importlib
import json
import logging
import os
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation

from deployments.one_machine.flow_engine import run
from deployments.one_machine.flow_process import (
    DECLINED,
    FOLDER,
    FORKED,
    HELLO,
    MAX_MESSAGE,
    SOCKET,
    die_with_parent,
    name_process,
    socket_path,
)
from deployments.one_machine.settings import ROOT

DECISIVE = ("PREFECT_", "PYTHON", "LD_", "ZERO_FLEET_ROOT")
"""Beginnings of the variables that Python or Prefect have read when a fork begins."""
PER_RUN = "PREFECT__"
"""Beginning of those that a worker sets for each run."""

LATE = (
    "prefect._internal.metrics",
    "prefect._internal.states",
    "prefect.concurrency._asyncio",
    "prefect.deployments.steps.pull",
    "prefect.utilities.visualization",
    "anyio._backends._asyncio",
    "sqlalchemy.dialects.sqlite",
    "encodings.idna",
    "docker",
    "psycopg",
)
"""Modules that are imported inside of functions, in nearly every run."""

AGAIN_SECONDS = 15
log = logging.getLogger("flow_launcher")


def main() -> None:
    """Import everything, then fork until a signal ends this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        preload(entrypoints(ROOT))
    except Exception as error:  # a change that is half made, or wrong: the runs say what, as they import for themselves
        log.info("cannot import (%s: %s); trying again in %d s", type(error).__name__, error, AGAIN_SECONDS)
        time.sleep(AGAIN_SECONDS)
        _anew()
    build_models("prefect")
    imported = Imported.now()
    gc.freeze()  # so that a fork's collections do not copy every page
    listener = listening(Path(os.environ[FOLDER]))
    log.info("ready: %s modules imported", len(sys.modules))
    asked = Launcher(listener, imported, decisive(worker_environment())).serve()
    if asked is None:
        log.info("a file that was imported has changed; starting anew")
        _anew()
    else:
        asked.become_flow()


def _anew() -> None:
    os.execv(sys.executable, [sys.executable, "-m", "deployments.one_machine.flow_launcher"])  # noqa: S606


def entrypoints(root: Path) -> list[str]:
    """The modules of prefect.yaml's flows."""
    declared = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    return sorted({one["entrypoint"].rpartition(".")[0] for one in declared})


def preload(modules: Iterable[str]) -> None:
    """Import what a flow's process imports: Prefect's engine, ``modules``, and what those import when first used."""
    for name in ("prefect.flow_engine", "prefect.task_engine", *modules, *LATE):
        importlib.import_module(name)


def build_models(package: str) -> None:
    """Let pydantic build now what it would build when a model of ``package`` is first used, in each fork anew."""
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for model in vars(module).values():
                if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel:
                    with contextlib.suppress(PydanticUndefinedAnnotation):
                        model.model_rebuild()


def name_of(run: str) -> str:
    """What ``ps`` and ``top`` show for the process of a run (15 bytes at most, prctl(2)).

    >>> name_of("069a3f0e-0c5b-7ad1-8000-1f2e3d4c5b6a")
    'flow-2e3d4c5b6a'
    """
    return f"flow-{run[-10:]}"


def decisive(environment: Mapping[str, str]) -> dict[str, str]:
    """What of ``environment`` must be the same in launcher and fork.

    >>> decisive({"PREFECT_API_URL": "a", "PREFECT__FLOW_RUN_ID": "b", "HOME": "/", "PYTHONPATH": "c"})
    {'PREFECT_API_URL': 'a', 'PYTHONPATH': 'c'}
    """
    return {
        name: value for name, value in environment.items() if name.startswith(DECISIVE) and not name.startswith(PER_RUN)
    }


def worker_environment() -> dict[str, str]:
    """What a worker with this process's environment gives a flow's process: that, and what its settings say."""
    from prefect.settings import get_current_settings

    return {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}


@dataclass(frozen=True)
class Imported:
    """The files that were imported, as they were then: size and time of change in nanoseconds."""

    files: Mapping[str, tuple[int, int]]

    @classmethod
    def now(cls) -> "Imported":
        """Those of this process: our modules, prefect.yaml, and the folder of installed packages."""
        ours = {
            str(ROOT / "prefect.yaml"),
            *(str(Path(path).resolve()) for path in sys.path if path.endswith("site-packages")),
        }
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None) or ""
            if path.startswith(f"{ROOT}{os.sep}") and f"{os.sep}site-packages{os.sep}" not in path:
                ours.add(path)
        return cls({path: _stamp(path) for path in ours})

    def changed(self) -> bool:
        """Whether one of them is another now, or gone."""
        return any(_stamp(path) != stamp for path, stamp in self.files.items())


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def listening(folder: Path) -> socket.socket:
    """A socket in ``folder``, which is made 0700; of one that an earlier launcher left only the name remains."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket_path(folder) as path:
        listener.bind(path)
    listener.listen(64)
    return listener


@dataclass(frozen=True)
class Asked:
    """In a fork: what its asker handed over.

    Args:
        handles: file descriptors of its output, its errors, its folder, and where to say the exit code.
        asker: the connection, open as long as its asker is there.
    """

    environment: Mapping[str, str]
    handles: Sequence[int]
    asker: socket.socket

    def become_flow(self) -> None:
        """Take what is the asker's, and run Prefect's engine to its end."""
        out, errors, folder, end = self.handles
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.fchdir(folder)
        for handle in (out, errors, folder):
            os.close(handle)
        os.environ.clear()
        os.environ.update(self.environment)
        name_process(name_of(self.environment.get("PREFECT__FLOW_RUN_ID", "")))
        time.tzset()
        logging.getLogger().handlers.clear()
        threading.Thread(target=_die_with, args=(self.asker,), daemon=True).start()
        _end(run(), end)


def _die_with(asker: socket.socket) -> None:
    """Kill this process when who asked for it is gone, whatever the launcher does meanwhile."""
    watch = select.poll()
    watch.register(asker, select.POLLRDHUP)
    watch.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _end(code: int, end: int) -> None:
    """End this process as Python would, but for taking the heap apart (0.1 s of a fork, which copies each page for it)."""
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its forks
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(end, str(code).encode())
    os._exit(code)


@dataclass
class Fork:
    """A flow's process that runs, its pid's file descriptor, and who asked for it."""

    pid: int
    handle: int
    asker: socket.socket


class Launcher:
    """Answers on ``listener`` until a TERM comes, or until what it imported has changed and no fork runs."""

    def __init__(self, listener: socket.socket, imported: Imported, settings: Mapping[str, str]) -> None:
        self.listener = listener
        self.imported = imported
        self.settings = settings
        self.stale = False
        self.forks: dict[int, Fork] = {}
        self.selector = selectors.DefaultSelector()

    def serve(self) -> Asked | None:
        """In a fork what was asked; in the launcher None, when it should be started anew."""
        self.selector.register(self.listener, selectors.EVENT_READ, self._came)
        while not (self.stale and not self.forks):
            for key, _ in self.selector.select():
                asked: Asked | None = key.data()
                if asked is not None:
                    return asked
        self.listener.close()
        self.selector.close()
        return None

    def _came(self) -> None:
        """Greet who connected; only then are output and folder handed over, which a queue here would hold open."""
        asker, _ = self.listener.accept()
        asker.setblocking(False)
        self.selector.register(asker, selectors.EVENT_READ, lambda: self._asked(asker))
        with contextlib.suppress(OSError):  # gone again: the socket's end tells it
            asker.send(HELLO)

    def _asked(self, asker: socket.socket) -> Asked | None:
        self.selector.unregister(asker)
        handles = list[int]()
        try:
            request, handles, _, _ = socket.recv_fds(asker, MAX_MESSAGE, 4)
            if not request:  # gone again
                asker.close()
                return None
            environment = json.loads(request)
            refusal = self._refusal(asker, environment)
            if not refusal:
                return self._fork(asker, Asked(environment, handles, asker))
            log.info("declined: %s", refusal)
            asker.send(DECLINED)
        except (OSError, ValueError) as error:
            log.info("a request could not be answered (%s)", type(error).__name__)
        asker.close()
        for handle in handles:
            os.close(handle)
        return None

    def _refusal(self, asker: socket.socket, environment: Mapping[str, str]) -> str:
        _, user, _ = struct.unpack("3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if user != os.getuid():
            return "asked by another user"
        if self.stale or self.imported.changed():
            self.stale = True
            return "a file that was imported has changed"
        wanted = decisive(environment)
        others = sorted(name for name in {*wanted, *self.settings} if wanted.get(name) != self.settings.get(name))
        return f"other settings: {', '.join(others)}" if others else ""

    def _fork(self, asker: socket.socket, asked: Asked) -> Asked | None:
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with_parent(launcher)
            self.selector.close()
            self.listener.close()
            for other in self.forks.values():
                os.close(other.handle)
                other.asker.close()
            return asked
        for handle in asked.handles:
            os.close(handle)
        fork = Fork(pid, os.pidfd_open(pid), asker)
        self.forks[pid] = fork
        self.selector.register(fork.handle, selectors.EVENT_READ, lambda: self._ended(fork))
        self.selector.register(asker, selectors.EVENT_READ, lambda: self._told(fork))
        with contextlib.suppress(OSError):  # who asked is gone already: the socket's end tells it
            socket.send_fds(asker, [FORKED], [fork.handle])
        return None

    def _told(self, fork: Fork) -> None:
        """The asker's end: then its fork's, which sees it too unless it stands still."""
        if fork.pid in self.forks:
            self.selector.unregister(fork.asker)
            signal.pidfd_send_signal(fork.handle, signal.SIGKILL)

    def _ended(self, fork: Fork) -> None:
        del self.forks[fork.pid]
        _, status = os.waitpid(fork.pid, 0)
        self.selector.unregister(fork.handle)
        os.close(fork.handle)
        with contextlib.suppress(KeyError):  # it ended before
            self.selector.unregister(fork.asker)
        with contextlib.suppress(OSError):
            fork.asker.send(str(os.waitstatus_to_exitcode(status)).encode())
        fork.asker.close()


if __name__ == "__main__":
    main()

"""Runs that are killed: in a process of their own, before the n-th thing that they would do to the disk or the registry."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine, event

_ACTS = {"os.link", "os.rename", "os.remove", "os.mkdir"}


def run(engine: Engine, act: Callable[[Engine], object], below: Path, point: int = 0, seconds: float = 0) -> int | None:
    """Run ``act`` in a forked process, with an engine of its own; the number of its points, or None if it was killed.

    A point is a link, a rename, a removal, a new folder or file below ``below``, or a commit to the registry.

    Args:
        engine: the registry's.
        act: what is done.
        point: it is killed before this one; 0: never.
        seconds: it is killed after so long; 0: never.
    """
    engine.dispose()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            os.close(reading)
            from blocks.registry import open_engine

            own = open_engine(engine.url)
            counted = 0

            def count() -> None:
                nonlocal counted
                counted += 1
                if counted == point:
                    os.kill(os.getpid(), signal.SIGKILL)

            def watch(name: str, given: tuple[object, ...]) -> None:
                if name in _ACTS or (name == "open" and isinstance(given[2], int) and given[2] & os.O_CREAT):
                    paths = [os.fspath(one) for one in given[:2] if isinstance(one, str | os.PathLike)]
                    if any(str(path).startswith(str(below)) for path in paths):
                        count()

            event.listen(own, "commit", lambda _: count())
            sys.addaudithook(watch)
            act(own)
            os.write(writing, str(counted).encode())
            code = 0
        os._exit(code)
    os.close(writing)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the run ended with {code}"
    return int(said) if code == 0 else None

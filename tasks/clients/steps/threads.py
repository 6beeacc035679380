"""Running what blocks in a thread, so that a run that is cancelled holds its client until the thread is done."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """``act`` in a thread, to its end also when this is cancelled meanwhile: the cancelling goes on only then.

    A thread cannot be interrupted. Were it left behind, the client's lock would fall while it still works, and the next
    operation would work on the same container. Each call inside has a deadline of its own.
    """
    task = asyncio.ensure_future(asyncio.to_thread(act, *arguments, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise

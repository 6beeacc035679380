"""How a flow ends: with one sentence as its state message, never with a traceback in the operator's face."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from blocks.documents import DoesNotFit
from tasks.errors import FleetError

P = ParamSpec("P")

NOWHERE = Path("/nonexistent")
"""Where a flow's result would be kept, and none is: a flow that names no place makes Prefect ask its server for one, twice."""


def told(flow: Callable[P, Awaitable[str]]) -> Callable[P, Awaitable[State[Any]]]:
    """Turn the sentence that ``flow`` returns into ``Completed(message=…)`` and our errors into ``Failed(message=…)``.

    Raising alone would read "Flow run encountered an exception: …". What we do not know is named by its type only,
    because its text may hold anything; the log has where it happened, without values.
    """

    @functools.wraps(flow)
    async def tell(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        try:
            return Completed(message=await flow(*args, **kwargs))
        except (FleetError, DoesNotFit) as error:
            get_run_logger().error(str(error))
            return Failed(message=str(error))
        except Exception as error:
            get_run_logger().error("unexpected %s at %s", type(error).__name__, _where(error))
            return Failed(message=f"unexpected: {type(error).__name__}; see the log")

    return tell


def _where(error: BaseException) -> str:
    """The frames of ``error``, innermost last, as ``file:line function``: no values, so no secrets."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " > ".join(frames[-6:])

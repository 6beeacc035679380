"""Cold imports: what a flow run pays before it begins, each time."""

import functools
import pkgutil
import sys
from importlib import import_module

from tests.bench.figures import Figure, cpu_of, in_turns


def imports_of(trade: str) -> list[Figure]:
    """A figure for every flow module of ``trade``, beside ``import prefect`` alone."""
    package = import_module(f"flows.{trade}")
    return [_figure(f"flows.{trade}.{found.name}", found.name) for found in pkgutil.iter_modules(package.__path__)]


def _figure(module: str, name: str) -> Figure:
    return Figure(
        name=f"import-{name.replace('_', '-')}",
        what=f"CPU seconds of a fresh interpreter that imports {module}, beside one that imports prefect",
        bar=1.6,
        open=functools.partial(in_turns, functools.partial(_cold, module), functools.partial(_cold, "prefect")),
    )


def _cold(module: str) -> float:
    return cpu_of([sys.executable, "-c", f"import {module}"])

"""What a figure is, how it is measured, and how it is told.

A figure is a ratio, so that it says the same on a slow machine and on a fast one. Both sides are measured in turns, the
order changing from round to round, after a warm-up that does not count.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """One round: what ours cost and what stands beside it, in the same unit, and what else was seen, by its name."""

    ours: float
    beside: float
    seen: dict[str, float] = field(default_factory=dict)


Measure = Callable[[int], Pair]
"""One round, given its number (0 is the warm-up)."""


@dataclass(frozen=True)
class Figure:
    """One figure of an area.

    Args:
        name: without its area: ``import-provision``.
        what: the two sides in words, for the JSON file.
        bar: what the figure must not exceed, or must reach.
        reach: False: ours / beside must be at most ``bar``; True: beside / ours must be at least ``bar``.
        rounds: counted ones.
        unit: of the figure as told: ``x``, ``%``, or ``s`` and ``MiB`` for the difference instead of a ratio.
        open: what a figure needs around all its rounds; gives the function that measures one.
        warm_up: whether a round goes before that does not count; not where one takes minutes.
    """

    name: str
    what: str
    bar: float
    open: Callable[[], AbstractContextManager[Measure]]
    reach: bool = False
    rounds: int = 5
    unit: str = "x"
    warm_up: bool = True

    def ratio(self, pair: Pair) -> float:
        """The figure of one round."""
        if self.unit in ("s", "MiB"):
            return pair.ours - pair.beside
        return pair.beside / pair.ours if self.reach else pair.ours / pair.beside

    def told(self, value: float) -> str:
        """``value`` with the unit.

        >>> Figure("f", "", 0.25, open, unit="%").told(0.123)
        '12.3 %'
        """
        return f"{value * 100:.1f} %" if self.unit == "%" else f"{value:.2f} {self.unit}"

    def bar_told(self) -> str:
        """The bar in words."""
        return f"at {'least' if self.reach else 'most'} {self.told(self.bar)}"


@dataclass(frozen=True)
class Result:
    """A figure that was measured, or the reason why it was not."""

    area: str
    figure: Figure
    pairs: list[Pair] = field(default_factory=list)
    error: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of the counted rounds."""
        return [self.figure.ratio(pair) for pair in self.pairs]

    @property
    def held(self) -> bool:
        """Whether the median is on the right side of the bar; what was not measured is not held."""
        if not self.pairs:
            return False
        median = statistics.median(self.ratios)
        return median >= self.figure.bar if self.figure.reach else median <= self.figure.bar

    def line(self) -> str:
        """``area/name | figure (min..max) | bar | held or short``."""
        figure, ratios = self.figure, self.ratios
        shown = (
            f"{figure.told(statistics.median(ratios))} ({figure.told(min(ratios))}..{figure.told(max(ratios))})"
            if ratios
            else f"not measured: {self.error}"
        )
        return f"{self.area}/{figure.name} | {shown} | {figure.bar_told()} | {'held' if self.held else 'short'}"

    def as_json(self) -> dict[str, Any]:
        """For the file beside the lines."""
        ratios = self.ratios
        return {
            "area": self.area,
            "name": self.figure.name,
            "what": self.figure.what,
            "figure": statistics.median(ratios) if ratios else None,
            "min": min(ratios, default=None),
            "max": max(ratios, default=None),
            "bar": self.figure.bar,
            "bar_is": "at least" if self.figure.reach else "at most",
            "held": self.held,
            "error": self.error or None,
            "rounds": [{"ours": pair.ours, "beside": pair.beside, **pair.seen} for pair in self.pairs],
        }


def measure(area: str, figure: Figure, rounds: int | None = None) -> Result:
    """Measure ``figure``: one warm-up where it has one, then its rounds.

    Args:
        area: the trade it counts under.
        figure: which.
        rounds: instead of the figure's own number.
    """
    pairs: list[Pair] = []
    try:
        with figure.open() as one:
            if figure.warm_up:
                one(0)
            pairs += (one(number) for number in range(1, (rounds or figure.rounds) + 1))
    except Exception as error:
        # One figure that cannot be measured hides no other; half of its rounds are no figure.
        return Result(area, figure, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Result(area, figure, pairs)


class Shared(Generic[T]):
    """What several figures stand on and what is costly to make: opened for the first that asks, closed after the last."""

    _run: ExitStack | None = None

    def __init__(self, opening: Callable[[], AbstractContextManager[T]]) -> None:
        self._opening = opening
        self._opened: list[T] = []

    def get(self) -> T:
        """The opened thing; inside ``sharing``, whose end closes it."""
        if Shared._run is None:
            raise RuntimeError("nothing would close it: ask inside sharing()")
        if not self._opened:
            self._opened.append(Shared._run.enter_context(self._opening()))
            Shared._run.callback(self._opened.clear)
        return self._opened[0]


@contextmanager
def sharing() -> Iterator[None]:
    """What ``Shared`` opens meanwhile is closed at the end, the last opened first."""
    with ExitStack() as stack:
        Shared._run = stack
        try:
            yield
        finally:
            Shared._run = None


@contextmanager
def in_turns(ours: Callable[[], float], beside: Callable[[], float]) -> Iterator[Measure]:
    """Both sides after one another, the first of a round being the second of the next, so that drift hits both."""

    def one(number: int) -> Pair:
        if number % 2:
            cost = ours()
            return Pair(cost, beside())
        other = beside()
        return Pair(ours(), other)

    yield one


class Clock:
    """What a piece of work cost this process."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator["Clock"]:
        """Count wall and CPU seconds (user and system) of the ``with`` block."""
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        yield self
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.wall = time.perf_counter() - started
        self.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_of(command: list[str]) -> float:
    """CPU seconds (user and system) of ``command``; it must succeed.

    CPU rather than wall time, because the machines that run this have other things to do.
    """
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime

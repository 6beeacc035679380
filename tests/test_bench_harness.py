"""The harness of the benchmarks: what holds, what is short, and how it is told."""

import json
from contextlib import contextmanager
from pathlib import Path

from tests.bench.__main__ import write
from tests.bench.figures import Figure, Pair, Result, in_turns, measure


def figure(bar: float, reach: bool = False, ours: float = 1.0, beside: float = 2.0) -> Figure:
    return Figure("f", "", bar, lambda: in_turns(lambda: ours, lambda: beside), reach=reach, rounds=3)


def test_a_cost_holds_up_to_its_bar_and_is_short_beyond() -> None:
    assert measure("clients", figure(0.5)).line() == "clients/f | 0.50 x (0.50 x..0.50 x) | at most 0.50 x | held"
    assert measure("clients", figure(0.4)).line().endswith("| short")


def test_a_gain_holds_from_its_bar_on() -> None:
    assert measure("health", figure(2.0, reach=True)).held
    assert not measure("health", figure(2.1, reach=True)).held


def test_the_median_decides_and_the_warm_up_does_not_count() -> None:
    costs = iter([100.0, 1.0, 9.0, 1.0])

    @contextmanager
    def opened():  # type: ignore[no-untyped-def]
        yield lambda number: Pair(next(costs), 1.0)

    result = measure("gmail", Figure("f", "", 1.5, opened, rounds=3))
    assert result.held and result.ratios == [1.0, 9.0, 1.0]


def test_what_cannot_be_measured_is_short_with_its_reason_and_hides_no_other() -> None:
    @contextmanager
    def broken():  # type: ignore[no-untyped-def]
        raise RuntimeError("no stack")
        yield

    result = measure("clients", Figure("f", "", 1.0, broken))
    assert not result.held
    assert result.line() == "clients/f | not measured: RuntimeError: no stack | at most 1.00 x | short"


def test_the_file_holds_every_round(tmp_path: Path) -> None:
    results: list[Result] = [measure("backups", figure(1.0))]
    told = json.loads(write(results, tmp_path / "deep" / "r.json").read_text())
    assert told["figures"][0]["rounds"] == [{"ours": 1.0, "beside": 2.0}] * 3
    assert told["machine"]["prefect"].startswith("3.")

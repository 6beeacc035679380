"""The harness of the benchmarks: what holds, what is short, and how it is told."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.__main__ import write
from tests.bench.figures import Figure, Pair, Result, Shared, in_turns, measure, sharing


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


def test_a_figure_without_a_warm_up_measures_its_rounds_alone() -> None:
    seen: list[int] = []

    @contextmanager
    def opened():  # type: ignore[no-untyped-def]
        yield lambda number: seen.append(number) or Pair(1.0, 2.0)

    measure("backups", Figure("f", "", 1.0, opened, rounds=2, warm_up=False))
    assert seen == [1, 2]


def test_a_difference_in_memory_is_told_in_its_unit_with_what_else_was_seen() -> None:
    @contextmanager
    def opened():  # type: ignore[no-untyped-def]
        yield lambda number: Pair(52.5, 31.25, {"pg_dump": 9.0})

    result = measure("backups", Figure("m", "", 40.0, opened, rounds=1, unit="MiB", warm_up=False))
    assert result.line() == "backups/m | 21.25 MiB (21.25 MiB..21.25 MiB) | at most 40.00 MiB | held"
    assert result.as_json()["rounds"] == [{"ours": 52.5, "beside": 31.25, "pg_dump": 9.0}]


def test_what_figures_share_is_opened_once_and_closed_after_the_last_also_when_one_fails() -> None:
    said: list[str] = []

    @contextmanager
    def opening():  # type: ignore[no-untyped-def]
        said.append("opened")
        yield len(said)
        said.append("closed")

    shared = Shared(opening)

    @contextmanager
    def good():  # type: ignore[no-untyped-def]
        yield lambda number: Pair(float(shared.get()), 1.0)

    @contextmanager
    def bad():  # type: ignore[no-untyped-def]
        raise RuntimeError(str(shared.get()))
        yield

    with sharing():
        assert measure("backups", Figure("f", "", 1.0, good)).held
        assert not measure("backups", Figure("f", "", 1.0, bad)).held
        assert said == ["opened"]
    assert said == ["opened", "closed"]
    with sharing():
        shared.get()
    assert said == ["opened", "closed"] * 2
    with pytest.raises(RuntimeError, match="inside sharing"):
        shared.get()

"""What is read of a container's log when it did not become ready: of one that died its last words, else the log as it is."""

import itertools

import pytest

from tasks.clients import readiness
from tasks.clients.containers import Seen
from tasks.errors import Unhealthy
from tasks.registry.spec import ZeroSpec
from tests.conftest import free_port

RUNNING = Seen("1", "zero_client_a", "running", 0, False, 1, "", "", None, "", "")


async def _waited(inspect, monkeypatch) -> tuple[list[bool], str]:
    """How the log was asked for, and the sentence."""
    monkeypatch.setattr(readiness, "FIRST_PAUSE", 0.01)
    asked: list[bool] = []

    def lines(died: bool) -> list[str]:
        asked.append(died)
        return ["words"]

    base = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unhealthy) as caught:
        await readiness.until_ready(inspect, base, ZeroSpec().probe, 0.3, lines, "zero_client_a", 128)
    return asked, str(caught.value)


async def test_one_that_crashed_once_and_is_silent_now_shows_what_it_says_now(monkeypatch):
    asked, said = await _waited(lambda: RUNNING, monkeypatch)
    assert asked == [False] and "not within 0 s" in said


async def test_one_that_crashes_again_and_again_shows_its_last_words(monkeypatch):
    counts = itertools.count()

    def inspect() -> Seen:
        return Seen("1", "zero_client_a", "running", 0, False, next(counts), "", "", None, "", "")

    asked, said = await _waited(inspect, monkeypatch)
    assert asked == [True] and "it crashes in a loop" in said

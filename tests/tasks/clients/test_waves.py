"""Upgrading in waves: who is next, when it stops, and the one sentence about it."""

import pytest

from tasks.clients.outcomes import Outcome
from tasks.clients.waves import next_wave, summary, too_many
from tasks.errors import Unhealthy


def outcome(client: str, good: bool = True) -> Outcome:
    return Outcome(client, good, f"{client}: upgraded" if good else f"{client}: it crashed; read its log.")


def test_one_goes_first_until_one_was_tried_at_all_then_several():
    clients = ["a", "b", "c", "d"]
    assert next_wave(clients, (), 3) == ["a"]
    assert next_wave(clients[1:], (), 3) == ["b"]  # a was left alone
    assert next_wave(clients[2:], {"b"}, 3) == ["c", "d"]


@pytest.mark.parametrize(
    ("good", "bad", "ratio", "stops"),
    [
        (0, 1, 0.2, True),
        (4, 1, 0.2, False),
        (3, 1, 0.2, True),
        (0, 5, 1.0, False),
        (9, 0, 0.0, False),
        (9, 1, 0.0, True),
    ],
)
def test_it_stops_when_more_than_the_ratio_of_those_attempted_failed(good, bad, ratio, stops):
    outcomes = [outcome(f"g{number}") for number in range(good)] + [
        outcome(f"b{number}", False) for number in range(bad)
    ]
    assert too_many(outcomes, {one.client for one in outcomes}, ratio) is stops


def test_a_client_that_was_left_alone_does_not_count_as_attempted():
    assert too_many([outcome("off"), outcome("b", False)], {"b"}, 0.5)


def test_the_sentence_names_everybody():
    outcomes = [outcome("a"), Outcome("off", True, "off: not enabled"), outcome("b", False)]
    with pytest.raises(Unhealthy) as caught:
        summary(outcomes, {"a", "b"}, ["c", "d"], "zero:2")
    assert str(caught.value) == (
        "1 of 5 upgraded to zero:2: a; 1 not to be upgraded: off: not enabled; 1 failed: b: it crashed; read its log; stopped "
        "there, 2 not attempted: c, d; mend what each one names and run again; who is upgraded already is left alone."
    )
    assert summary(outcomes[:1], {"a"}, [], "zero:2") == "a: upgraded"
    assert summary([outcome("a"), outcome("e")], {"a", "e"}, [], "zero:2") == "2 of 2 upgraded to zero:2: a, e."

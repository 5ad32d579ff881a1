"""The fair line as a queue of plain values: who is served, in which order, and what one key can do to another."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.line import Cost, FairLine, Place
from tests.support.properties import bar


def place(key: str, work: float = 1.0, patient: bool = False) -> Place:
    turn = cast("asyncio.Future[None]", None)  # the line itself never looks at it
    return Place(key, Cost(1), work, turn, patient)


def served(line: FairLine, count: int) -> list[Place]:
    """The next ones to be let in."""
    found = []
    for _ in range(count):
        one = line.first()
        assert one is not None
        line.charge(one.key, one.work)
        line.leave(one)
        found.append(one)
    return found


def test_one_key_is_served_in_the_order_of_arrival() -> None:
    line, places = FairLine(), [place("a", work) for work in (5.0, 1.0, 3.0)]
    for one in places:
        line.join(one)
    assert (len(line), line.of("a"), line.work) == (3, 3, 9.0)
    assert served(line, 3) == places
    assert (len(line), line.of("a"), line.work, line.first()) == (0, 0, 0, None)


def test_keys_share_by_work_and_not_by_requests() -> None:
    line = FairLine()
    for _ in range(40):
        line.join(place("large", 4.0))
        for _ in range(4):
            line.join(place("small", 1.0))
    work: Counter[str] = Counter()
    for one in served(line, 100):
        work[one.key] += int(one.work)
    assert abs(work["large"] - work["small"]) <= 5


def test_nothing_is_saved_up_while_idle_and_nothing_is_owed_for_room_that_nobody_wanted() -> None:
    line = FairLine()
    for _ in range(1000):
        line.charge("busy", 1.0)  # let in without waiting, for nobody else was there
    for _ in range(10):
        line.join(place("busy"))
        line.join(place("idle"))
    keys = [one.key for one in served(line, 20)]
    assert all(abs(keys[:n].count("busy") - keys[:n].count("idle")) <= 2 for n in range(20))


def test_leaving_twice_and_leaving_after_being_served_are_harmless() -> None:
    line, one, two = FairLine(), place("a", patient=True), place("a")
    line.join(one)
    line.join(two)
    for _ in range(2):
        line.leave(one)
    assert (len(line), line.patient, line.work) == (1, 0, 1.0)
    assert served(line, 1) == [two]
    line.leave(two)
    assert (len(line), line.work) == (0, 0)


KEYS = st.sampled_from("abcd")
STEPS = st.lists(st.tuples(st.sampled_from(["join", "serve", "leave"]), KEYS, st.integers(1, 8)), max_size=120)


@bar(5_000)
@given(STEPS)
def test_any_history_keeps_order_within_a_key_and_fairness_between_keys(steps: list[tuple[str, str, int]]) -> None:
    """While two keys both wait, what they were given since differs by one request of each at most."""
    line, waiting = FairLine(), {key: list[Place]() for key in "abcd"}
    given_to: dict[tuple[str, str], float] = {}
    for action, key, number in steps:
        if action == "join":
            waiting[key].append(place(key, float(number)))
            line.join(waiting[key][-1])
        elif action == "leave" and waiting[key]:
            line.leave(waiting[key].pop(number % len(waiting[key])))
        elif action == "serve" and len(line):
            (one,) = served(line, 1)
            assert waiting[one.key].pop(0) is one
            for other in "abcd":
                if other != one.key:
                    given_to[one.key, other] = given_to.get((one.key, other), 0.0) + one.work
        for one_key, other in ((x, y) for x in "abcd" for y in "abcd" if x < y):
            if not (waiting[one_key] and waiting[other]):
                given_to[one_key, other] = given_to[other, one_key] = 0.0
            difference = given_to.get((one_key, other), 0.0) - given_to.get((other, one_key), 0.0)
            assert abs(difference) <= 16  # one largest request of each
        assert len(line) == sum(map(len, waiting.values()))
        assert line.work == pytest.approx(sum(p.work for places in waiting.values() for p in places))


@bar(2_000)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 100))
def test_a_request_is_passed_by_a_bounded_amount_of_work(smalls: list[int], large: int) -> None:
    """However many of other keys come after it: small ones cannot keep a large one waiting for ever."""
    line, mine = FairLine(), place("mine", float(large))
    line.join(mine)
    passed = 0.0
    for number in range(10_000):
        line.join(place("others", float(smalls[number % len(smalls)])))
        (one,) = served(line, 1)
        if one is mine:
            break
        passed += one.work
    else:
        pytest.fail("it waits for ever")
    assert passed <= 2 * max(smalls)

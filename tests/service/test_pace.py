from __future__ import annotations

import math

import pytest

from service.pace import ENOUGH, WINDOW_S, Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_known_before_something_was_finished() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.seconds_for(1.0) is None
    pace.resume()
    clock.now = WINDOW_S - 1
    assert pace.seconds_for(1.0) is None
    clock.now = WINDOW_S + 1
    assert pace.seconds_for(1.0) == math.inf  # a window of work without a result


def test_idle_time_does_not_count() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(5):
        pace.resume()
        clock.now += 1.0
        pace.finished(2.0)
        pace.rest()
        clock.now += 1000.0
    assert pace.seconds_for(10.0) == pytest.approx(5.0)


def test_only_the_last_window_counts() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.resume()
    for speed in (1.0, 5.0):
        for _ in range(2 * int(WINDOW_S)):
            clock.now += 1.0
            pace.finished(speed)
    assert pace.seconds_for(100.0) == pytest.approx(20.0, rel=0.05)


def test_memory_is_bounded_by_the_window_though_nobody_asks() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.resume()
    for _ in range(10_000):
        clock.now += 0.1
        pace.finished(1.0)
    assert len(pace._finished) <= 10 * WINDOW_S + 2


def test_a_few_results_are_no_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.resume()
    for number in range(ENOUGH):
        assert not pace.is_known
        clock.now = float(number)
        pace.finished(1.0)
    assert pace.is_known

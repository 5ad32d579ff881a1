"""When calls pass the breaker, and when they fail at once."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import StoreUnavailable
from service.stores.breaker import Breaker
from tests.support.stores import FakeClock


class Silent(Exception):
    """The store did not answer."""


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker(max_failures=5, wait_s=1.0, clock=self.clock)

    def call(self, error: BaseException | None = None) -> None:
        with self.breaker.attempt(Silent):
            if error is not None:
                raise error

    def fail(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(Silent):
                self.call(Silent())


def test_it_opens_at_the_fifth_failure_in_a_row() -> None:
    bench = Bench()
    bench.fail(4)
    bench.call()
    bench.fail(4)
    with pytest.raises(ValueError):
        bench.call(ValueError())  # a refusal is an answer
    bench.fail(4)
    assert not bench.breaker.is_open
    bench.fail(1)
    with pytest.raises(StoreUnavailable) as caught:
        bench.call()
    assert caught.value.details["retry_after_s"] == 1


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    bench = Bench()
    bench.fail(5)
    bench.clock.now += 0.9
    with pytest.raises(StoreUnavailable):
        bench.call()
    bench.clock.now += 0.1
    with bench.breaker.attempt(Silent), pytest.raises(StoreUnavailable):
        bench.call()
    assert not bench.breaker.is_open
    bench.call()


def test_a_failed_probe_begins_another_wait() -> None:
    bench = Bench()
    bench.fail(5)
    for _ in range(3):
        bench.clock.now += 1.0
        bench.fail(1)
        with pytest.raises(StoreUnavailable):
            bench.call()


def test_a_cancelled_probe_leaves_the_way_free_for_another() -> None:
    bench = Bench()
    bench.fail(5)
    bench.clock.now += 1.0
    with pytest.raises(asyncio.CancelledError):
        bench.call(asyncio.CancelledError())
    with pytest.raises(StoreUnavailable):
        bench.call()
    bench.clock.now += 1.0
    bench.call()
    assert not bench.breaker.is_open


def test_a_late_failure_while_open_does_not_let_two_probes_pass() -> None:
    """Calls that began before it opened may end at any time."""
    bench = Bench()
    with pytest.raises(Silent), bench.breaker.attempt(Silent):
        bench.fail(5)
        bench.clock.now += 1.0
        raise Silent
    with pytest.raises(StoreUnavailable):
        bench.call()
    bench.clock.now += 1.0
    with bench.breaker.attempt(Silent), pytest.raises(StoreUnavailable):
        bench.call()

"""The assembler on a loop whose time jumps: any order of arrivals, cancels and failures, against a simple model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cohorts import Answer, Assembler, Place, revived, stored
from service.errors import CohortIncomplete, Conflict, Draining, EngineDead, InternalError, JudgmentFailed, ServiceError
from service.stores.cohorts_base import Gathered, Policy, Terms
from service.stores.cohorts_memory import MemoryCohorts
from tests.support.cohorts import member
from tests.support.properties import bar
from tests.support.virtual_time import VirtualTimeLoop

SIZE = 4
JUDGING_S = 2.0


@dataclass
class World:
    """An assembler, a judge that takes its time and remembers what it counted, and what the assembler reported."""

    policy: Policy = field(default_factory=Policy)
    faults: list[Exception] = field(default_factory=list)
    counted: list[dict[int, str]] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryCohorts(clock=asyncio.get_running_loop().time)
        self.assembler = Assembler(self.store, self.policy, lambda outcome, _: self.outcomes.append(outcome))

    async def judge(self, gathered: Gathered) -> bytes:
        await asyncio.sleep(JUDGING_S)
        if self.faults:
            raise self.faults.pop(0)
        if dict(gathered.responses) not in self.counted:  # as a commit under the group's key
            self.counted.append(dict(gathered.responses))
        return repr(sorted(gathered.responses.items())).encode()

    async def come(self, index: int, response: str | None = None, wait_s: float = 30.0) -> Answer:
        place = Place("group", Terms(SIZE, "prompt"), member(index, response))
        return await self.assembler.answer(place, wait_s, self.judge)


def on_virtual_time(test: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        await test()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


@dataclass(frozen=True)
class Arrival:
    """One caller: when it comes (s), with what, how long its group may wait, and when it hangs up."""

    at: float
    index: int
    response: str
    wait_s: float
    leaves_after: float | None


ARRIVALS = st.builds(
    Arrival,
    st.integers(0, 40).map(float),
    st.integers(0, SIZE - 1),
    st.sampled_from(["same", "same", "same", "same", "other"]),
    st.sampled_from([5.0, 10.0, 30.0]),
    st.none() | st.sampled_from([0.0, 1.0, 4.0, 9.0]),
)
FAULTS = st.lists(st.sampled_from([JudgmentFailed("no"), EngineDead("gone")]), max_size=2)


@bar(10_000)
@given(st.lists(ARRIVALS, min_size=1, max_size=12), FAULTS, st.booleans())
def test_every_caller_is_answered_once_and_no_response_counted_twice(
    arrivals: list[Arrival], faults: list[Exception], partial: bool
) -> None:
    async def history() -> None:
        world = World(Policy(partial=partial), list(faults))

        async def call(arrival: Arrival) -> Answer:
            await asyncio.sleep(arrival.at)
            async with asyncio.timeout(arrival.leaves_after):
                return await world.come(arrival.index, arrival.response, arrival.wait_s)

        async with asyncio.timeout(1000):
            found = await asyncio.gather(*map(call, arrivals), return_exceptions=True)
        assert world.assembler.waiting == 0
        assert len(world.counted) <= 1, "members once fixed stay fixed"
        answers = {answer.result for answer in found if isinstance(answer, Answer)}
        assert len(answers) <= 1
        for arrival, outcome in zip(arrivals, found, strict=True):
            check(world, arrival, outcome, partial)
        judged = world.outcomes.count("complete") + world.outcomes.count("partial")
        assert judged == len(world.counted)
        assert all(size == SIZE or partial for size in map(len, world.counted))

    on_virtual_time(history)


def check(world: World, arrival: Arrival, outcome: Answer | BaseException, partial: bool) -> None:
    """Everybody gets the row of what it sent, or a reason that fits."""
    if isinstance(outcome, Answer):
        (members,) = world.counted
        assert members[arrival.index] == arrival.response
        assert len(members) >= 2
    elif isinstance(outcome, TimeoutError):
        assert arrival.leaves_after is not None
    elif isinstance(outcome, CohortIncomplete):
        assert str(arrival.index) not in str(outcome.details["missing"]).split(", ")
    else:
        assert isinstance(outcome, Conflict | JudgmentFailed | EngineDead), outcome


def test_the_judges_lease_is_kept_while_it_works() -> None:
    """A judging of a minute is not taken over after the lease's five seconds."""

    async def history() -> None:
        world = World()
        calls = []

        async def slow(gathered: Gathered) -> bytes:
            calls.append(gathered)
            await asyncio.sleep(60)
            return b"result"

        places = [Place("g", Terms(2, "p"), member(index)) for index in range(2)]
        answers = await asyncio.gather(*(world.assembler.answer(place, 5, slow) for place in places))
        assert len(calls) == 1
        assert sorted(answer.judged for answer in answers) == [False, True]

    on_virtual_time(history)


def test_each_waiter_tries_an_engine_that_is_gone_and_none_hangs() -> None:
    async def history() -> None:
        world = World(faults=[EngineDead("gone")] * SIZE)
        found = await asyncio.gather(*(world.come(index) for index in range(SIZE)), return_exceptions=True)
        assert [type(error) for error in found] == [EngineDead] * SIZE
        assert [type(answer) for answer in await asyncio.gather(world.come(0))] == [Answer]

    on_virtual_time(history)


def test_a_broken_judge_hangs_nobody() -> None:
    async def history() -> None:
        world = World(faults=[ZeroDivisionError()])
        found = await asyncio.gather(*(world.come(index) for index in range(SIZE)), return_exceptions=True)
        assert sum(isinstance(one, ZeroDivisionError) for one in found) == 1
        assert sum(isinstance(one, Answer) for one in found) == SIZE - 1

    on_virtual_time(history)


def test_draining_releases_the_open_and_not_the_judged() -> None:
    async def history() -> None:
        world = World()
        open_ = asyncio.create_task(world.come(0))
        full = [Place("full", Terms(2, "p"), member(index)) for index in range(2)]
        judged = [asyncio.create_task(world.assembler.answer(place, 30, world.judge)) for place in full]
        await asyncio.sleep(1)
        world.assembler.drain()
        with pytest.raises(Draining):
            await open_
        with pytest.raises(Draining):
            await world.come(1)
        assert len({answer.result for answer in await asyncio.gather(*judged)}) == 1

    on_virtual_time(history)


def test_a_group_the_store_forgot_is_joined_again() -> None:
    async def history() -> None:
        world = World()
        first = asyncio.create_task(world.come(0))
        await asyncio.sleep(1)
        del world.store._cohorts["group"]
        world.store._wake("group")
        rest = [world.come(index) for index in range(1, SIZE)]
        assert len({answer.result for answer in await asyncio.gather(first, *rest)}) == 1

    on_virtual_time(history)


@pytest.mark.parametrize(
    "error", [CohortIncomplete("m", missing="0, 2", size=3), JudgmentFailed("m"), InternalError("m")]
)
def test_errors_survive_their_storage(error: ServiceError) -> None:
    again = revived(stored(error))
    assert (type(again), again.message, again.details) == (type(error), error.message, error.details)

"""Planned faults strike when they are planned, for as long, and end with the engine they struck."""

from __future__ import annotations

import asyncio

import pytest

from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, FakeOptions
from service.engines.fake_faults import FaultPlan, PlannedFault
from service.errors import EngineDead, JudgmentFailed, StartupError

LABEL = EngineRequest((5, 6, 7), "label", label_ids=(65, 66))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def plan(*faults: PlannedFault) -> tuple[FaultPlan, Clock]:
    clock = Clock()
    made = FaultPlan(faults, clock)
    made.start()
    return made, clock


def test_calls_are_struck_by_their_number() -> None:
    made, _ = plan(PlannedFault("nan", at_call=2, times=2), PlannedFault("abort", at_call=3))
    assert [made.call() for _ in range(4)] == [set(), {"nan"}, {"nan", "abort"}, set()]


def test_times_strike_all_calls_for_as_long() -> None:
    made, clock = plan(PlannedFault("nan", after_s=5, for_s=2))
    assert made.call() == set()
    clock.now += 5
    assert made.call() == made.call() == {"nan"}
    clock.now += 2
    assert made.call() == set()


def test_a_hang_says_how_long() -> None:
    made, clock = plan(PlannedFault("hang", after_s=1, for_s=10), PlannedFault("hang", after_s=50))
    assert made.hang_s() == 0
    clock.now += 1
    assert made.hang_s() == 10
    clock.now += 4
    assert made.hang_s() == 6
    clock.now += 45
    assert made.hang_s() is None
    made.start()
    assert made.hang_s() == 0


def test_what_struck_an_engine_does_not_strike_its_successor() -> None:
    made, clock = plan(PlannedFault("nan", at_call=1, times=99), PlannedFault("die", after_s=1))
    clock.now += 1
    assert made.call() == {"nan", "die"}
    assert made.is_due("die")
    assert made.start() == (0.0, False)
    assert made.call() == set()
    assert not made.is_due("die")


def test_starts_are_struck_by_their_number() -> None:
    made = FaultPlan([PlannedFault("start_failure", at_start=2, times=2), PlannedFault("slow_start", at_start=3)])
    assert [made.start() for _ in range(4)] == [(0.0, False), (0.0, True), (1.0, True), (0.0, False)]


def test_a_fault_of_a_start_is_none_of_a_call() -> None:
    made, _ = plan(PlannedFault("slow_start", at_call=1))
    with pytest.raises(ValueError, match="no call"):
        made.call()


async def test_the_engine_suffers_its_plan() -> None:
    faults = FaultPlan(
        [
            PlannedFault("abort", at_call=1),
            PlannedFault("error", at_call=2),
            PlannedFault("hang", at_call=3, for_s=0.05),
            PlannedFault("die", at_call=4),
            PlannedFault("start_failure", at_start=2),
        ]
    )
    engine = FakeEngine(FakeOptions(faults=faults))
    await engine.start()
    for _ in range(2):
        with pytest.raises(JudgmentFailed):
            await engine.complete(LABEL)
    healthy = FakeEngine()
    await healthy.start()
    assert (await engine.complete(LABEL)).label_logprobs == (await healthy.complete(LABEL)).label_logprobs
    with pytest.raises(EngineDead):
        await engine.complete(LABEL)
    with pytest.raises(StartupError, match=r"engine\.faults"):
        await FakeEngine(FakeOptions(faults=faults)).start()


async def test_a_hung_engine_that_dies_lets_go() -> None:
    faults = FaultPlan([PlannedFault("hang", at_call=1)])
    engine = FakeEngine(FakeOptions(faults=faults))
    await engine.start()
    waiting = asyncio.create_task(engine.complete(LABEL))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    engine.die()
    with pytest.raises(EngineDead):
        await asyncio.wait_for(waiting, 5)

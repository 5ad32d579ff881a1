"""An engine that can be replaced: what it refuses, what it inherits, what it does not believe."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from service.engines.base import EngineInfo, EngineRequest
from service.engines.fake import FakeEngine, FakeOptions
from service.engines.supervised import SupervisedEngine
from service.errors import EngineDead, JudgmentFailed, NonFiniteScore, StartupError

LABEL = EngineRequest((5, 6, 7), "label", label_ids=(65, 66))
WRITE = EngineRequest((5, 6, 7), "generate", max_tokens=500)
CANARY = EngineRequest((0, 1), "label", label_ids=(0, 1))


class Made:
    """A maker of fakes that keeps them; ``options`` of the next one may change."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self.engines: list[FakeEngine] = []

    def __call__(self) -> FakeEngine:
        self.engines.append(FakeEngine(FakeOptions(**self.fields)))
        self.engines[-1].another = self  # type: ignore[method-assign]
        return self.engines[-1]


async def held(made: Callable[[], FakeEngine], limit_s: float = 60.0) -> SupervisedEngine:
    engine = SupervisedEngine(made, CANARY, limit_s)
    await engine.start()
    return engine


async def test_it_answers_as_the_engine_does() -> None:
    made = Made()
    engine = await held(made)
    bare = Made()()
    await bare.start()
    assert (await engine.complete(LABEL)).label_logprobs == (await bare.complete(LABEL)).label_logprobs
    assert [item async for item in engine.stream(WRITE)] == [item async for item in bare.stream(WRITE)]
    assert engine.info == bare.info
    await engine.check()


async def test_before_its_start_and_after_its_end_it_refuses() -> None:
    engine = SupervisedEngine(Made(), CANARY, 60)
    for _ in range(2):
        with pytest.raises(EngineDead):
            await engine.complete(LABEL)
        with pytest.raises(EngineDead):
            await engine.check()
        with pytest.raises(EngineDead):
            [item async for item in engine.stream(WRITE)]
        await engine.close()


async def test_taken_down_it_refuses_with_the_reason_and_when_to_come_again() -> None:
    engine = await held(Made())
    engine.take_down("It is being restarted.", 7.2)
    with pytest.raises(EngineDead, match="being restarted") as refused:
        await engine.complete(LABEL)
    assert refused.value.details["retry_after_s"] == 8
    await engine.replace()
    await engine.complete(LABEL)


async def test_a_replacement_closes_the_last_one_and_tells() -> None:
    made, told = Made(), []
    engine = await held(made)
    engine.on_replaced(lambda: told.append(len(made.engines)))
    await engine.replace()
    assert told == [2]
    with pytest.raises(EngineDead):
        await made.engines[0].check()
    await made.engines[1].check()


@pytest.mark.parametrize("other", [{"weight_version": "fake-2"}, {"max_model_len": 100}, {"adapters": {"tuned": "v1"}}])
async def test_whoever_takes_over_serves_the_same(other: dict[str, Any]) -> None:
    made, told = Made(), []
    engine = await held(made)
    engine.on_replaced(lambda: told.append(1))
    before = engine.info
    made.fields |= other
    with pytest.raises(StartupError, match="came back with"):
        await engine.replace()
    assert engine.info == before
    assert not told
    with pytest.raises(EngineDead):
        await engine.complete(LABEL)
    with pytest.raises(EngineDead):
        await made.engines[1].check()


async def test_numbers_that_are_not_finite_stop_a_start_and_are_counted() -> None:
    with pytest.raises(StartupError, match="not finite"):
        await held(Made(fault="nan"))
    sick = False
    made = Made(fault=lambda request: "nan" if sick else None)
    engine = await held(made)
    sick = True
    for count in (1, 2):
        assert all(map(math.isnan, (await engine.complete(LABEL)).label_logprobs))
        assert engine.unsound == count
    with pytest.raises(NonFiniteScore):
        await engine.ask_canary()
    sick = False
    await engine.complete(LABEL)
    assert engine.unsound == 0


async def test_an_engine_that_cannot_answer_has_not_started() -> None:
    made = Made(fault="abort")
    with pytest.raises(StartupError, match="gave no answer"):
        await held(made)
    with pytest.raises(EngineDead):
        await made.engines[0].check()


async def test_no_call_lasts_for_ever() -> None:
    engine = await held(Made(fault=lambda request: "hang" if request == LABEL else None, token_delay_s=5), limit_s=0.1)
    with pytest.raises(JudgmentFailed, match="no answer in time"):
        await engine.complete(LABEL)
    with pytest.raises(JudgmentFailed, match="stopped writing"):
        [item async for item in engine.stream(WRITE)]
    assert engine.progress.unfinished == 0


async def test_a_stream_that_is_left_ends_in_the_engine() -> None:
    made = Made(token_delay_s=0.01)
    engine = await held(made)
    async with aclosing(engine.stream(WRITE)) as pieces:  # type: ignore[type-var]
        await anext(pieces)
        assert made.engines[0].in_flight == 1
    assert made.engines[0].in_flight == 0


async def test_what_was_changed_is_what_the_successor_serves() -> None:
    engine = SupervisedEngine(FakeEngine, CANARY, 60)
    await engine.start()
    await engine.reload(None, "fake-2")
    assert engine.info.weight_version == "fake-2"
    await engine.replace()
    assert engine.info.weight_version == "fake-2"


async def test_an_engine_that_will_not_close_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(FakeEngine):
        async def close(self) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr("service.engines.supervised.CLOSE_S", 0.05)
    first = True

    def make() -> FakeEngine:
        nonlocal first
        made, first = (Stubborn() if first else FakeEngine()), False
        return made

    engine = await held(make)
    async with asyncio.timeout(5):
        await engine.replace()
    await engine.complete(LABEL)
    assert "could not be closed" in caplog.text


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    class Slow(FakeEngine):
        closed = False

        async def start(self) -> None:
            await asyncio.sleep(60)

        async def close(self) -> None:
            self.closed = True

    slow = Slow()
    task = asyncio.create_task(SupervisedEngine(lambda: slow, CANARY, 60).start())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert slow.closed


async def test_a_start_without_end_has_failed() -> None:
    class Slow(FakeEngine):
        async def start(self) -> None:
            await asyncio.sleep(60)

    engine = SupervisedEngine(Slow, CANARY, 60, start_limit_s=0.05)
    with pytest.raises(StartupError, match="did not start within"):
        await engine.start()


async def test_what_is_known_of_the_engine_stays_known_while_there_is_none() -> None:
    engine = await held(Made())
    known = engine.info
    assert isinstance(known, EngineInfo)
    await engine.close()
    assert engine.info == known
    assert engine.progress.unfinished == 0

"""Asked once: concurrent and later requests for the same thing, cancellations, failures, tenants, bounds."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.base import EngineInfo, EngineRequest, Progress, Repetition, TextDelta
from service.engines.deduplicated import Answers, DeduplicatedEngine, request_key
from service.engines.fake import FakeEngine, FakeOptions
from service.errors import EngineDead, JudgmentFailed, NotFound, ServiceError
from service.types import Completion
from tests.support.properties import bar

LABEL = EngineRequest(tuple(range(70)), "label", label_ids=(65, 66))
WRITE = EngineRequest((1, 2, 3), "generate", max_tokens=300)
INFO = EngineInfo("slow", "slow", 8192, "w1", "none", {"lora": "v1"})


@dataclass
class SlowEngine:
    """Answers, fails and is aborted when a test says so. ``running`` maps each prompt inside to its future."""

    running: dict[tuple[int, ...], asyncio.Future[Completion]] = field(default_factory=dict)
    asked: Counter[tuple[int, ...]] = field(default_factory=Counter)
    aborted: int = 0
    info: EngineInfo = INFO
    dead: bool = False

    @property
    def progress(self) -> Progress:
        return Progress(len(self.running), 0.0)

    async def start(self) -> None: ...

    async def check(self) -> None:
        if self.dead:
            raise EngineDead("dead")

    async def close(self) -> None:
        self.dead = True

    async def complete(self, request: EngineRequest) -> Completion:
        prompt = request.prompt_ids
        assert prompt not in self.running, "asked twice at a time"
        self.asked[prompt] += 1
        self.running[prompt] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[prompt]
        except asyncio.CancelledError:
            self.aborted += 1
            await asyncio.sleep(0)  # an abort takes a moment
            raise
        finally:
            del self.running[prompt]

    async def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        yield TextDelta(str(request.prompt_ids))

    def answer(self, prompt: tuple[int, ...], outcome: Completion | ServiceError) -> None:
        future = self.running[prompt]
        if isinstance(outcome, ServiceError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _wrap(engine: Any, entries: int = 100, max_bytes: int = 10**6) -> tuple[DeduplicatedEngine, Counter[str]]:
    seen: Counter[str] = Counter()
    return DeduplicatedEngine(engine, entries, max_bytes, lambda outcome: seen.update([outcome])), seen


async def _turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _done(value: float = -1.0, tokens: int = 70) -> Completion:
    return Completion("length", tokens, 32, label_logprobs=(value, -2.0))


async def test_the_same_at_the_same_time_is_asked_once() -> None:
    slow = SlowEngine()
    engine, seen = _wrap(slow)
    tasks = [asyncio.create_task(engine.complete(LABEL)) for _ in range(5)]
    await _turns()
    slow.answer(LABEL.prompt_ids, _done())
    answers = await asyncio.gather(*tasks)
    assert [done.cached_tokens for done in answers] == [32, 70, 70, 70, 70]
    assert {done.label_logprobs for done in answers} == {(-1.0, -2.0)}
    assert (await engine.complete(LABEL)).cached_tokens == 70
    assert slow.asked[LABEL.prompt_ids] == 1
    assert seen == {"miss": 1, "joined": 4, "hit": 1}


async def test_one_who_leaves_does_not_disturb_the_others_and_the_last_one_aborts() -> None:
    slow = SlowEngine()
    engine, _ = _wrap(slow)
    first, second, third = [asyncio.create_task(engine.complete(LABEL)) for _ in range(3)]
    await _turns()
    first.cancel()
    await _turns()
    assert (slow.aborted, slow.progress.unfinished) == (0, 1)
    slow.answer(LABEL.prompt_ids, _done())
    assert (await second).label_logprobs == (await third).label_logprobs == (-1.0, -2.0)
    engine.clear()
    tasks = [asyncio.create_task(engine.complete(LABEL)) for _ in range(3)]
    await _turns()
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert (slow.aborted, slow.progress.unfinished) == (1, 0)
    assert len(engine.answers) == 0


async def test_who_comes_while_the_last_one_is_aborted_asks_anew() -> None:
    slow = SlowEngine()
    engine, _ = _wrap(slow)
    left = asyncio.create_task(engine.complete(LABEL))
    await _turns()
    left.cancel()
    newcomer = asyncio.create_task(engine.complete(LABEL))
    await _turns()
    slow.answer(LABEL.prompt_ids, _done())
    assert (await newcomer).cached_tokens == 32
    assert slow.asked[LABEL.prompt_ids] == 2


async def test_one_cancelled_before_its_work_began_leaves_nothing_behind() -> None:
    slow = SlowEngine()
    engine, _ = _wrap(slow)
    left = asyncio.create_task(engine.complete(LABEL))
    await asyncio.sleep(0)  # the engine's task exists and has not run
    assert not slow.asked
    left.cancel()
    newcomer = asyncio.create_task(engine.complete(LABEL))
    async with asyncio.timeout(5):
        await _turns()
        slow.answer(LABEL.prompt_ids, _done())
        assert (await newcomer).cached_tokens == 32


async def test_a_failure_is_shared_and_forgotten() -> None:
    slow = SlowEngine()
    engine, _ = _wrap(slow)
    tasks = [asyncio.create_task(engine.complete(LABEL)) for _ in range(3)]
    await _turns()
    slow.answer(LABEL.prompt_ids, JudgmentFailed("no"))
    assert all(isinstance(o, JudgmentFailed) for o in await asyncio.gather(*tasks, return_exceptions=True))
    again = asyncio.create_task(engine.complete(LABEL))
    await _turns()
    slow.answer(LABEL.prompt_ids, _done())
    assert (await again).label_logprobs == (-1.0, -2.0)


@pytest.mark.parametrize("broken", [_done(math.nan), _done(-math.inf), Completion("stop", 70, score=math.nan)])
async def test_an_answer_without_a_number_is_not_kept(broken: Completion) -> None:
    slow = SlowEngine()
    engine, _ = _wrap(slow)
    asking = asyncio.create_task(engine.complete(LABEL))
    await _turns()
    slow.answer(LABEL.prompt_ids, broken)
    await asking
    assert len(engine.answers) == 0


async def test_what_differs_in_anything_that_matters_is_another_question() -> None:
    engine = DeduplicatedEngine(FakeEngine(FakeOptions(adapters={"lora": "v1"})), 100, 10**6)
    await engine.start()
    changes: list[dict[str, Any]] = [
        {"prompt_ids": tuple(range(69))},
        {"label_ids": (66, 65)},
        {"adapter": "lora"},
        {"cache_salt": "tenant one"},
        {"cache_salt": "tenant two"},
        {"task": "generate", "label_ids": (), "max_tokens": 5},
        {"task": "generate", "label_ids": (), "max_tokens": 6},
        {"task": "generate", "label_ids": (), "max_tokens": 6, "stop": ("x",)},
        {"task": "generate", "label_ids": (), "max_tokens": 6, "repetition": Repetition(4)},
        {"task": "scalar", "label_ids": ()},
    ]
    requests = [LABEL, *(replace(LABEL, **change) for change in changes)]
    for request in requests:
        assert (await engine.complete(request)).cached_tokens < len(request.prompt_ids)
    for request in requests:
        assert (await engine.complete(request)).cached_tokens == len(request.prompt_ids)
    keys = {request_key(request, info) for request in requests for info in (INFO, replace(INFO, weight_version="w2"))}
    assert len(keys) == 2 * len(requests)
    assert request_key(replace(LABEL, affinity=b"elsewhere"), INFO) == request_key(LABEL, INFO)


async def test_sampled_texts_are_never_shared() -> None:
    fake = FakeEngine(FakeOptions(delay_s=0.01))
    engine, seen = _wrap(fake)
    await engine.start()
    sampled = replace(WRITE, temperature=0.7)
    texts = [done.text for done in await asyncio.gather(*(engine.complete(sampled) for _ in range(12)))]
    assert (fake.calls, len(engine.answers), len(set(texts))) == (12, 0, 2)
    assert not seen
    await asyncio.gather(*(engine.complete(WRITE) for _ in range(12)))
    assert fake.calls == 13


async def test_streams_pass_through() -> None:
    engine, seen = _wrap(SlowEngine())
    for _ in range(2):
        assert [item async for item in engine.stream(WRITE)] == [TextDelta("(1, 2, 3)")]
    assert not seen


async def test_an_unknown_adapter_is_refused_by_the_engine() -> None:
    engine, _ = _wrap(FakeEngine())
    await engine.start()
    with pytest.raises(NotFound):
        await engine.complete(replace(LABEL, adapter="nobody"))


async def test_a_dead_engine_answers_nothing_from_memory() -> None:
    fake = FakeEngine()
    engine, _ = _wrap(fake)
    await engine.start()
    await engine.complete(LABEL)
    fake.die()
    with pytest.raises(EngineDead):
        await engine.complete(LABEL)


async def test_clear_forgets_answers_and_what_is_still_being_asked() -> None:
    """As after a change of weights under the same name."""
    slow = SlowEngine()
    engine, _ = _wrap(slow)
    old = asyncio.create_task(engine.complete(LABEL))
    await _turns()
    engine.clear()
    slow.answer(LABEL.prompt_ids, _done(-1.0))
    assert (await old).label_logprobs == (-1.0, -2.0)
    new = asyncio.create_task(engine.complete(LABEL))
    await _turns()
    slow.answer(LABEL.prompt_ids, _done(-5.0))
    assert (await new).label_logprobs == (-5.0, -2.0)
    assert len(engine.answers) == 1


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_the_oldest_unasked_answer_goes_first() -> None:
    answers = Answers(3, 10**6)
    for number in range(3):
        answers.put(_key(number), _done(float(number)))
    assert answers.get(_key(0)) is not None
    answers.put(_key(3), _done())
    assert [answers.get(_key(n)) is not None for n in range(4)] == [True, False, True, True]


@bar(2000)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60), st.integers(0, 6), st.integers(0, 6000))
def test_neither_bound_is_ever_exceeded(puts: list[tuple[int, int]], entries: int, max_bytes: int) -> None:
    answers, model = Answers(entries, max_bytes), dict[bytes, Completion]()
    for number, tokens in puts:
        completion = Completion("stop", 10, 0, tuple(range(1000, 1000 + tokens)), "x" * tokens)
        answers.put(_key(number), completion)
        model[_key(number)] = completion
        assert len(answers) <= entries
        assert 0 <= answers.bytes <= max_bytes
        assert (answers.bytes == 0) == (len(answers) == 0)
        assert all(answers.get(key) in (None, kept) for key, kept in model.items())
    answers.clear()
    assert (len(answers), answers.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("count", "make"),
    [
        (4000, lambda n: Completion("length", 800 + n, 32, label_logprobs=(-n / 7, -n / 3))),
        (200, lambda n: Completion("stop", 800, 32, tuple(range(1000 + n, 1800 + n)), "x" * (3000 + n))),
    ],
)
def test_the_bytes_counted_are_at_least_those_taken(count: int, make: Callable[[int], Completion]) -> None:
    answers = Answers(10**6, 10**9)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            answers.put(_key(number + 2**70), make(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= answers.bytes <= 1.6 * taken


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.integers(0, 40)),
    st.tuples(st.sampled_from(["answer", "fail"]), st.integers(0, 3)),
    st.tuples(st.just("turn"), st.just(0)),
)


@pytest.mark.timeout(900)
@bar(10_000)
@given(st.lists(STEPS, max_size=60), st.integers(0, 3))
def test_any_order_of_questions_answers_failures_and_departures(steps: list[tuple[str, int]], entries: int) -> None:
    """Every waiter gets an answer to its own question or that question's failure; `SlowEngine` asserts that nothing is
    asked twice at a time; nothing stays inside."""
    asyncio.run(_follow(steps, entries))


async def _follow(steps: list[tuple[str, int]], entries: int) -> None:
    slow = SlowEngine()
    engine, seen = _wrap(slow, entries)
    waiters: list[tuple[int, asyncio.Task[Completion]]] = []
    left: set[asyncio.Task[Completion]] = set()
    for what, number in steps:
        if what == "ask":
            waiters.append((number, asyncio.create_task(engine.complete(replace(LABEL, prompt_ids=(number, 9))))))
        elif what == "leave" and waiters:
            task = waiters[number % len(waiters)][1]
            if task.cancel():
                left.add(task)
        elif what in ("answer", "fail") and (number, 9) in slow.running and not slow.running[number, 9].done():
            slow.answer((number, 9), _done(-1.0 - number, 2) if what == "answer" else JudgmentFailed(str(number)))
        elif what == "turn":
            await _turns(2)
    async with asyncio.timeout(5):
        while not all(task.done() for _, task in waiters):
            await _turns(3)
            for prompt, future in list(slow.running.items()):
                if not future.done():
                    slow.answer(prompt, _done(-1.0 - prompt[0], 2))
    for number, task in waiters:
        assert task.cancelled() == (task in left)
        if task.cancelled():
            continue
        if (error := task.exception()) is not None:
            assert isinstance(error, JudgmentFailed)
            assert error.message == str(number)
        else:
            assert task.result().label_logprobs == (-1.0 - number, -2.0)
    await _turns()
    assert slow.progress.unfinished == 0
    assert not engine._flights
    assert sum(slow.asked.values()) <= seen["miss"]
    assert len(engine.answers) <= entries

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from service.admission import Admission, ClientGone, pumped, unless_gone
from service.errors import DeadlineExceeded, Draining, EngineDead, Overloaded


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def forever() -> None:
    await asyncio.Event().wait()


def test_room_is_counted_and_given_back() -> None:
    admission = Admission(10)
    with admission.prompts(6), admission.prompts(4):
        assert admission.held == 10
        with pytest.raises(Overloaded), admission.prompts(1):
            pass
    with pytest.raises(ValueError, match="oops"), admission.prompts(3):
        raise ValueError("oops")
    assert admission.held == 0


def test_a_request_larger_than_all_room_gets_in_alone() -> None:
    admission = Admission(10)
    with admission.prompts(1000), pytest.raises(Overloaded), admission.prompts(2):
        pass
    with admission.prompts(1), pytest.raises(Overloaded), admission.prompts(1000):
        pass


def test_retry_after_follows_the_recent_rate() -> None:
    clock = Clock()
    admission = Admission(100, clock)

    def retry_after() -> object:
        with pytest.raises(Overloaded) as refused, admission.prompts(100):
            pass
        return refused.value.details["retry_after_s"]

    with admission.prompts(90):
        assert retry_after() == 5  # nothing is known yet
        with admission.prompts(10):
            pass
        assert retry_after() == 30  # 10 prompts in 30 s: bounded
        for _ in range(59):
            with admission.prompts(10):
                pass
        assert retry_after() == 5  # 600 in 30 s, 90 inside
        clock.now += 60
        assert retry_after() == 5  # what is old no longer counts


async def in_room(admission: Admission, count: int, wait_s: float, done: asyncio.Event) -> None:
    async with admission.room(count, wait_s):
        await done.wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_wait_get_in_first_come_first_served() -> None:
    admission, order = Admission(4), list[int]()

    async def work(number: int) -> None:
        async with admission.room(2, 10):
            order.append(number)
            assert admission.held <= 4
            await asyncio.sleep(0)

    with admission.prompts(4):
        waiting = [asyncio.create_task(work(number)) for number in range(20)]
        await settled()
        assert (admission.in_line, order) == (20, [])
    await asyncio.gather(*waiting)
    assert (order, admission.in_line, admission.held) == (list(range(20)), 0, 0)


async def test_nobody_overtakes_a_large_request_in_line() -> None:
    admission, done = Admission(4), asyncio.Event()
    small = asyncio.create_task(in_room(admission, 1, 10, done))
    await settled()
    large = asyncio.create_task(in_room(admission, 100, 10, done))
    await settled()
    late = asyncio.create_task(in_room(admission, 1, 10, done))
    await settled()
    assert (admission.held, admission.in_line) == (1, 2)
    done.set()
    await asyncio.gather(small, large, late)
    assert admission.held == 0


async def test_waiting_ends_at_the_deadline_and_a_full_line_says_so_at_once() -> None:
    admission = Admission(1, max_line=2)
    with admission.prompts(1):
        waiting = [asyncio.create_task(in_room(admission, 1, 0.02, asyncio.Event())) for _ in range(2)]
        await settled()
        with pytest.raises(Overloaded, match="line"):
            async with admission.room(1, 10):
                pass
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, Overloaded)
            assert outcome.details["retry_after_s"] == 5
        assert admission.in_line == 0
    assert admission.held == 0


async def test_who_leaves_the_line_lets_the_next_one_in() -> None:
    admission, done = Admission(2), asyncio.Event()
    with admission.prompts(1):
        first, second = (asyncio.create_task(in_room(admission, count, 10, done)) for count in (2, 1))
        await settled()
        assert admission.in_line == 2
        first.cancel()
        await settled()
        assert (admission.in_line, admission.held) == (0, 2)
        done.set()
        await second
    assert admission.held == 0


async def test_room_given_to_one_who_is_cancelled_in_that_moment_is_given_back() -> None:
    admission = Admission(1)
    with admission.prompts(1):
        waiting = asyncio.create_task(in_room(admission, 1, 10, asyncio.Event()))
        await settled()
    waiting.cancel()  # its turn has come, and it has not run since
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert admission.held == 0


async def test_who_was_cancelled_is_passed_over() -> None:
    admission, done = Admission(1), asyncio.Event()
    with admission.prompts(1):
        gone, next_one = (asyncio.create_task(in_room(admission, 1, 10, done)) for _ in range(2))
        await settled()
        gone.cancel()
    await settled()
    assert (admission.held, admission.in_line) == (1, 0)
    done.set()
    await asyncio.gather(gone, next_one, return_exceptions=True)
    assert admission.held == 0


async def test_a_deadline_cancels_and_says_so() -> None:
    admission = Admission(1)
    cancelled = False
    with pytest.raises(DeadlineExceeded):
        async with admission.deadline(0.01):
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled = True
                raise
    assert cancelled
    assert admission.running == 0


async def test_a_timeout_of_the_work_itself_is_not_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with Admission(1).deadline(10):
            raise TimeoutError


async def test_stop_all_gives_everyone_the_reason() -> None:
    admission = Admission(1)

    async def request() -> None:
        async with admission.deadline(60):
            await forever()

    tasks = [asyncio.create_task(request()) for _ in range(3)]
    await asyncio.sleep(0)
    assert admission.running == 3
    admission.stop_all(EngineDead("gone"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, EngineDead) for outcome in outcomes)


async def test_draining_refuses_the_new_and_never_extends_a_deadline() -> None:
    admission = Admission(1)

    async def request(seconds: float) -> None:
        async with admission.deadline(seconds):
            await forever()

    short, long = asyncio.create_task(request(0.01)), asyncio.create_task(request(60))
    await asyncio.sleep(0)
    admission.drain(0.05)
    with pytest.raises(Draining):
        await request(1)
    assert isinstance((await asyncio.gather(short, return_exceptions=True))[0], DeadlineExceeded)
    assert isinstance((await asyncio.gather(long, return_exceptions=True))[0], Draining)


async def test_departure_cancels_the_work_and_waits_for_its_end() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    with pytest.raises(ClientGone):
        await unless_gone(asyncio.sleep(0.01), work())
    assert ended.is_set()


async def test_a_finished_answer_beats_a_departure() -> None:
    async def now() -> str:
        return "answer"

    async def gone() -> None:
        return None

    assert await unless_gone(gone(), now()) == "answer"


async def test_work_errors_pass_through() -> None:
    async def broken() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await unless_gone(forever(), broken())


async def numbers(count: int, log: list[str], fail: bool = False) -> AsyncGenerator[int, None]:
    try:
        async with asyncio.timeout(10):
            for number in range(count):
                yield number
                await asyncio.sleep(0)
            if fail:
                raise ValueError("late")
    finally:
        log.append("closed")


async def test_a_pump_may_be_read_from_several_tasks() -> None:
    log: list[str] = []
    stream = pumped(numbers(5, log))
    first = await asyncio.create_task(anext(stream))  # type: ignore[arg-type]
    assert [first] + [number async for number in stream] == list(range(5))
    assert log == ["closed"]


async def test_a_pump_is_bounded() -> None:
    made = 0

    async def eager() -> AsyncGenerator[int, None]:
        nonlocal made
        while True:
            made += 1
            yield made

    stream = pumped(eager(), size=3)
    assert await anext(stream) == 1
    await asyncio.sleep(0.01)
    assert made <= 6
    await stream.aclose()


async def test_errors_come_after_the_items_before_them() -> None:
    seen = []
    with pytest.raises(ValueError, match="late"):
        async for number in pumped(numbers(2, [], fail=True)):
            seen.append(number)
    assert seen == [0, 1]


@pytest.mark.parametrize("items", [0, 1, 3])
async def test_closing_early_closes_the_source(items: int) -> None:
    log: list[str] = []
    stream = pumped(numbers(100, log), size=1)
    for _ in range(items):
        await anext(stream)
    await stream.aclose()
    assert log == (["closed"] if items else [])


async def test_a_reader_that_is_cancelled_closes_the_source() -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncGenerator[int, None]:
        try:
            await forever()
            yield 1
        finally:
            closed.set()

    async def read() -> None:
        async for _ in pumped(silent()):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(closed.wait(), 1)

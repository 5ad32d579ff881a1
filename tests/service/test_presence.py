from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

import pytest

from service.admission import Admission, Bounds
from service.connections import Departure
from service.errors import DeadlineExceeded
from service.presence import Awaited, ClientGone, pumped, unless_gone


async def forever() -> None:
    await asyncio.Event().wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_departure_cancels_the_work_and_waits_for_its_end() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    with pytest.raises(ClientGone):
        await unless_gone(Awaited(partial(asyncio.sleep, 0.01)), work())
    assert ended.is_set()


async def test_a_finished_answer_beats_a_departure() -> None:
    async def now() -> str:
        return "answer"

    async def gone() -> None:
        return None

    assert await unless_gone(Awaited(gone), now()) == "answer"


@pytest.mark.parametrize("first", ["deadline", "departure"])
async def test_a_deadline_and_a_departure_at_once_leave_nothing_behind(first: str) -> None:
    """Both cancel the same task; whichever is told, the task itself goes on uncancelled."""
    admission, gone = Admission(Bounds(1)), asyncio.Event()

    async def wait() -> None:
        await gone.wait()

    async def work() -> None:
        try:
            await forever()
        finally:
            if first == "departure":
                await asyncio.sleep(0.02)  # the deadline passes while the work ends
            else:
                gone.set()
                await asyncio.sleep(0)

    async def leave_soon() -> None:
        await asyncio.sleep(0.005)
        gone.set()

    leaving = asyncio.create_task(leave_soon()) if first == "departure" else None
    with pytest.raises((DeadlineExceeded, ClientGone)):
        async with admission.deadline(0.01):
            await unless_gone(Awaited(wait), work())
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    if leaving is not None:
        await leaving


async def test_a_cancellation_from_outside_is_no_departure() -> None:
    task = asyncio.create_task(unless_gone(Awaited(forever), forever()))
    await settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("how", ["answers", "fails"])
async def test_work_that_will_not_be_stopped_keeps_its_own_end(how: str) -> None:
    """A commit that has begun goes on; the task is not left marked as cancelled."""

    async def commit() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            if how == "fails":
                raise ValueError("mine") from None
        return "done"

    async def request() -> str:
        try:
            return await unless_gone(Awaited(partial(asyncio.sleep, 0)), commit())
        finally:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    if how == "answers":
        assert await request() == "done"
    else:
        with pytest.raises(ValueError, match="mine"):
            await request()


async def test_work_errors_pass_through() -> None:
    async def broken() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await unless_gone(Awaited(forever), broken())


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


async def test_a_connection_tells_the_request_at_work() -> None:
    departure = Departure(asyncio.get_running_loop())
    asyncio.get_running_loop().call_later(0.01, departure.note)
    with pytest.raises(ClientGone):
        await unless_gone(departure, forever())


async def test_who_left_before_anybody_watched_has_left() -> None:
    departure = Departure(asyncio.get_running_loop())
    departure.note()
    with pytest.raises(ClientGone):
        await unless_gone(departure, forever())


async def test_who_leaves_behind_the_answer_disturbs_nobody() -> None:
    departure = Departure(asyncio.get_running_loop())
    assert await unless_gone(departure, asyncio.sleep(0, "answer")) == "answer"
    departure.note()
    await settled()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from service.admission import Admission, Bounds, ClientGone, pumped, unless_gone
from service.errors import DeadlineExceeded, Draining, EngineDead, Overloaded
from service.line import Cost


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def forever() -> None:
    await asyncio.Event().wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def in_room(admission: Admission, prompts: int, done: asyncio.Event, wait_s: float = 10, **who: object) -> None:
    async with admission.room(Cost(prompts), wait_s, **who):  # type: ignore[arg-type]
        await done.wait()


def no_line(prompts: int) -> Admission:
    return Admission(Bounds(prompts, waiting=0, patient=0))


async def test_room_is_counted_and_given_back() -> None:
    admission = no_line(10)
    async with admission.room(Cost(6, 60), 1), admission.room(Cost(4, 40), 1):
        assert (admission.held, admission.held_tokens) == (10, 100)
        with pytest.raises(Overloaded):
            await in_room(admission, 1, asyncio.Event())
    with pytest.raises(ValueError, match="oops"):
        async with admission.room(Cost(3), 1):
            raise ValueError("oops")
    assert (admission.held, admission.held_tokens) == (0, 0)


async def test_tokens_are_bounded_as_prompts_are() -> None:
    admission = Admission(Bounds(10, tokens=1000, waiting=0))
    async with admission.room(Cost(1, 900), 1):
        with pytest.raises(Overloaded):
            async with admission.room(Cost(1, 101), 1):
                pass
        async with admission.room(Cost(1, 100), 1):
            assert admission.held_tokens == 1000


async def test_a_request_larger_than_all_room_gets_in_alone() -> None:
    for large in (Cost(1000), Cost(1, 10**9)):
        admission = Admission(Bounds(10, tokens=1000, waiting=0))
        async with admission.room(large, 1):
            with pytest.raises(Overloaded):
                await in_room(admission, 2, asyncio.Event())
        async with admission.room(Cost(1, 1), 1):
            with pytest.raises(Overloaded):
                async with admission.room(large, 1):
                    pass


async def test_retry_after_follows_the_measured_pace() -> None:
    clock = Clock()
    admission = Admission(Bounds(100, waiting=0), clock)

    async def retry_after() -> object:
        with pytest.raises(Overloaded) as refused:
            await in_room(admission, 100, asyncio.Event())
        return refused.value.details["retry_after_s"]

    async def work(prompts: int, seconds: float) -> None:
        async with admission.room(Cost(prompts), 1):
            clock.now += seconds

    async with admission.room(Cost(90), 1):
        assert await retry_after() == 5  # nothing is known yet
        for _ in range(10):
            await work(10, 1)
        assert await retry_after() == 9  # 10 prompts a second, 90 inside
    clock.now += 3600  # idle: as fast as before
    async with admission.room(Cost(50), 1):
        assert await retry_after() == 3  # 190 prompts in ten seconds of work, 50 inside
        clock.now += 60
        assert await retry_after() == 30  # it has stood still for a minute: bounded


async def test_what_failed_or_left_is_no_pace() -> None:
    clock = Clock()
    admission = Admission(Bounds(10, waiting=0), clock)
    for _ in range(50):
        with pytest.raises(ValueError, match="failed"):
            async with admission.room(Cost(10), 1):
                clock.now += 1
                raise ValueError("failed")
    async with admission.room(Cost(10), 1):
        with pytest.raises(Overloaded) as refused:
            await in_room(admission, 1, asyncio.Event())
    assert refused.value.details["retry_after_s"] == 30


async def test_those_who_wait_get_in_first_come_first_served() -> None:
    admission, order = Admission(Bounds(4)), list[int]()

    async def work(number: int) -> None:
        async with admission.room(Cost(2), 10):
            order.append(number)
            assert admission.held <= 4
            await asyncio.sleep(0)

    async with admission.room(Cost(4), 1):
        waiting = [asyncio.create_task(work(number)) for number in range(20)]
        await settled()
        assert (admission.in_line, order) == (20, [])
    await asyncio.gather(*waiting)
    assert (order, admission.in_line, admission.held) == (list(range(20)), 0, 0)


async def test_nobody_overtakes_a_large_request_in_line() -> None:
    """Ordinary requests wait behind patient ones: it is one line."""
    admission, done = Admission(Bounds(4)), asyncio.Event()
    small = asyncio.create_task(in_room(admission, 1, done))
    await settled()
    large = asyncio.create_task(in_room(admission, 100, done, patient=True))
    await settled()
    late = asyncio.create_task(in_room(admission, 1, done))
    await settled()
    assert (admission.held, admission.in_line) == (1, 2)
    done.set()
    await asyncio.gather(small, large, late)
    assert admission.held == 0


async def test_a_key_that_floods_the_line_does_not_make_another_wait_for_all_of_it() -> None:
    admission, order = Admission(Bounds(2)), list[str]()

    async def work(key: str) -> None:
        async with admission.room(Cost(2), 10, key):
            order.append(key)
            await asyncio.sleep(0)

    async with admission.room(Cost(2), 1, "flood"):
        waiting = [asyncio.create_task(work("flood")) for _ in range(50)]
        await settled()
        waiting += [asyncio.create_task(work("other")) for _ in range(5)]
        await settled()
    await asyncio.gather(*waiting)
    assert order[:10].count("other") == 5
    assert order[10:] == ["flood"] * 45


async def test_a_full_line_has_places_left_for_a_key_that_has_none() -> None:
    admission, done = Admission(Bounds(1, waiting=16)), asyncio.Event()
    waiting = [asyncio.create_task(in_room(admission, 1, done, key="flood")) for _ in range(17)]
    await settled()
    with pytest.raises(Overloaded, match="line"):
        await in_room(admission, 1, done, key="flood")
    waiting += [asyncio.create_task(in_room(admission, 1, done, key="other")) for _ in range(2)]
    await settled()
    with pytest.raises(Overloaded, match="line"):
        admission.turn_away("other")
    assert admission.in_line == 18
    done.set()
    await asyncio.gather(*waiting)


async def test_turning_away_asks_for_room_or_a_place() -> None:
    admission, done = Admission(Bounds(2, waiting=1, patient=2)), asyncio.Event()
    admission.turn_away("-")
    inside = [asyncio.create_task(in_room(admission, 1, done)) for _ in range(2)]
    await settled()
    admission.turn_away("-")
    line = [asyncio.create_task(in_room(admission, 1, done))]
    await settled()
    with pytest.raises(Overloaded):
        admission.turn_away("-")
    for _ in range(2):
        admission.turn_away("-", patient=True)
        line.append(asyncio.create_task(in_room(admission, 1, done, patient=True)))
        await settled()
    with pytest.raises(Overloaded):
        admission.turn_away("-", patient=True)
    done.set()
    await asyncio.gather(*inside, *line)


async def test_who_could_not_be_served_in_time_is_told_so_at_once() -> None:
    clock = Clock()
    admission = Admission(Bounds(1), clock)
    for _ in range(20):
        async with admission.room(Cost(1), 1):
            clock.now += 1
    done = asyncio.Event()
    inside = [asyncio.create_task(in_room(admission, 1, done)) for _ in range(10)]
    await settled()
    with pytest.raises(Overloaded, match="deadline"):
        await in_room(admission, 1, done, wait_s=9)  # one a second, nine in line before it
    patient = asyncio.create_task(in_room(admission, 1, done, wait_s=9, patient=True))
    enough = asyncio.create_task(in_room(admission, 1, done, wait_s=12))
    await settled()
    assert admission.in_line == 11
    done.set()
    await asyncio.gather(*inside, patient, enough)


async def test_waiting_ends_at_the_deadline_and_a_full_line_says_so_at_once() -> None:
    admission = Admission(Bounds(1, waiting=2))
    async with admission.room(Cost(1), 1):
        waiting = [asyncio.create_task(in_room(admission, 1, asyncio.Event(), 0.02)) for _ in range(2)]
        await settled()
        with pytest.raises(Overloaded, match="line"):
            await in_room(admission, 1, asyncio.Event())
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, Overloaded)
            assert outcome.details["retry_after_s"] == 5
        assert admission.in_line == 0
    assert admission.held == 0


async def test_who_leaves_the_line_lets_the_next_one_in() -> None:
    admission, done = Admission(Bounds(2)), asyncio.Event()
    async with admission.room(Cost(1), 1):
        first, second = (asyncio.create_task(in_room(admission, count, done)) for count in (2, 1))
        await settled()
        assert admission.in_line == 2
        first.cancel()
        await settled()
        assert (admission.in_line, admission.held) == (0, 2)
        done.set()
        await second
    assert admission.held == 0


async def test_room_given_to_one_who_is_cancelled_in_that_moment_is_given_back() -> None:
    admission = Admission(Bounds(1))
    async with admission.room(Cost(1), 1):
        waiting = asyncio.create_task(in_room(admission, 1, asyncio.Event()))
        await settled()
    waiting.cancel()  # its turn has come, and it has not run since
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert admission.held == 0


async def test_who_was_cancelled_is_passed_over() -> None:
    admission, done = Admission(Bounds(1)), asyncio.Event()
    async with admission.room(Cost(1), 1):
        gone, next_one = (asyncio.create_task(in_room(admission, 1, done)) for _ in range(2))
        await settled()
        gone.cancel()
    await settled()
    assert (admission.held, admission.in_line) == (1, 0)
    done.set()
    await asyncio.gather(gone, next_one, return_exceptions=True)
    assert admission.held == 0


async def test_a_deadline_cancels_and_says_so() -> None:
    admission = Admission(Bounds(1))
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
        async with Admission(Bounds(1)).deadline(10):
            raise TimeoutError


async def test_stop_all_gives_everyone_the_reason() -> None:
    admission = Admission(Bounds(1))

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
    admission = Admission(Bounds(1))

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
    assert admission.cut_off == 1  # the deadline of the other one had nothing to do with it
    await asyncio.wait_for(admission.drained(), 1)


async def test_drained_is_known_when_the_last_one_is_out() -> None:
    admission, done = Admission(Bounds(1)), asyncio.Event()

    async def request() -> None:
        async with admission.deadline(60):
            await done.wait()

    inside = [asyncio.create_task(request()) for _ in range(3)]
    await settled()
    waiting = asyncio.create_task(admission.drained())
    admission.drain(60)
    await settled()
    assert not waiting.done()
    done.set()
    await asyncio.wait_for(waiting, 1)
    await asyncio.gather(*inside)
    assert (admission.cut_off, admission.running) == (0, 0)


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
            await unless_gone(wait(), work())
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    if leaving is not None:
        await leaving


async def test_a_cancellation_from_outside_is_no_departure() -> None:
    task = asyncio.create_task(unless_gone(forever(), forever()))
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
            return await unless_gone(asyncio.sleep(0), commit())
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

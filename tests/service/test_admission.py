from __future__ import annotations

import asyncio

import pytest

from service.admission import Admission, Bounds
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


async def test_a_part_has_its_own_time_within_the_requests() -> None:
    admission = Admission(Bounds(1))
    with pytest.raises(DeadlineExceeded, match="body"):
        async with admission.deadline(60) as running:
            await running.within(0.01, forever(), DeadlineExceeded("the body is late"))


async def test_after_a_part_the_requests_own_time_is_back() -> None:
    admission, started = Admission(Bounds(1)), asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match="answer was ready"):
        async with admission.deadline(0.05) as running:
            assert await running.within(0.01, asyncio.sleep(0, "read"), DeadlineExceeded("the body is late")) == "read"
            await forever()
    assert asyncio.get_running_loop().time() - started >= 0.05


async def test_a_part_with_more_time_than_the_request_has_only_the_requests() -> None:
    with pytest.raises(DeadlineExceeded, match="answer was ready"):
        async with Admission(Bounds(1)).deadline(0.01) as running:
            await running.within(60, forever(), DeadlineExceeded("the body is late"))


@pytest.mark.parametrize("grace", [0.0, 0.02])
async def test_draining_during_a_part_holds_after_it(grace: float) -> None:
    admission = Admission(Bounds(1))

    async def read() -> None:
        admission.drain(grace)
        await asyncio.sleep(0)

    with pytest.raises(Draining):
        async with admission.deadline(60) as running:
            await running.within(30, read(), DeadlineExceeded("the body is late"))
            await forever()

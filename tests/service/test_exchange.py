"""The door: judgings and changes never overlap, whoever waits gets in, and a stale judge is turned away."""

from __future__ import annotations

import asyncio
import random

import pytest

from service.errors import Overloaded, WeightsChanged
from service.exchange import Exchange
from service.types import JudgeVersion
from tests.support.virtual_time import VirtualTimeLoop

OLD, NEW = JudgeVersion("gram", "1", "t"), JudgeVersion("gram", "2", "t")


def opened(*versions: JudgeVersion) -> Exchange:
    door = Exchange()
    door.admit(versions or (OLD,))
    return door


async def test_a_stale_judge_is_turned_away_at_the_door() -> None:
    door = opened(NEW)
    with pytest.raises(WeightsChanged):
        async with door.use(OLD):
            pass
    assert door.waiting_for == 0


async def test_a_change_waits_for_those_inside_and_keeps_others_out() -> None:
    door, order = opened(), list[str]()

    async def judging(name: str, version: JudgeVersion) -> None:
        async with door.use(version):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    inside = asyncio.create_task(judging("first", OLD))
    await asyncio.sleep(0)

    async def change() -> None:
        async with door.alone(10):
            order.append("change")
            await asyncio.sleep(0.01)
            door.admit((NEW,))
            order.append("changed")

    changing = asyncio.create_task(change())
    await asyncio.sleep(0)
    assert door.is_changing
    late = asyncio.create_task(judging("late", NEW))
    await asyncio.gather(inside, changing, late)
    assert order == ["first in", "first out", "change", "changed", "late in", "late out"]


async def test_a_change_that_finds_no_end_of_requests_gives_up_and_opens_again() -> None:
    door = opened()
    async with door.use(OLD):
        with pytest.raises(Overloaded) as caught:
            async with door.alone(0.01):
                raise AssertionError("not alone")
        assert caught.value.details["retry_after_s"]
        async with door.use(OLD):
            assert door.waiting_for == 2


async def test_a_version_is_given_up_when_its_last_judging_ends() -> None:
    door = opened(OLD, NEW)
    async with door.use(NEW):
        door.admit((NEW,))
        await door.given_up(OLD, 0.01)  # nobody holds it
        with pytest.raises(Overloaded):
            await door.given_up(NEW, 0.01)


def test_judgings_and_changes_never_overlap() -> None:
    """Random judgings, of which some are cancelled, and changes: one version inside at a time, nobody left behind."""

    async def main() -> None:
        door, rng = opened(JudgeVersion("gram", "0", "t")), random.Random(7)
        inside: list[str] = []
        now = "0"

        async def judging() -> None:
            await asyncio.sleep(rng.uniform(0, 20))
            for _ in range(50):
                version = now
                try:
                    async with door.use(JudgeVersion("gram", version, "t")):
                        assert version == now
                        inside.append(version)
                        await asyncio.sleep(rng.uniform(0, 1))
                        assert version == now
                        inside.remove(version)
                    return
                except WeightsChanged:
                    continue
                finally:
                    if version in inside and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                        inside.remove(version)
            raise AssertionError("never got in")

        async def change(number: int) -> None:
            nonlocal now
            async with door.alone(30):
                assert not inside
                await asyncio.sleep(rng.uniform(0, 1))
                now = str(number)
                door.admit((JudgeVersion("gram", now, "t"),))

        tasks = [asyncio.create_task(judging()) for _ in range(300)]
        for number in range(1, 15):
            await asyncio.sleep(1)
            for task in rng.sample(tasks, 5):
                task.cancel()
            await change(number)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        assert door.waiting_for == 0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())

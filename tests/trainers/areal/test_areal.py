"""AReaL's own wrapper of reward functions: a pool of processes, 15 s, four tries."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator

import pytest
from areal.api.reward_api import AsyncRewardWrapper
from areal.utils.dynamic_import import import_from_string

from gram_client import FailedJudgment
from gram_client.adapters import areal as adapter
from tests.support.bad_days import UNJUDGEABLE, WEATHERS, Served, Weather

Start = Callable[[Weather], Served]
NAME = "gram_client.adapters.areal.reward_fn"


@pytest.fixture(autouse=True)
def fresh_pools() -> Iterator[None]:
    """A pool forks with the environment of its first use; each test has its own."""
    yield
    AsyncRewardWrapper._atexit_shutdown_all()


def ask(wrapper: object, question: str) -> float:
    async def run() -> float:
        return await wrapper(question, "5<|im_end|>", [1], [2], reference="five")  # type: ignore[operator]

    return asyncio.run(run())


@pytest.mark.parametrize("weather", WEATHERS)
def test_rewards_through_the_pool(service: Start, monkeypatch: pytest.MonkeyPatch, weather: Weather) -> None:
    """The function by its name, as a configuration names it; a failure ends as an exception, which AReaL turns into a
    rejected trajectory, and never as the 0 of a timeout."""
    monkeypatch.setenv("GRAM_CLIENT_URL", service(weather).url)
    if weather in ("overloaded", "killed"):
        monkeypatch.setattr(adapter, "DEADLINE_S", 1.0)  # the pool's processes are forks
    assert multiprocessing.get_start_method(allow_none=False) == "fork"
    wrapper = AsyncRewardWrapper(import_from_string(NAME), max_workers=1, max_retries=1)
    question = UNJUDGEABLE if weather == "failed item" else "What is 2 + 3?"
    if weather in ("healthy", "slow"):
        assert 0 < ask(wrapper, question) < 1
    else:
        with pytest.raises(FailedJudgment):
            ask(wrapper, question)


def test_without_the_pool(service: Start) -> None:
    """`workflow.async_reward_fn = AsyncReward(...)`, for judges that need longer than AReaL waits."""
    served = service("healthy")
    assert 0 < ask(adapter.AsyncReward(served.url), "What is 2 + 3?") < 1
    with pytest.raises(FailedJudgment):
        ask(adapter.AsyncReward(served.url), UNJUDGEABLE)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("5<|im_end|>", "5"), ("5</s></s>\n", "5"), ("a <|b|> c<|eot_id|>", "a <|b|> c"), ("x < y", "x < y")],
)
def test_special_tokens_at_the_end_are_no_part_of_the_answer(text: str, plain: str) -> None:
    assert adapter.without_endings(text) == plain

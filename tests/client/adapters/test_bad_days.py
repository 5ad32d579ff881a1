"""Every adapter that needs no trainer to import, on every kind of day: no failure becomes a reward, except where the
trainer knows nothing but numbers, and there a flag beside it says so. (Those that need their trainer, and the trainers'
own code: tests/trainers.)"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from gram_client import Client, ScoringError
from gram_client.adapters import areal, openrlhf_reward, slime, trl, verl
from gram_client.adapters.trl_judge import GramPairwiseJudge
from gram_client.best_of_n import best_of
from tests.support.bad_days import SLOW_S, UNJUDGEABLE, WEATHERS, Weather, day_of, patience_s, serving_through

pytestmark = pytest.mark.slow
GOOD = "What is 2 + 3?"


@dataclass(frozen=True)
class Told:
    """What a trainer is told of one response: a number or None, and whether it is flagged as no judgment."""

    value: float | None
    failed: bool


Adapter = Callable[[str, str, float], list[Told]]
"""Of a service, a prompt and a time: what is told of two responses to the prompt, "5" and "6"."""


def by_trl(url: str, prompt: str, timeout_s: float) -> list[Told]:
    told = trl.reward_func(url, timeout_s=timeout_s)(prompts=[prompt] * 2, completions=["5", "6"])
    return [Told(value, value is None) for value in told]


def by_trl_async(url: str, prompt: str, timeout_s: float) -> list[Told]:
    function = trl.reward_func(url, run="async", group_size=2, timeout_s=timeout_s)
    return [Told(value, value is None) for value in asyncio.run(function(prompts=[prompt] * 2, completions=["5", "6"]))]


def by_trl_judge(url: str, prompt: str, timeout_s: float) -> list[Told]:
    ranks = GramPairwiseJudge(url, timeout_s=timeout_s).judge([prompt], [("5", "6")])
    return [Told(float(rank), rank == -1) for rank in ranks]


def _of_verl(told: list[dict[str, Any]]) -> list[Told]:
    assert all(set(one) == {"score", "ok", "judged", "error"} for one in told), "verl wants the same keys always"
    assert all(isinstance(one["score"], float) for one in told)
    return [Told(one["score"], one["ok"] == 0.0) for one in told]


def by_verl(url: str, prompt: str, timeout_s: float) -> list[Told]:
    extra = {"question": prompt, "reference": "6"}
    asked = {"base_url": url, "timeout_s": timeout_s}
    return _of_verl([asyncio.run(verl.compute_score("", text, None, extra, **asked)) for text in ("5", "4")])


def by_verl_batch(url: str, prompt: str, timeout_s: float) -> list[Told]:
    extras = [{"question": prompt}] * 2
    return _of_verl(
        verl.compute_score_batch([""] * 2, ["5", "6"], [None] * 2, extras, base_url=url, timeout_s=timeout_s)
    )


def by_openrlhf(url: str, prompt: str, timeout_s: float) -> list[Told]:
    told = openrlhf_reward.reward_func([f"{prompt}5"], [prompt], ["6"], base_url=url, timeout_s=timeout_s)
    assert set(told["extra_logs"]) == set(openrlhf_reward.LOGS)
    return [Told(told["rewards"][0], told["extra_logs"]["ok"] == [0.0])]


def _slime(url: str, timeout_s: float, prompt: str, label: str | None) -> tuple[Any, list[Any]]:
    samples = [
        SimpleNamespace(prompt=prompt, response=text, label=label, metadata=None, group_index=0, remove_sample=False)
        for text in ("5", "4")
    ]
    return SimpleNamespace(gram_url=url, gram_timeout_s=timeout_s), samples


def by_slime(url: str, prompt: str, timeout_s: float) -> list[Told]:
    args, samples = _slime(url, timeout_s, prompt, "6")
    values = [asyncio.run(slime.reward(args, sample)) for sample in samples]
    assert [sample.metadata["gram"]["ok"] for sample in samples] == [float(not s.remove_sample) for s in samples]
    return [Told(value, sample.remove_sample) for value, sample in zip(values, samples, strict=True)]


def by_slime_group(url: str, prompt: str, timeout_s: float) -> list[Told]:
    args, samples = _slime(url, timeout_s, prompt, None)
    values = asyncio.run(slime.group_reward(args, samples))
    return [Told(value, sample.remove_sample) for value, sample in zip(values, samples, strict=True)]


def by_areal(url: str, prompt: str, timeout_s: float) -> list[Told]:
    function = areal.AsyncReward(url, timeout_s=timeout_s)
    try:
        return [Told(asyncio.run(function(prompt, "5<|im_end|>", [], [], reference="6")), False)]
    except ScoringError:
        return [Told(None, True)]  # AReaL rejects the trajectory


def by_best_of_n(url: str, prompt: str, timeout_s: float) -> list[Told]:
    try:
        with Client(url, timeout_s=timeout_s) as client:
            return [Told(score, False) for score in best_of(client, prompt, ["5", "6"]).scores]
    except ScoringError:
        return [Told(None, True)]


ADAPTERS: dict[str, Adapter] = {name[3:]: function for name, function in globals().items() if name.startswith("by_")}


@pytest.mark.parametrize("weather", [weather for weather in WEATHERS if weather != "slow"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_no_failure_becomes_a_reward(name: str, weather: Weather, caplog: pytest.LogCaptureFixture) -> None:
    prompt = UNJUDGEABLE if weather == "failed item" else GOOD
    with serving_through(day_of(weather)) as served, caplog.at_level(logging.WARNING, "gram_client"):
        began = time.monotonic()
        told = ADAPTERS[name](served.url, prompt, patience_s(weather))
        took = time.monotonic() - began
        alone = ADAPTERS[name](served.url, GOOD, 30.0) if weather == "failed item" else []
    assert [one.failed for one in told] == [weather != "healthy"] * len(told)
    for one in told:
        if weather == "healthy":
            assert one.value is not None
            assert 0 <= one.value <= 1
        else:
            assert one.value in (None, 0.5, -1.0), "neutral, or nothing"
    if weather != "healthy" and not any(one.value is None and name in ("areal", "best_of_n") for one in told):
        assert caplog.records, "a failure is also said in words"
    assert not [one for one in alone if one.failed], "one bad prompt spoils no other"
    assert weather in ("healthy", "failed item") or took < 2 * patience_s(weather) + 20, "a deadline of its own"


def test_a_slow_service_is_waited_for() -> None:
    """All of them at once, as each waits at least five seconds."""
    with serving_through(day_of("slow")) as served, ThreadPoolExecutor(len(ADAPTERS)) as pool:
        began = time.monotonic()
        found = {name: pool.submit(adapter, served.url, GOOD, 60.0) for name, adapter in ADAPTERS.items()}
        told = {name: future.result() for name, future in found.items()}
        assert time.monotonic() - began >= SLOW_S
    assert not [name for name, all_told in told.items() if any(one.failed for one in all_told)]


def test_a_service_that_is_full_for_a_moment_is_asked_again() -> None:
    for name, adapter in ADAPTERS.items():
        day = day_of("healthy")
        day.refusals = 2
        with serving_through(day) as served:
            told = adapter(served.url, GOOD, 30.0)
        assert not [one for one in told if one.failed], name
        assert day.refused == 2


@pytest.mark.parametrize("timeout_s", [areal.DEADLINE_S])
def test_areal_is_answered_before_it_gives_up(timeout_s: float) -> None:
    assert timeout_s + 1 < 15

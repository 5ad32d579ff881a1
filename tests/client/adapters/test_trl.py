"""TRL's reward functions without TRL: names, pickles, split groups, what is logged and what is raised."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from gram_client import Normalize
from gram_client.adapters.trl import reward_func
from gram_client.errors import NotFound, Unauthorized
from tests.support.bad_days import serving_through

PROMPTS = ["What is 2 + 3?"] * 4
ANSWERS = ["5", "6", "7", "five"]


@pytest.mark.parametrize("run", ["sync", "async"])
def test_it_pickles_with_its_name(run: str) -> None:
    made = reward_func("http://127.0.0.1:9", run=run, name="judge", normalize=Normalize("q"))
    function = pickle.loads(pickle.dumps(made))
    assert function == made
    assert function.__name__ == "judge"
    assert inspect.iscoroutinefunction(type(function).__call__) == (run == "async")


@pytest.mark.slow
def test_a_group_split_over_two_processes_is_scored_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spawned, as AsyncGRPO's and torchrun's are: the function comes by pickle, the rank by the environment."""
    spawn = multiprocessing.get_context("spawn")
    with serving_through() as served, ExitStack() as pools:
        whole = reward_func(served.url)(prompts=PROMPTS, completions=ANSWERS)
        split = reward_func(served.url, group_size=4, run_id="one", timeout_s=60)
        futures = []
        for rank in (0, 1):
            monkeypatch.setenv("RANK", str(rank))
            pool = pools.enter_context(ProcessPoolExecutor(1, spawn))
            mine = slice(2 * rank, 2 * rank + 2)
            futures.append(pool.submit(split, prompts=PROMPTS[mine], completions=ANSWERS[mine]))
        assert [reward for future in futures for reward in future.result()] == pytest.approx(whole)


def test_several_processes_must_agree_on_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="run_id"):
        reward_func(group_size=4)
    assert reward_func(group_size=4, run_id="x")


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="reference or group_size"):
        reward_func(reference="best", group_size=4)
    with pytest.raises(ValueError, match="sync"):
        reward_func(run="fast")
    with pytest.raises(ValueError, match="no column 'best'"):
        reward_func(reference="best")(prompts=["p"], completions=["c"])
    with pytest.raises(ValueError, match="num_generations"):
        reward_func(group_size=2)(prompts=["p", "q"], completions=["c", "d"])


def test_a_mistake_of_the_configuration_is_raised() -> None:
    with serving_through() as served, pytest.raises(NotFound):
        reward_func(served.url, judge="nobody")(prompts=PROMPTS, completions=ANSWERS)
    key = {"id": "a", "sha256": "0" * 64, "scopes": ["score"]}
    with serving_through(overrides={"auth": {"keys": [key]}}) as served, pytest.raises(Unauthorized):
        reward_func(served.url)(prompts=PROMPTS, completions=ANSWERS)


def test_constants_for_failures_and_for_silence(caplog: pytest.LogCaptureFixture) -> None:
    gone = reward_func("http://127.0.0.1:9", timeout_s=0.3, on_failure=-1.0, on_empty=0.0)
    with caplog.at_level(logging.WARNING, "gram_client"):
        assert gone(prompts=PROMPTS[:3], completions=["a", "", "b"]) == [-1.0, 0.0, -1.0]
    assert "3 of 3 responses have no reward" in caplog.text


def test_where_trl_offers_no_log_its_own_history_says_so() -> None:
    """OnlineDPO: it would count None as 0 in silence."""
    state = SimpleNamespace(log_history=[], global_step=3)
    gone = reward_func("http://127.0.0.1:9", timeout_s=0.3)
    assert gone(prompts=["p", "p"], completions=["a", "b"], trainer_state=state) == [None, None]
    assert state.log_history == [{"step": 3, "gram/failure_rate": 1.0}]


def test_rewards_of_a_queue_and_reasons_against_a_reference() -> None:
    logged: dict[str, Any] = {}
    with serving_through() as served:
        function = reward_func(served.url, reference="best", rationales=2, normalize=Normalize("run", min_count=2))
        values = function(
            prompts=PROMPTS,
            completions=ANSWERS,
            best=["eight"] * 4,
            log_extra=logged.__setitem__,
            log_metric=logged.__setitem__,
        )
    assert None not in values
    assert sum(value for value in values if value is not None) == pytest.approx(0.0, abs=1e-9)
    assert logged["gram/failure_rate"] == 0.0
    reasons = logged["gram_rationale"]
    assert len(reasons) == 4
    assert [bool(reason) for reason in reasons] == [True, True, False, False]

"""TRL's own trainers, on a random policy of two layers, with rewards from the service."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gram_client.adapters.trl import reward_func
from tests.support.bad_days import UNJUDGEABLE, Served, Weather, patience_s
from tests.support.tiny_policy import QUESTIONS, rows, tiny_policy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of TRL's own imports
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TRL's and accelerate's own

COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}
Start = Callable[[Weather], Served]


class Seen:
    """A reward function that remembers what it was asked and what the real one answered."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.__name__ = function, function.__name__
        self.prompts: list[Any] = []
        self.completions: list[Any] = []
        self.rewards: list[float | None] = []

    def __call__(self, **columns: Any) -> list[float | None]:
        found: list[float | None] = self.function(**columns)
        self.prompts += columns["prompts"]
        self.completions += columns["completions"]
        self.rewards += found
        return found


def grpo(folder: Path, function: Any, dataset: Any, **changes: Any) -> GRPOTrainer:
    model, tokenizer = tiny_policy()
    args = GRPOConfig(folder, num_generations=4, max_completion_length=8, **COMMON | changes)
    trainer = GRPOTrainer(model, function, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return trainer


def logged(trainer: Any, name: str) -> list[float]:
    return [float(entry[name]) for entry in trainer.state.log_history if name in entry]


def test_grpo_groups_are_scored_by_the_service(service: Start, tmp_path: Path) -> None:
    served = service("healthy")
    seen = Seen(reward_func(served.url, on_empty=0.0))
    trainer = grpo(tmp_path, seen, rows())
    assert len(seen.rewards) == 8
    for prompt in set(seen.prompts):  # mean win probabilities of a whole group have the mean of one half
        written = zip(seen.prompts, seen.rewards, seen.completions, strict=True)
        group = [reward for asked, reward, text in written if asked == prompt and text.strip()]
        assert None not in group
        assert math.fsum(r for r in group if r is not None) / len(group) == pytest.approx(0.5)
    (mean,) = logged(trainer, "rewards/gram/mean")
    assert mean == pytest.approx(sum(r for r in seen.rewards if r is not None) / 8, abs=1e-6)
    assert logged(trainer, "gram/failure_rate") == [sum(not c.strip() for c in seen.completions) / 8]
    assert served.day.paths == ["/score"]


def test_grpo_conversations_by_cohorts_awaited_with_rationales(service: Start, tmp_path: Path) -> None:
    """Everything at once that a chat run may ask: an async function, cohorts, the judge's reasons in the table."""
    served = service("healthy")
    function = reward_func(served.url, run="async", group_size=4, rationales=1, timeout_s=30)
    trainer = grpo(tmp_path, function, rows(chat=True), log_completions=True)
    (mean,) = logged(trainer, "rewards/gram/mean")
    assert 0 < mean < 1
    reasons = list(trainer._logs["extra"]["gram_rationale"])
    assert len(reasons) == 8
    assert sum("Response" in reason for reason in reasons) == 2
    assert set(served.day.paths) == {"/score", "/rationale"}


@pytest.mark.parametrize("weather", ["overloaded", "failed item", "killed"])
def test_grpo_goes_on_and_invents_no_reward(service: Start, tmp_path: Path, weather: Weather) -> None:
    served = service(weather)
    questions = (UNJUDGEABLE, QUESTIONS[0]) if weather == "failed item" else QUESTIONS[:2]
    seen = Seen(reward_func(served.url, timeout_s=patience_s(weather)))
    trainer = grpo(tmp_path, seen, rows(questions))
    failed = [UNJUDGEABLE in prompt or weather != "failed item" for prompt in seen.prompts]
    failed = [lost or not text.strip() for lost, text in zip(failed, seen.completions, strict=True)]
    assert [reward is None for reward in seen.rewards] == failed
    assert logged(trainer, "gram/failure_rate") == [sum(failed) / 8]
    assert trainer.state.global_step == 1
    if all(failed):
        assert [entry["rewards/gram/mean"] for entry in trainer.state.log_history if "loss" in entry] == [None]
        assert logged(trainer, "loss") == [0.0]


def test_rloo_by_references(service: Start, tmp_path: Path) -> None:
    served = service("healthy")
    model, tokenizer = tiny_policy()
    function = reward_func(served.url, reference="best", on_empty=0.0)
    args = RLOOConfig(tmp_path, num_generations=4, max_completion_length=8, beta=0.0, **COMMON)
    dataset = rows(best=["5", "Blue", "yes", "12"])
    trainer = RLOOTrainer(model, function, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    assert 0 < logged(trainer, "rewards/gram/mean")[0] < 1


@pytest.mark.parametrize("weather", ["healthy", "overloaded"])
def test_online_dpo_compares_the_two_of_each_prompt(service: Start, tmp_path: Path, weather: Weather) -> None:
    """Its batch is all prompts twice. It counts None as 0 and cannot leave a pair out, so its log must say so."""
    served = service(weather)
    model, tokenizer = tiny_policy()
    reference, _ = tiny_policy()
    seen = Seen(reward_func(served.url, timeout_s=patience_s(weather)))
    args = OnlineDPOConfig(tmp_path, max_new_tokens=8, **COMMON | {"per_device_train_batch_size": 2})
    trainer = OnlineDPOTrainer(
        model, reference, reward_funcs=seen, args=args, train_dataset=rows(), processing_class=tokenizer
    )
    trainer.train()
    assert seen.prompts[:2] == seen.prompts[2:]
    if weather == "healthy":
        first, second = seen.rewards[:2], seen.rewards[2:]
        for a, b in zip(first, second, strict=True):
            assert (a is None and b is None) or (a is not None and b is not None and a + b == pytest.approx(1.0))
        assert any(reward is not None for reward in seen.rewards)
    else:
        assert seen.rewards == [None] * 4
        assert logged(trainer, "gram/failure_rate") == [1.0]
    assert torch.isfinite(torch.tensor(logged(trainer, "loss")[0]))

"""Each of TRL's trainers on each kind of day, and a service that dies between two steps: `make test-trainers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gram_client.adapters.trl import reward_func
from tests.support.bad_days import UNJUDGEABLE, WEATHERS, Day, Served, Weather, patience_s, serving_through
from tests.support.tiny_policy import QUESTIONS, rows, tiny_policy
from tests.trainers.trl.test_trl import (
    COMMON,
    GRPOConfig,
    GRPOTrainer,
    OnlineDPOConfig,
    OnlineDPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    logged,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def train(kind: str, folder: Path, served: Served, weather: Weather, **changes: Any) -> Any:
    """A trainer that has trained, all by groups; GRPO awaits the function and has chats."""
    model, tokenizer = tiny_policy()
    questions = (UNJUDGEABLE, QUESTIONS[0]) if weather == "failed item" else QUESTIONS
    function = reward_func(served.url, run="async" if kind == "GRPO" else "sync", timeout_s=patience_s(weather))
    common: dict[str, Any] = {"train_dataset": rows(questions, chat=kind == "GRPO"), "processing_class": tokenizer}
    trainer: Any
    if kind == "GRPO":
        args = GRPOConfig(folder, num_generations=4, max_completion_length=8, **COMMON | changes)
        trainer = GRPOTrainer(model, function, args=args, **common)
    elif kind == "RLOO":
        args = RLOOConfig(folder, num_generations=4, max_completion_length=8, beta=0.0, **COMMON | changes)
        trainer = RLOOTrainer(model, function, args=args, **common)
    else:
        args = OnlineDPOConfig(folder, max_new_tokens=8, **COMMON | changes | {"per_device_train_batch_size": 2})
        reference, _ = tiny_policy()
        trainer = OnlineDPOTrainer(model, reference, reward_funcs=function, args=args, **common)
    trainer.train()
    return trainer


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("kind", ["GRPO", "RLOO", "OnlineDPO"])
def test_training_goes_on_and_its_log_says_what_failed(
    service: Callable[[Weather], Served], tmp_path: Path, kind: str, weather: Weather
) -> None:
    trainer = train(kind, tmp_path, service(weather), weather)
    assert trainer.state.global_step == 1
    rates = logged(trainer, "gram/failure_rate") or [0.0]
    if weather in ("healthy", "slow"):
        assert rates[0] < 0.5, "at most responses without any text"
    elif weather == "failed item":
        assert rates[0] >= 0.5
    else:
        assert rates == [1.0]
        assert logged(trainer, "grad_norm")[0] == 0.0 or kind == "OnlineDPO", "no reward, no step"


def test_a_service_that_dies_between_two_steps(tmp_path: Path) -> None:
    with serving_through(Day(lives=1)) as served:
        model, tokenizer = tiny_policy()
        args = GRPOConfig(tmp_path, num_generations=4, max_completion_length=8, **COMMON | {"max_steps": 3})
        function = reward_func(served.url, timeout_s=1.0, on_empty=0.0)
        trainer = GRPOTrainer(model, function, args=args, train_dataset=rows(), processing_class=tokenizer)
        trainer.train()
    first, *rest = logged(trainer, "gram/failure_rate")
    assert first < 0.5
    assert rest == [1.0, 1.0]
    assert logged(trainer, "grad_norm")[1:] == [0.0, 0.0]

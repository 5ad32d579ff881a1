"""verl's own loaders, reward managers and reward-model client, without a Ray cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.reward import load_reward_manager
from verl.workers.reward_manager.batch import BatchRewardManager

from gram_client.adapters.verl import compute_score_batch
from tests.support.bad_days import UNJUDGEABLE, WEATHERS, Served, Weather, patience_s
from tests.support.tiny_tokenizer import tiny_tokenizer

Start = Callable[[Weather], Served]
KEYS = {"score", "ok", "judged", "error"}
QUESTION = "What is 2 + 3?"


def config(kwargs: dict[str, Any], manager: dict[str, Any] | None = None, path: str | None = None) -> DictConfig:
    """The parts of verl's configuration that its reward code reads."""
    found = OmegaConf.create(
        {
            "reward": {
                "custom_reward_function": {"path": path, "name": "compute_score", "reward_kwargs": kwargs},
                "reward_manager": manager or {"source": "register", "name": "naive", "module": None},
                "reward_model": {"enable": False},
                "sandbox_fusion": None,
            },
            "actor_rollout_ref": {"rollout": {"n": 4, "val_kwargs": {"n": 1}}, "model": {"tokenizer_path": None}},
        }
    )
    assert isinstance(found, DictConfig)
    return found


OURS = {
    "source": "importlib",
    "name": "GramRewardManager",
    "module": {"path": "pkg://gram_client.adapters.verl_manager"},
}


def data(responses: list[str], question: str = QUESTION, uid: str = "group", **extra: Any) -> DataProto:
    """A batch as verl hands it to its reward workers: padded ids and, for each row, what the data set has."""
    tokenizer = tiny_tokenizer()
    ids = [[*tokenizer.encode(text), tokenizer.convert_tokens_to_ids("<|im_end|>")] for text in responses]
    width, prompt = max(map(len, ids)), tokenizer.encode(question)
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    asked = torch.tensor([prompt] * len(ids))
    count = len(responses)

    def column(values: list[Any]) -> np.ndarray:
        made = np.empty(count, dtype=object)
        made[:] = values
        return made

    return DataProto.from_dict(
        tensors={
            "prompts": asked,
            "responses": padded,
            "attention_mask": torch.cat([torch.ones_like(asked), seen], dim=1),
        },
        non_tensors={
            "data_source": column(["test"] * count),
            "reward_model": column([{"ground_truth": "5"} for _ in range(count)]),
            "extra_info": column([{"question": question, **extra} for _ in range(count)]),
            "raw_prompt": column([[{"role": "user", "content": question}] for _ in range(count)]),
            "uid": column([uid] * count),
            "priority": np.arange(count),
        },
    )


def judged(settings: DictConfig, batch: DataProto) -> list[dict[str, Any]]:
    """As verl's reward worker judges a batch: one call a row, all at once."""

    async def run() -> list[dict[str, Any]]:
        manager: RewardManagerBase = load_reward_manager(settings, tiny_tokenizer())
        return await asyncio.gather(*(manager.run_single(batch[i : i + 1]) for i in range(len(batch))))

    return asyncio.run(run())


def check(results: list[dict[str, Any]], weather: Weather) -> None:
    for result in results:
        extra = result["reward_extra_info"]
        assert set(extra) == KEYS, "verl takes the keys from the first sample and indexes all others by them"
        assert isinstance(result["reward_score"], float)
        assert extra["ok"] == float(weather in ("healthy", "slow"))
        assert extra["ok"] == 1.0 or (result["reward_score"] == 0.5 and extra["error"])
    scores = torch.tensor([result["reward_score"] for result in results])
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("weather", WEATHERS)
def test_a_custom_function_by_the_naive_manager(service: Start, weather: Weather) -> None:
    served = service(weather)
    kwargs = {"base_url": served.url, "timeout_s": patience_s(weather)}
    settings = config(kwargs, path="pkg://gram_client.adapters.verl")
    question = UNJUDGEABLE if weather == "failed item" else QUESTION
    check(judged(settings, data(["5", "6", "7"], question, reference="five")), weather)


@pytest.mark.parametrize("weather", WEATHERS)
def test_our_manager_judges_a_group_whose_members_come_one_by_one(service: Start, weather: Weather) -> None:
    served = service(weather)
    kwargs = {"base_url": served.url, "timeout_s": patience_s(weather)}
    settings = config(kwargs, OURS)
    question = UNJUDGEABLE if weather == "failed item" else QUESTION
    results = judged(settings, data(["5", "6", "7", "5"], question, uid=f"cohort-{weather}"))
    check(results, weather)
    if weather == "healthy":
        scores = [result["reward_score"] for result in results]
        assert sum(scores) == pytest.approx(2.0), "mean win probabilities of a whole group have the mean of one half"
        assert scores[0] == scores[3], "equal responses, each with its own place"


def test_scores_become_the_tensor_that_verl_trains_on(service: Start) -> None:
    """assemble_rm_scores is what verl's RewardLoopManager calls: the reward stands at the last token."""
    batch = data(["5", "six"], reference="five")
    settings = config({"base_url": service("healthy").url}, OURS)
    results = judged(settings, batch)
    scores = [result["reward_score"] for result in results]
    tensor = RewardManagerBase.assemble_rm_scores(batch, scores)
    assert tensor.sum(dim=1).tolist() == pytest.approx(scores)


def test_validation_without_a_reference_fails_at_once_and_waits_for_nobody(service: Start) -> None:
    settings = config({"base_url": service("healthy").url, "timeout_s": 30, "judge": "gram"}, OURS)
    (result,) = judged(settings, data(["5"], split="test"))
    assert result["reward_extra_info"]["ok"] == 0.0
    assert result["reward_extra_info"]["error"]


@pytest.mark.parametrize("weather", ["healthy", "overloaded", "failed item"])
def test_the_batch_manager_of_older_trainers(service: Start, weather: Weather) -> None:
    served = service(weather)
    batch = data(["5", "6", "7"], UNJUDGEABLE if weather == "failed item" else QUESTION)
    manager = BatchRewardManager(
        tiny_tokenizer(), 0, compute_score_batch, base_url=served.url, timeout_s=patience_s(weather)
    )
    found = manager(batch, return_dict=True)
    assert set(found["reward_extra_info"]) == KEYS
    assert found["reward_extra_info"]["ok"] == [float(weather == "healthy")] * 3
    assert torch.isfinite(found["reward_tensor"]).all()


def test_a_prompt_that_is_missing_is_said(service: Start) -> None:
    batch = data(["5"])
    del batch.non_tensor_batch["extra_info"][0]["question"]
    settings = config({"base_url": service("healthy").url}, path="pkg://gram_client.adapters.verl")
    (result,) = judged(settings, batch)
    assert result["reward_extra_info"]["error"] == "no_prompt"


def test_verls_own_reward_model_client_reads_classify(service: Start, tmp_path: Path) -> None:
    """Without any of our Python: the service as the reward model that verl asks by HTTP."""
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = config({})
    settings.reward.reward_model = {"enable": True, "model_path": str(tmp_path), "rollout": {"name": "vllm"}}
    settings.actor_rollout_ref.model.tokenizer_path = str(tmp_path)
    address = service("healthy").url.removeprefix("http://")

    async def run() -> list[dict[str, Any]]:
        worker = RewardLoopWorker(settings, reward_router_address=address)
        return await worker.compute_score_batch(data(["5", "6"]))

    results = asyncio.run(run())
    assert [result["reward_score"] for result in results] == [0.5, 0.5]  # no reference is known of this prompt: neutral

"""From pairs to answers: what the stages write, the service on vLLM serves - with the numbers training itself saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from benchmarks.servers import running_service
from tests.support.tiny_training import (
    SHAPE,
    TOKENIZER,
    finetune_recipe,
    language_model,
    pairs,
    pretrain_recipe,
    reward_recipe,
    tables,
)
from training.data.judgments import WrittenJudgment, write_judgments
from training.stages.finetune import finetune
from training.stages.grpo import grpo
from training.stages.pretrain import pretrain
from training.stages.reward import train_reward
from training.stages.writing import learn_to_write
from training.writing_configs import DistillRecipe, GrpoRecipe

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(500)]

_SHAPE = SHAPE | {"head_dim": 32}  # the smallest vLLM's CPU attention takes


def test_the_service_scores_as_training_did(tmp_path: Path) -> None:
    """Float32 on both sides, within 1e-3; the service's own start-up self-test passes before it answers at all."""
    first = pretrain_recipe(tmp_path, model={"scratch": _SHAPE, "tokenizer": TOKENIZER})
    pretrain(first)
    second = finetune_recipe(
        tmp_path,
        model={"path": first.output.directory},
        schedule={"steps": 60, "kind": "linear", "warmup": 0.1},
        optimizer={"name": "muon", "learning_rate": 5e-3, "matrix_learning_rate": 0.02},
        batch={"rows": 32, "rows_per_device": 32},
        objective={"label_mass_weight": 0.3},
    )
    finetune(second)
    readings = (second.run_directory / "readings.jsonl").read_text("utf-8").splitlines()
    environment = _environment(second.output.directory)
    with running_service(environment) as server:
        reply = httpx.post(f"{server.url}/compare", json={"items": _asked()}, timeout=300).json()["results"]
        judges = httpx.get(f"{server.url}/models", timeout=60).text
    assert '"gram"' in judges and '"finetune"' in judges, "the manifest's judge and version are what is served"
    for line, served in zip(readings, reply, strict=True):
        said = json.loads(line)
        for key in ("p_ab", "p_ba", "p_first"):
            assert served[key] == pytest.approx(said[key], abs=1e-3), said["id"]


def test_the_discriminative_baseline_is_served_as_a_scalar_judge(tmp_path: Path) -> None:
    """The rewards that the stage's own evaluation wrote down."""
    start = language_model(tmp_path / "lm", head_dim=32)
    recipe = reward_recipe(tmp_path, model={"path": str(start)}, schedule={"steps": 20}, batch={"rows": 16})
    train_reward(recipe)
    readings = [json.loads(line) for line in (recipe.run_directory / "readings.jsonl").read_text("utf-8").splitlines()]
    with running_service(_environment(recipe.output.directory)) as server:
        reply = httpx.post(f"{server.url}/compare", json={"items": _asked()}, timeout=300).json()["results"]
        judges = httpx.get(f"{server.url}/models", timeout=60).json()["judges"]
    assert [(judge["family"], judge["weight_version"]) for judge in judges] == [("scalar", "reward")]
    assert len(reply) == len(readings) == 12
    for said, served in zip(readings, reply, strict=True):
        assert served["p_first"] == pytest.approx(said["p_first"], abs=1e-3), said["id"]
        assert served["margin"] == pytest.approx(said["reward_a"] - said["reward_b"], abs=1e-2), said["id"]


def test_an_rm_r1_judge_writes_what_it_wrote_in_training(tmp_path: Path) -> None:
    """Distilled, moved by one rollout of GRPO, exported: vLLM writes the same greedy texts, and reads the letters."""
    rows = [WrittenJudgment(p, "ab", "", "rm_r1") for p in pairs(96)]
    taught = [replace(row, text=f"<answer>[[{row.letter}]]</answer>") for row in rows]
    write_judgments(tmp_path / "traces.jsonl", taught)
    common = {"evaluation": {"every": 0, "limit": 3}, "model": {"scratch": _SHAPE, "tokenizer": TOKENIZER}}
    data = {"train": (str(tmp_path / "traces.jsonl"),), "swap": "none"}
    steps = {"steps": 60, "kind": "constant", "warmup": 0.1}
    batch = {"rows": 16, "rows_per_device": 16, "shared_prefix": True}
    muon = {"name": "muon", "learning_rate": 5e-3, "matrix_learning_rate": 0.02}
    first = tables(tmp_path, "distill", data=data, schedule=steps, batch=batch, optimizer=muon, **common)
    distilled = DistillRecipe.model_validate({**first, "template": "reasoner"})
    learn_to_write(distilled)
    changes = {
        "model": {"path": distilled.output.directory},
        "data": {"swap": "both", "max_tokens": 400},
        "batch": {"rows": 8, "rows_per_device": 8},
        "optimizer": {"learning_rate": 1e-4},
        "evaluation": {"every": 0, "limit": 3},
        "output": {"save_every": 1, "judge": "rm-r1"},
    }
    second = tables(tmp_path, "grpo", schedule={"steps": 1}, **changes)
    rollout = {"prompts": 2, "group": 4, "max_tokens": 12}
    recipe = GrpoRecipe.model_validate({**second, "template": "reasoner", "rollout": rollout})
    grpo(recipe)
    written = [json.loads(line) for line in (recipe.run_directory / "written.jsonl").read_text("utf-8").splitlines()]
    assert {row["verdict"] for row in written} <= {"A", "B"}, "60 steps teach the form"
    with running_service(_environment(recipe.output.directory)) as server:
        judges = httpx.get(f"{server.url}/models", timeout=60).json()["judges"]
        replies = [httpx.post(f"{server.url}/rationale", json=asked, timeout=300).json() for asked in _asked()[:3]]
    assert [(judge["name"], judge["family"]) for judge in judges] == [("rm-r1", "rm_r1")]
    served = {(i, r["order"]): r for i, reply in enumerate(replies) for r in reply["rationales"]}
    for number, row in enumerate(written):
        one = served[number // 2, "ab" if number % 2 == 0 else "ba"]
        assert one["text"] == row["text"]
        assert one["probability"] is not None


def _environment(model: str) -> dict[str, str]:
    settings = {"TYPE": "vllm", "MODEL": model, "DTYPE": "float32", "ENFORCE_EAGER": "true"}
    return {f"GRAM_ENGINE__{name}": value for name, value in settings.items()} | {"GRAM_STORE__TYPE": "memory"}


def _asked() -> list[dict[str, str]]:
    return [
        {"prompt": p.prompt.messages[0].content, "response_a": p.response_a, "response_b": p.response_b}
        for p in pairs(12, seed=2)
    ]

"""The discriminative baseline: what it minimises, what it leaves for the service, and GRM's regulariser beside it."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.judging import scalar
from service.manifest import Manifest
from service.tokenization import ChatTokenizer
from service.types import Response, Verdict
from tests.support.tiny_training import language_model, pairs, reward_recipe
from tests.training.stages.test_finetune import Gradients, Interrupt
from training.data.pairs import DataError, Pair, read_pairs, write_pairs
from training.evaluation.judges.checkpoint import opened
from training.objectives.text_regularizer import text_losses
from training.stages.reward import train_reward


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The ``model`` table: a language model on the disk."""
    return {"path": str(language_model(tmp_path_factory.mktemp("backbone")))}


@pytest.mark.slow
def test_it_learns_and_is_served_as_it_was_measured(tmp_path: Path, backbone: dict[str, str]) -> None:
    recipe = reward_recipe(
        tmp_path, model=backbone, schedule={"steps": 20}, batch={"rows": 16}, objective={"smoothing": 0.05}
    )
    trainer = train_reward(recipe)
    final = json.loads((recipe.run_directory / "final.json").read_text("utf-8"))
    assert final["accuracy"] == 1.0
    manifest = Manifest.load(recipe.output.directory)
    assert manifest is not None
    assert [(j.family, j.labels) for j in manifest.judges] == [("scalar", ())]
    assert manifest.judges[0].self_test is not None
    assert trainer.state.log_history[0]["reward"] == pytest.approx(trainer.state.log_history[0]["loss"], abs=1e-5)
    _check_rewards(recipe.output.directory, final["reward_gap"])
    verdicts = asyncio.run(_judged(recipe.output.directory))
    p_right = [v.p_first if pair.label == "a" else 1 - v.p_first for v, pair in verdicts]
    assert sum(math.log(p) for p in p_right) / len(p_right) == pytest.approx(-final["loss"], abs=1e-4)


async def _judged(directory: str) -> list[tuple[Verdict, Pair]]:
    """By the service's own start-up, self-test included, and its pipeline."""
    held_out = pairs(12, seed=2)
    async with opened(directory) as judge:
        verdicts = await judge.judge(held_out)
    return [(v, pair) for v, pair in zip(verdicts, held_out, strict=True) if isinstance(v, Verdict)]


def _check_rewards(directory: str, expected_gap: float) -> None:
    """Mean reward gap by plain transformers and the family's own prompt."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(directory))

    def reward(pair: Pair, text: str) -> float:
        ids = chat.encode(scalar.FAMILY.render_one(pair.prompt, Response(text)))
        with torch.inference_mode():
            return float(model(torch.tensor([ids])).logits[0, 0])

    gaps = [reward(pair, pair.chosen) - reward(pair, pair.rejected) for pair in pairs(12, seed=2)]
    assert sum(gaps) / len(gaps) == pytest.approx(expected_gap, abs=1e-4)


@pytest.mark.parametrize("kind", ["sft", "dpo_noref"])
def test_the_text_head_is_the_language_models_and_is_not_saved(
    tmp_path: Path, backbone: dict[str, str], kind: Any
) -> None:
    objective = {"text_regularizer": kind, "text_weight": 0.5, "text_beta": 0.1}
    recipe = reward_recipe(tmp_path, model=backbone, schedule={"steps": 1}, objective=objective)
    trainer = train_reward(recipe)
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.5 * first["reward"] + 0.5 * first["text"], abs=1e-5)
    # An untrained model gives every token about 1/2048, a response of k tokens -7.6 k: that bounds the term.
    low, high = (text_losses(kind, torch.tensor(-7.6 * c), torch.tensor(-7.6 * r), beta=0.1).item()
                 for c, r in (((2, 2), (7, 7)) if kind == "sft" else ((2, 7), (7, 2))))  # fmt: skip
    assert low * 0.9 <= first["text"] <= high * 1.1
    saved = AutoModelForSequenceClassification.from_pretrained(recipe.output.directory)
    assert not [name for name in saved.state_dict() if "text_head" in name]


def test_the_reference_is_the_model_training_begins_from(tmp_path: Path, backbone: dict[str, str]) -> None:
    """Until a step has been taken the two agree on every response, so the term is exactly log 2; afterwards it falls,
    also for a run that was interrupted, whose reference is still the beginning."""
    objective = {"text_regularizer": "dpo", "text_weight": 0.5, "text_beta": 0.1}
    changes: dict[str, Any] = {"model": backbone, "objective": objective, "output": {"save_every": 2}}
    whole = reward_recipe(tmp_path, version="whole", schedule={"steps": 4}, **changes)
    terms = [row["text"] for row in train_reward(whole).state.log_history if "text" in row]
    assert terms[0] == pytest.approx(math.log(2), abs=1e-5)
    assert terms[-1] < terms[0] - 1e-3
    halted = reward_recipe(tmp_path, version="halted", schedule={"steps": 4}, **changes)
    with pytest.raises(KeyboardInterrupt):
        train_reward(halted, callbacks=[Interrupt(3)])
    again = [row["text"] for row in train_reward(halted, resume=True).state.log_history if "text" in row]
    assert again == pytest.approx(terms, abs=1e-6)


def test_accumulation_gives_the_gradient_of_one_batch(tmp_path: Path, backbone: dict[str, str]) -> None:
    found = []
    for rows_per_device in (8, 2):
        gradients = Gradients()
        recipe = reward_recipe(
            tmp_path, model=backbone, schedule={"steps": 1}, batch={"rows_per_device": rows_per_device},
            optimizer={"clip_norm": 1e9}, objective={"text_regularizer": "sft", "centering": 0.01, "margin": True},
        )  # fmt: skip
        train_reward(recipe, callbacks=[gradients])
        found.append(gradients.found)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5)


def test_a_frozen_backbone_trains_the_head_only(tmp_path: Path, backbone: dict[str, str]) -> None:
    gradients = Gradients()
    recipe = reward_recipe(tmp_path, model=backbone, schedule={"steps": 1}, objective={"freeze_backbone": True})
    train_reward(recipe, callbacks=[gradients])
    assert set(gradients.found) == {"score.weight"}


def test_margins_that_are_missing_are_named(tmp_path: Path, backbone: dict[str, str]) -> None:
    recipe = reward_recipe(tmp_path, model=backbone, objective={"margin": True})
    rows = list(read_pairs(Path(recipe.data.train[0])))
    rows[1] = Pair("no-margin", rows[1].prompt, "x", "y", "a")
    write_pairs(Path(recipe.data.train[0]), rows)
    with pytest.raises(DataError, match="Pair no-margin, field margin: missing"):
        train_reward(recipe)


def test_a_model_from_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give model\.path"):
        train_reward(reward_recipe(tmp_path))

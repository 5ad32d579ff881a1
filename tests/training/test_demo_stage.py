"""The stage from end to end at a size of seconds: it writes what the service loads, and a stopped run goes on."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from service.manifest import Manifest
from training.demo_configs import Recipe
from training.evaluation.curves import draw_curves
from training.evaluation.demo_judge import DemoJudge
from training.stages import demo as stage

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "demo.toml"
TINY: dict[str, dict[str, Any]] = {
    "tokenizer": {"pairs_per_task": 20},
    "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "head_dim": 16, "intermediate_size": 32},
    "data": {"label_pairs": 4, "rationale_pairs": 4},
    "optimizer": {"steps": 4, "warmup_steps": 1},
    "evaluation": {"every": 2, "label_pairs": 6, "rationale_pairs": 2, "final_label_pairs": 6,
                   "final_rationale_pairs": 2},
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    values = tomllib.loads(RECIPE.read_text("utf-8"))
    for section, changes in TINY.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(Qwen3ForCausalLM.from_pretrained(directory).state_dict())


@pytest.mark.slow
def test_checkpoint_loads_repeats_and_survives_a_stop(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.finetune(recipe, Path("one"))
    manifest = Manifest.load("one")
    assert manifest is not None
    assert [judge.family for judge in manifest.judges] == ["gram", "gram_r2"]
    draw_curves(Path("runs") / recipe.version / "history.jsonl", Path("curves.png"))
    assert Path("curves.png").stat().st_size > 0

    train_step = stage.Run.train_step

    def stop_at_three(run: stage.Run, step: int) -> str:
        if step == 3:
            raise KeyboardInterrupt
        return train_step(run, step)

    monkeypatch.setattr(stage.Run, "train_step", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        stage.finetune(recipe, Path("two"))
    monkeypatch.setattr(stage.Run, "train_step", train_step)
    stage.finetune(recipe, Path("two"), resume=True)
    first, second = _weights(Path("one")), _weights(Path("two"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_delimiters_of_both_families_start_alike(recipe: Recipe) -> None:
    tokenizer = stage.build_tokenizer(2048, 20, recipe.seed, 2048)
    model = stage.build_model(recipe, tokenizer)
    judge = DemoJudge(model, tokenizer)
    stage.share_delimiters(model, judge)
    weight = model.model.embed_tokens.weight
    assert torch.equal(weight[list(judge.label.delimiter_ids)], weight[list(judge.rationale.delimiter_ids)])


def test_saved_tokenizer_is_the_trained_one(recipe: Recipe) -> None:
    tokenizer = stage.build_tokenizer(2048, 20, recipe.seed, 2048)
    stage.save_checkpoint(recipe, stage.build_model(recipe, tokenizer), tokenizer, Path("saved"))
    loaded = AutoTokenizer.from_pretrained("saved")
    text = "What is 2 + 3?\n<think> café [The End of Assistant B's Response]"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.chat_template == tokenizer.chat_template


def test_unknown_task_is_named(recipe: Recipe) -> None:
    wrong = recipe.model_copy(update={"data": recipe.data.model_copy(update={"task_weights": {"chess": 1.0}})})
    with pytest.raises(ValueError, match="chess"):
        stage.check_tasks(wrong)

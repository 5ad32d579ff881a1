"""Two processes that hold half of every weight each must train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from service.manifest import JudgeEntry, Manifest
from tests.support.tiny_training import language_model, tables
from training.configs import AdaptRecipe, FinetuneRecipe, RewardRecipe
from training.recipe_files import load_recipe
from training.stages.adaptation import adapt_to_sizes
from training.stages.finetune import finetune
from training.stages.reward import train_reward

STEPS = 20
ACCELERATE = Path(__file__).parents[3] / "training" / "recipes" / "accelerate"


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_sharded_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """FSDP2 over gloo, started by torchrun with the shipped configuration's own switches, 20 steps, accumulation 2."""
    one, two = (
        _recipe(tmp_path, version, {"rows": 16, "rows_per_device": rows_per_device})
        for version, rows_per_device in (("one", 8), ("two", 4))
    )
    recipe = load_recipe(one)
    assert isinstance(recipe, FinetuneRecipe)
    finetune(recipe)
    _launch(two)
    expected, found = (_losses(tmp_path / "runs" / version) for version in ("one", "two"))
    assert len(expected) == len(found) == STEPS
    assert found == pytest.approx(expected, abs=1e-4)
    whole, sharded = (load_file(tmp_path / version / "model.safetensors") for version in ("one", "two"))
    for name, weight in whole.items():
        torch.testing.assert_close(sharded[name], weight, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_sharded_processes_train_the_reward_model_of_one(tmp_path: Path) -> None:
    """With GRM's regulariser, whose extra head and reference log-probabilities have to be shared out as well."""
    start = language_model(tmp_path / "lm")
    changes = {
        "model": {"path": str(start)},
        "objective": {"text_regularizer": "dpo", "text_weight": 0.5, "smoothing": 0.05},
        "schedule": {"steps": 8, "kind": "cosine", "warmup": 0.1},
    }
    one, two = (
        _recipe(tmp_path, version, {"rows": 16, "rows_per_device": at_once}, "reward", **changes)
        for version, at_once in (("one", 8), ("two", 4))
    )
    recipe = load_recipe(one)
    assert isinstance(recipe, RewardRecipe)
    train_reward(recipe)
    _launch(two)
    expected, found = (_losses(tmp_path / "runs" / version) for version in ("one", "two"))
    assert len(expected) == len(found) == 8
    assert found == pytest.approx(expected, abs=1e-4)
    whole, sharded = (load_file(tmp_path / version / "model.safetensors") for version in ("one", "two"))
    assert whole.keys() == sharded.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(sharded[name], weight, rtol=1e-3, atol=1e-3)
    final = [json.loads((tmp_path / "runs" / v / "final.json").read_text("utf-8")) for v in ("one", "two")]
    assert final[1] == pytest.approx(final[0], abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_sharded_processes_draw_the_adaptation_curve_of_one(tmp_path: Path) -> None:
    """Several runs in the same processes, the first of them without a pair to train on."""
    judge = language_model(tmp_path / "judge")
    Manifest("start", (JudgeEntry("gram", "gram", "eval", ("A", "B"), 511, 0),)).save(judge)
    changes = {"model": {"path": str(judge)}, "schedule": {"epochs": 1.0}, "objective": {}}
    one, two = (
        _recipe(tmp_path, version, {"rows": 8, "rows_per_device": at_once}, "adapt", **changes)
        for version, at_once in (("one", 8), ("two", 4))
    )
    recipe = load_recipe(one)
    assert isinstance(recipe, AdaptRecipe)
    expected = adapt_to_sizes(recipe, [0, 16])
    _launch(two, "--sizes", "0", "16")
    found = json.loads((tmp_path / "runs" / "two" / "curve.json").read_text("utf-8"))
    assert [row["pairs"] for row in found] == [point.pairs for point in expected] == [0, 16]
    for row, point in zip(found, expected, strict=True):
        assert row["loss"] == pytest.approx(point.loss, abs=1e-4)
        assert row["accuracy"]["value"] == pytest.approx(point.accuracy.value)


def _recipe(directory: Path, version: str, batch: dict[str, int], stage: str = "finetune", **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "schedule": {"steps": STEPS, "kind": "cosine", "warmup": 0.1},
        "objective": {"label_mass_weight": 0.1},
    }
    output = {"directory": str(directory / version), "save_every": 1000}
    values = tables(directory, stage, version=version, batch=batch, output=output, **(settings | changes))
    path = directory / f"{version}.toml"
    path.write_text(_toml(values), "utf-8")
    return path


def _launch(recipe: Path, *words: str) -> None:
    """What `accelerate launch` sets for the shipped file; the command itself ignores FSDP where there is no GPU."""
    switches = yaml.safe_load((ACCELERATE / "fsdp2.yaml").read_text("utf-8"))["fsdp_config"]
    env = {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value) for name, value in switches.items()
    }
    env |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "training", tomllib.loads(recipe.read_text("utf-8"))["stage"], str(recipe), *words]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fsdp" in done.stderr.lower(), "the run was not sharded"


def _losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _toml(values: dict[str, object]) -> str:
    """Inline tables of a recipe; enough TOML for numbers, texts, lists and tables."""

    def write(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {write(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(write, value)) + "]"
        return json.dumps(value)

    return "".join(f"{key} = {write(value)}\n" for key, value in values.items())

"""Recipes: closed, typed, and every complaint names file and key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.configs import AdaptRecipe, BatchSection, FinetuneRecipe, PretrainRecipe, RewardRecipe
from training.data.pairs import DataError
from training.recipe_files import AnyRecipe, load_recipe

FINETUNE = """
stage = "finetune"
version = "v1"
model = { path = "some/model" }
data = { train = ["pairs.jsonl"] }
optimizer = { learning_rate = 2e-5 }
batch = { rows = 128, rows_per_device = 4 }
output = { directory = "out" }
"""


def _load(tmp_path: Path, text: str) -> AnyRecipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return load_recipe(path)


def test_defaults_are_those_of_the_published_recipe(tmp_path: Path) -> None:
    recipe = _load(tmp_path, FINETUNE)
    assert isinstance(recipe, FinetuneRecipe)
    assert (recipe.objective.smoothing, recipe.data.max_tokens, recipe.schedule.kind) == (0.05, 2048, "cosine")
    assert recipe.run_directory == Path("runs/v1")


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("pretrain", PretrainRecipe), ("finetune", FinetuneRecipe), ("adapt", AdaptRecipe), ("reward", RewardRecipe)],
)
def test_the_stage_picks_the_schema(tmp_path: Path, stage: str, kind: type) -> None:
    assert type(_load(tmp_path, FINETUNE.replace('"finetune"', f'"{stage}"'))) is kind


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("learning_rate", "learning_rat", "optimizer.learning_rat"),
        ('stage = "finetune"', 'stage = "finetuned"', "finetuned"),
        ('path = "some/model"', "attention = 'sdpa'", "give either path or scratch"),
        ("rows = 128", "rows = 0", "batch.rows"),
        ("[", "", "not TOML"),
        ('["pairs.jsonl"]', '["pairs.jsonl"], judgments = ["j.jsonl"]', "go together"),
        ("learning_rate = 2e-5", 'learning_rate = 2e-5, name = "muon"', "matrix_learning_rate"),
    ],
)
def test_wrong_recipes_are_refused_with_file_and_key(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(DataError, match=r"recipe\.toml") as caught:
        _load(tmp_path, FINETUNE.replace(old, new))
    assert complaint in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")


def test_accumulation_makes_up_the_step() -> None:
    assert BatchSection(rows=128, rows_per_device=4).accumulation(8) == 4
    with pytest.raises(DataError, match=r"batch\.rows = 128"):
        BatchSection(rows=128, rows_per_device=4).accumulation(3)


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, training.configs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

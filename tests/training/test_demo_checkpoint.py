"""The committed checkpoint: small, of the shipped recipe, and right where its card says it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from service.manifest import Manifest
from training.data.tokenizer import build_tokenizer
from training.demo_configs import Recipe
from training.evaluation.demo import heldout_pairs
from training.evaluation.demo_judge import DemoJudge

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "service" / "demo"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe.load(ROOT / "training" / "recipes" / "demo.toml")


def test_checkpoint_is_small_and_of_the_recipe(recipe: Recipe) -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 16_000_000
    manifest = Manifest.load(DEMO)
    assert manifest is not None
    assert manifest.version == recipe.version
    config = Qwen3ForCausalLM.config_class.from_pretrained(DEMO).to_dict()
    shape = recipe.model.model_dump(exclude={"rope_theta"})
    assert {key: config[key] for key in shape} == shape


def test_tokenizer_is_the_recipes_own(recipe: Recipe, tmp_path: Path) -> None:
    settings = recipe.tokenizer
    longest = recipe.model.max_position_embeddings
    build_tokenizer(settings.vocab_size, settings.pairs_per_task, recipe.seed, longest).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (DEMO / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_checkpoint_judges_held_out_pairs() -> None:
    """A sample small enough for every test run; the card's figures come from 2,000 pairs."""
    judge = DemoJudge(Qwen3ForCausalLM.from_pretrained(DEMO, dtype=torch.float32), AutoTokenizer.from_pretrained(DEMO))
    report = judge.label_report(heldout_pairs(180, seed=11))
    assert report.accuracy >= 0.93
    assert report.flip_rate <= 0.06
    assert report.label_mass >= 0.95
    written = judge.rationale_report(heldout_pairs(18, seed=12))
    assert written.parsed >= 0.97
    assert written.accuracy >= 0.86

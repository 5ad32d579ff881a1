"""The committed checkpoint: small, of the shipped recipes, and right where its card says it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.judging import gram_r2
from service.manifest import Manifest
from service.types import Verdict
from training.configs import FinetuneRecipe, PretrainRecipe
from training.data.demo_files import DemoSizes, as_pair
from training.data.pairs import Pair
from training.data.tokenizer import build_tokenizer
from training.evaluation.demo import heldout_pairs
from training.evaluation.judges.checkpoint import opened
from training.recipe_files import load_recipe

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "service" / "demo"
RECIPES = ROOT / "training" / "recipes"


def _pretrain() -> PretrainRecipe:
    recipe = load_recipe(RECIPES / "demo-pretrain.toml")
    assert isinstance(recipe, PretrainRecipe)
    return recipe


def test_checkpoint_is_small_and_of_the_recipes() -> None:
    first, second = _pretrain(), load_recipe(RECIPES / "demo-finetune.toml")
    assert isinstance(second, FinetuneRecipe)
    assert second.model.path == first.output.directory
    assert ROOT / second.output.directory == DEMO
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 16_000_000
    assert first.model.scratch is not None
    config = json.loads((DEMO / "config.json").read_text("utf-8"))
    shape = first.model.scratch.model_dump(exclude={"rope_theta"})
    assert {key: config[key] for key in shape} == shape


def test_manifest_is_what_the_recipe_asks_for() -> None:
    recipe, manifest = load_recipe(RECIPES / "demo-finetune.toml"), Manifest.load(DEMO)
    assert isinstance(recipe, FinetuneRecipe)
    assert manifest is not None
    assert manifest.version == recipe.version
    assert [judge.name for judge in manifest.judges] == [recipe.output.judge, f"{recipe.output.judge}-r2"]
    wanted = recipe.output.self_test
    assert wanted is not None
    for judge in manifest.judges:
        test = judge.self_test
        assert test is not None
        assert (test.prompt, test.chosen, test.rejected) == (wanted.prompt, wanted.chosen, wanted.rejected)


def test_tokenizer_is_the_recipes_own(tmp_path: Path) -> None:
    sizes = DemoSizes()
    tokenizer = build_tokenizer(sizes.vocabulary, sizes.tokenizer_pairs, _pretrain().seed, sizes.positions)
    tokenizer.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes()


@pytest.mark.slow
async def test_checkpoint_judges_held_out_pairs() -> None:
    """A sample small enough for every test run; the card's figures come from 2,000 pairs."""
    verdicts = await _verdicts("demo", n=180, seed=11)
    assert _accuracy(verdicts) >= 0.93
    assert sum(not verdict.consistent for _, verdict in verdicts) <= 0.06 * len(verdicts)
    assert sum(verdict.label_mass or 0.0 for _, verdict in verdicts) >= 0.95 * len(verdicts)


@pytest.mark.slow
async def test_checkpoint_writes_judgments_of_held_out_pairs() -> None:
    """Every text parses, and ends well before the judge's limit."""
    verdicts = await _verdicts("demo-r2", n=18, seed=12)
    assert _accuracy(verdicts) >= 0.86
    written = [rationale for _, verdict in verdicts for rationale in verdict.rationales]
    assert len(written) == 36
    assert {rationale.finish_reason for rationale in written} == {"stop"}
    assert "invalid" not in {gram_r2.FAMILY.parse(rationale.text).verdict for rationale in written}


async def _verdicts(name: str, n: int, seed: int) -> list[tuple[Pair, Verdict]]:
    """Held-out pairs with what one of the checkpoint's judges says of them, through the service's own pipeline."""
    pairs = [as_pair(pair, str(i), i % 2 == 0) for i, pair in enumerate(heldout_pairs(n, seed))]
    async with opened(str(DEMO), "transformers", name) as judge:
        verdicts = await judge.judge(pairs)
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    return [(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True) if isinstance(verdict, Verdict)]


def _accuracy(verdicts: list[tuple[Pair, Verdict]]) -> float:
    """By the two orders' mean; an exact tie is wrong."""
    return sum(verdict.preferred == pair.label for pair, verdict in verdicts) / len(verdicts)

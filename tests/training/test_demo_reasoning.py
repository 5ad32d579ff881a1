"""The committed judge that reasons: small, of the shipped recipe, and right where its card says it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.judging import gram_r2
from service.manifest import Manifest
from service.types import Verdict
from training.data.demo_files import as_pair
from training.evaluation.demo import heldout_pairs
from training.evaluation.judges.checkpoint import opened
from training.selftrain.recipe import load_selftrain

ROOT = Path(__file__).parents[2]
DEMO, REASONING = ROOT / "service" / "demo", ROOT / "service" / "demo_reasoning"
RECIPE = ROOT / "training" / "recipes" / "gram-r2" / "demo.toml"


def test_both_checkpoints_together_are_small() -> None:
    assert sum(path.stat().st_size for home in (DEMO, REASONING) for path in home.iterdir()) <= 16_000_000


def test_manifest_is_what_the_recipe_asks_for() -> None:
    recipe, manifest = load_selftrain(RECIPE), Manifest.load(REASONING)
    assert manifest is not None
    assert ROOT / recipe.backbone == DEMO
    assert manifest.version == f"{recipe.version}-final"
    (judge,) = manifest.judges
    wanted = recipe.stages.final["output"]
    assert (judge.name, judge.family) == (wanted["judge"], gram_r2.FAMILY.name)
    assert judge.max_rationale_tokens == wanted["max_rationale_tokens"]
    assert judge.self_test is not None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_it_speaks_its_backbones_language(name: str) -> None:
    assert (REASONING / name).read_bytes() == (DEMO / name).read_bytes()


@pytest.mark.slow
async def test_it_writes_judgments_of_held_out_pairs() -> None:
    """A sample small enough for every test run; the card's figures come from 2,000 pairs."""
    pairs = [as_pair(pair, str(i), i % 2 == 0) for i, pair in enumerate(heldout_pairs(18, seed=13))]
    async with opened(str(REASONING), "transformers") as judge:
        verdicts = await judge.judge(pairs)
    right = 0
    for pair, verdict in zip(pairs, verdicts, strict=True):
        assert isinstance(verdict, Verdict)
        assert {rationale.finish_reason for rationale in verdict.rationales} == {"stop"}
        assert "invalid" not in {gram_r2.FAMILY.parse(rationale.text).verdict for rationale in verdict.rationales}
        right += verdict.preferred == pair.label
    assert right >= 16

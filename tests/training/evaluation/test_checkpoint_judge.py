"""A checkpoint judged with in this process: the service's pipeline, and what training itself computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from service.types import Prompt, Verdict
from training.evaluation.demo import heldout_pairs
from training.evaluation.demo_judge import DemoJudge
from training.evaluation.items import make_item
from training.evaluation.judges.base import EvaluationError
from training.evaluation.judges.checkpoint import opened

DEMO = Path(__file__).parents[3] / "service" / "demo"


@pytest.mark.slow
async def test_evaluation_and_training_read_the_same_probabilities() -> None:
    """float32, on one engine of the service and in training's own forward pass."""
    pairs = heldout_pairs(18, seed=21)
    items = [make_item(str(i), Prompt.from_text(p.prompt), p.right, p.wrong, p.task, 0) for i, p in enumerate(pairs)]
    async with opened(str(DEMO), "transformers") as judge:
        assert judge.version.startswith("demo@demo-1/")
        assert judge.version.endswith("/transformers-float32")
        verdicts = await judge.judge([item.pair for item in items])
    training = DemoJudge(
        Qwen3ForCausalLM.from_pretrained(DEMO, dtype=torch.float32), AutoTokenizer.from_pretrained(DEMO)
    )
    for item, verdict, reading in zip(items, verdicts, training.read(pairs), strict=True):
        assert isinstance(verdict, Verdict)
        p_right = verdict.p_first if item.pair.label == "a" else 1.0 - verdict.p_first
        assert p_right == pytest.approx((reading.right_first + reading.right_second) / 2, abs=1e-3)
        assert verdict.label_mass == pytest.approx(reading.label_mass, abs=1e-3)


async def test_a_checkpoint_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no model directory"):
        async with opened(str(tmp_path / "gone"), "transformers"):
            pass
    with pytest.raises(EvaluationError, match=r"carries no judge\.json; say what it is with --family"):
        async with opened(str(tmp_path), "transformers"):
            pass

"""A checkpoint judged with in this process: the service's pipeline, and what training itself computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from service.judging import gram
from service.tokenization import ChatTokenizer
from service.types import Verdict
from training.data.demo_files import as_pair
from training.data.pairs import Pair
from training.data.rows import LabelRows
from training.evaluation.demo import heldout_pairs
from training.evaluation.judges.base import EvaluationError
from training.evaluation.judges.checkpoint import opened

DEMO = Path(__file__).parents[3] / "service" / "demo"


@pytest.mark.slow
async def test_evaluation_and_training_read_the_same_probabilities() -> None:
    """float32, on one engine of the service and in a plain forward pass over the rows training is fed with."""
    pairs = [as_pair(pair, str(i), i % 2 == 0) for i, pair in enumerate(heldout_pairs(18, seed=21))]
    async with opened(str(DEMO), "transformers") as judge:
        assert judge.version.startswith("demo@demo-2/")
        assert judge.version.endswith("/transformers-float32")
        verdicts = await judge.judge(pairs)
    model = Qwen3ForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    rows = LabelRows(ChatTokenizer(AutoTokenizer.from_pretrained(DEMO)), gram.FAMILY, max_tokens=2048)
    for pair, verdict in zip(pairs, verdicts, strict=True):
        assert isinstance(verdict, Verdict)
        (p_ab, one), (p_ba, other) = (_read(model, rows, pair, swapped) for swapped in (False, True))
        assert (verdict.p_ab, verdict.p_ba) == pytest.approx((p_ab, p_ba), abs=1e-3)
        assert verdict.label_mass == pytest.approx(min(one, other), abs=1e-3)


def _read(model: Qwen3ForCausalLM, rows: LabelRows, pair: Pair, swapped: bool) -> tuple[float, float]:
    """P(the response shown first is better), and the mass of both labels."""
    with torch.inference_mode():
        p = model(torch.tensor([rows.row(pair, swapped=swapped).ids])).logits[0, -1].softmax(-1)
    labels = p[list(rows.label_ids)]
    return (labels[0] / labels.sum()).item(), labels.sum().item()


async def test_a_checkpoint_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no model directory"):
        async with opened(str(tmp_path / "gone"), "transformers"):
            pass
    with pytest.raises(EvaluationError, match=r"carries no judge\.json; say what it is with --family"):
        async with opened(str(tmp_path), "transformers"):
            pass

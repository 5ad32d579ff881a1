"""JudgeBench (Tan et al. 2024, arXiv 2410.12784): pairs of one model's answers, one of them right.

    {"pair_id": "...", "source": "mmlu-pro-law", "question": "...", "response_A": "...", "response_B": "...",
     "label": "A>B"}

Two files, by the model that answered: 350 pairs of GPT-4o (the one in tables) and 270 of Claude 3.5 Sonnet.

Three conventions give three numbers for one judge, and papers print each of them as "JudgeBench":

* both orders, official (`both_orders`): the published harness (``utils/metrics.py``) adds +1 for each order's verdict
  that names the right answer and -1 for each that names the wrong one; the pair counts only if the sum is above zero.
  A judge that contradicts itself gets nothing for that pair.
* two orders averaged (`two_orders`): the mean probability of both orders decides; GRAM's.
* one order (`single_order`): what a script that judges each pair once reports; here the mean over both orders.

Each is averaged over all pairs (micro: the official harness, NVIDIA's tables) or over the four sections (macro: the
tables of GRAM, GRAM-R2 and Skywork-Reward-V2), which differ by up to six points because mathematics has 56 pairs and
knowledge 154.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluation.benchmarks.base import Benchmark, Block, HubPart, ScoreRule, pooled
from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Item, make_item

SECTIONS = {
    "knowledge": "mmlu-pro",
    "reasoning": "livebench-reasoning",
    "math": "livebench-math",
    "coding": "livecodebench",
}
"""Section -> how the names of its sources begin."""


def items(rows: Sequence[Row], seed: int) -> list[Item]:
    return [_item(row, seed) for row in rows]


def _item(row: Row, seed: int) -> Item:
    label = row.text("label")
    if label not in ("A>B", "B>A"):
        raise row.error("label", f'must be "A>B" or "B>A", not {label[:20]!r}')
    texts = row.text("response_A"), row.text("response_B")
    chosen, rejected = texts if label == "A>B" else reversed(texts)
    return make_item(row.text("pair_id"), row.prompt("question"), chosen, rejected, _section(row), seed)


def _section(row: Row) -> str:
    source = row.text("source")
    for section, prefix in SECTIONS.items():
        if source.startswith(prefix):
            return section
    raise row.error("source", f"{source!r} begins with none of {', '.join(SECTIONS.values())}")


def rules(cells: Sequence[str]) -> list[ScoreRule]:
    return [
        pooled("micro (all pairs)", list(SECTIONS), headline=True),
        ScoreRule("macro (mean of four sections)", tuple(Block(name, (name,)) for name in SECTIONS), headline=True),
        *(pooled(name, [name], headline=True) for name in SECTIONS),
    ]


def _benchmark(name: str, title: str, split: str, original: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper="arXiv 2410.12784",
        folder="judgebench",
        files=(f"{split}.jsonl", f"dataset=judgebench,response_model={original}.jsonl"),
        hub=(HubPart("ScalerLab/JudgeBench", split, f"{split}.jsonl"),),
        items=items,
        rules=rules,
        official="both_orders",
    )


GPT = _benchmark("judgebench", "JudgeBench (GPT-4o pairs)", "gpt", "gpt-4o-2024-05-13")
CLAUDE = _benchmark("judgebench_claude", "JudgeBench (Claude pairs)", "claude", "claude-3-5-sonnet-20240620")

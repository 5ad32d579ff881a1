"""Unified-Feedback's validation split: the in-distribution test of GRAM (arXiv 2506.14175) and GRM (arXiv 2406.10216).

    {"conv_A": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "conv_B": [...],
     "conv_A_rating": 4.0, "conv_B_rating": 2.0, "num_turns": 1, "source": "..."}

As GRM's published loader does, rows with equal ratings are left out and the first 1,000 of the rest are the test. GRAM
says "1k" without saying which; these are the ones its setting follows. Dropped rows are the only ones this room drops.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.types import Prompt
from training.evaluation.benchmarks.base import Benchmark, HubPart, ScoreRule, pooled
from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Item, make_item

SIZE = 1000


def items(rows: Sequence[Row], seed: int) -> list[Item]:
    found: list[Item] = []
    for row in rows:
        ratings = tuple(_rating(row, f"conv_{side}_rating") for side in "AB")
        if ratings[0] != ratings[1] and len(found) < SIZE:
            found.append(_item(row, ratings[0] > ratings[1], seed))
    return found


def _rating(row: Row, field: str) -> float:
    value = row.value(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.error(field, "must be a number")
    return float(value)


def _item(row: Row, a_is_better: bool, seed: int) -> Item:
    a, b = row.turns("conv_A"), row.turns("conv_B")
    if a[:-1] != b[:-1] or len(a) < 2:
        raise row.error("conv_B", "must differ from conv_A in its last turn only")
    chosen, rejected = (a[-1], b[-1]) if a_is_better else (b[-1], a[-1])
    name = f"{row.file}:{row.number}"
    return make_item(name, Prompt(a[:-1]), chosen.content, rejected.content, row.text("source"), seed)


def rules(cells: Sequence[str]) -> list[ScoreRule]:
    return [
        pooled("overall (all pairs)", cells, headline=True),
        *(pooled(source, [source], headline=True) for source in cells),
    ]


BENCHMARK = Benchmark(
    name="unified_feedback",
    title="Unified-Feedback (validation)",
    paper="llm-blender/Unified-Feedback; arXiv 2406.10216, 2506.14175",
    folder="unified_feedback",
    files=("val*.parquet", "val*.jsonl", "*.parquet", "*.jsonl"),
    hub=(HubPart("llm-blender/Unified-Feedback", "val", "val.parquet", "all"),),
    items=items,
    rules=rules,
)

"""HHH Alignment (Askell et al. 2021, arXiv 2112.00861): 221 comparisons - 58 harmless, 59 helpful, 61 honest, 43 other.

    {"input": "...", "targets": {"choices": ["good", "bad"], "labels": [1, 0]}}

or BIG-bench's own ``task.json``, whose examples hold ``target_scores: {"good": 1, "bad": 0}``. The category is the
folder (``harmless/task.json``) or the file (``harmless.jsonl``). Papers print the share of all 221; the mean of the
four categories is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from training.evaluation.benchmarks.base import Benchmark, Block, HubPart, ScoreRule, pooled
from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Item, make_item

CATEGORIES = ("harmless", "helpful", "honest", "other")


def items(rows: Sequence[Row], seed: int) -> list[Item]:
    return [_item(example, seed) for row in rows for example in _examples(row)]


def _examples(row: Row) -> list[Row]:
    """A BIG-bench task is one object with all its examples."""
    if not isinstance(row.data.get("examples"), list):
        return [row]
    return [Row(row.file, number, dict(example)) for number, example in enumerate(row.data["examples"], start=1)]


def _item(row: Row, seed: int) -> Item:
    category = _category(row)
    scores = _scores(row)
    ranked = sorted(scores, key=lambda choice: -choice[1])
    if len(ranked) != 2 or ranked[0][1] == ranked[1][1]:
        raise row.error("targets", "must be two choices, one of them right")
    name = f"{category}/{row.number}"
    return make_item(name, row.prompt("input"), ranked[0][0], ranked[1][0], category, seed)


def _category(row: Row) -> str:
    path = PurePosixPath(row.file)
    for part in (path.stem, *reversed(path.parent.parts)):
        if part in CATEGORIES:
            return part
    raise row.error("file", f"its name must be one of {', '.join(CATEGORIES)}, or lie in a folder of that name")


def _scores(row: Row) -> list[tuple[str, float]]:
    if "target_scores" in row.data:
        return [(text, float(score)) for text, score in row.value("target_scores").items()]
    targets = row.value("targets")
    if not isinstance(targets, dict) or not {"choices", "labels"} <= targets.keys():
        raise row.error("targets", "must be an object with choices and labels")
    pairs = zip(targets["choices"], targets["labels"], strict=False)
    return [(row.as_text("targets.choices", text), float(score)) for text, score in pairs]


def rules(cells: Sequence[str]) -> list[ScoreRule]:
    return [
        pooled("overall (all comparisons)", CATEGORIES, headline=True),
        ScoreRule("macro (mean of four categories)", tuple(Block(name, (name,)) for name in CATEGORIES)),
        *(pooled(name, [name], headline=True) for name in CATEGORIES),
    ]


BENCHMARK = Benchmark(
    name="hhh",
    title="HHH Alignment",
    paper="arXiv 2112.00861",
    folder="hhh",
    files=("**/task.json", "**/*.jsonl", "**/*.parquet"),
    # The repository holds a loading script; its parquet copy is what current libraries read.
    hub=tuple(
        HubPart("HuggingFaceH4/hhh_alignment", "test", f"{name}.parquet", revision="refs/convert/parquet", folder=name)
        for name in CATEGORIES
    ),
    items=items,
    rules=rules,
)

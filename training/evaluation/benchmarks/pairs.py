"""Anybody's own pairs, in the JSONL of `training.data.pairs`: all of them, each subset, and the mean of the subsets.

Positions are shuffled like a benchmark's; an item's cluster is its ``group`` where the file has one, else its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from training.data.pairs import pair_of_row
from training.evaluation.benchmarks.base import Benchmark, Block, ScoreRule, pooled
from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Item, make_item


def items(rows: Sequence[Row], seed: int) -> list[Item]:
    return [_item(row, seed) for row in rows]


def _item(row: Row, seed: int) -> Item:
    pair = pair_of_row(f"{row.file}, row {row.number}", row.data, f"{row.file}/{row.number}")
    if pair.label is None:
        raise row.error("label", "missing; only labelled pairs can be scored")
    made = make_item(pair.id, pair.prompt, pair.chosen, pair.rejected, pair.subset or pair.source or "all", seed)
    return replace(made, pair=replace(made.pair, source=pair.source, group=pair.group or made.pair.group))


def rules(cells: Sequence[str]) -> list[ScoreRule]:
    everything = pooled("overall (all pairs)", cells, headline=True)
    if len(cells) == 1:
        return [everything]
    macro = ScoreRule("macro (mean of subsets)", tuple(Block(cell, (cell,)) for cell in cells))
    return [everything, macro, *(pooled(cell, [cell], headline=True) for cell in cells)]


BENCHMARK = Benchmark(
    name="pairs",
    title="Pairs",
    paper="your own file",
    folder="",
    files=("*.jsonl",),
    hub=(),
    items=items,
    rules=rules,
    official="",
)

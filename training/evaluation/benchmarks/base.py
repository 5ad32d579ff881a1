"""What a benchmark is: where its rows come from, how a row becomes items, and which scores are made of which cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Item


@dataclass(frozen=True, slots=True)
class Block:
    """Cells whose samples are pooled into one mean. ``weight`` is the block's share in its score, before scaling."""

    name: str
    cells: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """A named score: the weighted mean of its blocks' means.

    A rule lists the cells that the *whole* benchmark has. Where the data has fewer, the score is made of what is there,
    says what is missing and is called incomplete: never a silent average over missing parts. ``headline`` scores are
    the ones people quote.
    """

    name: str
    blocks: tuple[Block, ...]
    headline: bool = False

    @property
    def cells(self) -> set[str]:
        return {cell for block in self.blocks for cell in block.cells}


def pooled(name: str, cells: Sequence[str], *, headline: bool = False) -> ScoreRule:
    """A micro average: every sample weighs the same."""
    return ScoreRule(name, (Block(name, tuple(cells)),), headline)


@dataclass(frozen=True, slots=True)
class HubPart:
    """A split of a dataset on the Hugging Face hub. ``tag`` is the file name that its rows would have locally;
    ``folder``: only files of this folder, where a repository declares no configurations."""

    repo: str
    split: str
    tag: str
    config: str | None = None
    revision: str | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark. ``files`` are glob patterns inside ``folder``, which lies in the data directory.

    ``items(rows, seed)`` keeps every row, whatever a judge could make of it: official scores count them all.
    ``rules(cells)`` are the scores; the cells found in the data are given for benchmarks that have none of their own.
    ``official`` is the way of counting that the benchmark's own harness uses, a key of `metrics.METRICS`; empty: none.
    """

    name: str
    title: str
    paper: str
    folder: str
    files: tuple[str, ...]
    hub: tuple[HubPart, ...]
    items: Callable[[Sequence[Row], int], list[Item]]
    rules: Callable[[Sequence[str]], list[ScoreRule]]
    official: str = "two_orders"

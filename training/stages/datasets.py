"""Pairs as map-style datasets: rows are rendered and tokenized when they are asked for, in the loader's workers.

A row depends on (pair, seed, epoch) only, so an interrupted run sees the same rows when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Literal, TypeVar

from torch.utils.data import Dataset

from training.configs import DataSection, SelfTestSection
from training.data.pairs import DataError, Pair, read_pairs
from training.data.rows import shown_swapped
from training.stages.examples import Example

T = TypeVar("T")
Build = Callable[[Pair, bool], Example]
"""A pair, and whether B is shown first."""


class PairDataset(Dataset[Example]):
    """Each pair once an epoch, or in both orders (rows 2i and 2i + 1)."""

    def __init__(
        self, pairs: Sequence[Pair], build: Build, swap: Literal["both", "random", "none"] = "none", seed: int = 0
    ) -> None:
        self._pairs, self._build, self._swap, self._seed = pairs, build, swap, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer; ``random`` draws new orders for every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._pairs) * (2 if self._swap == "both" else 1)

    def __getitem__(self, index: int) -> Example:
        if self._swap == "both":
            return self._build(self._pairs[index // 2], index % 2 == 1)
        pair = self._pairs[index]
        return self._build(pair, self._swap == "random" and shown_swapped(pair, self._seed + self._epoch))


class Interleaved(Dataset[Example]):
    """Two datasets as one, the shorter spread evenly over the longer: every stretch holds both in the same ratio."""

    def __init__(self, first: PairDataset, second: Dataset[Example]) -> None:
        self._parts = (first, second)
        n, m = len(first), len(second)
        places = chain(((i + 0.5) / n, 0, i) for i in range(n)), (((i + 0.5) / m, 1, i) for i in range(m))
        self._order = [(part, i) for _, part, i in sorted(chain.from_iterable(places))]

    def set_epoch(self, epoch: int) -> None:
        self._parts[0].set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Example:
        part, i = self._order[index]
        return self._parts[part][i]


def training_pairs(data: DataSection, seed: int, *, labelled: bool) -> list[Pair]:
    """All pairs of the recipe's files, or ``data.limit`` of them drawn by the seed. Raises `DataError`."""
    pairs = list(chain.from_iterable(read_pairs(Path(path)) for path in data.train))
    if labelled:
        _require_labels(pairs, data.train)
    return drawn(pairs, data.limit, seed)


def drawn(items: list[T], limit: int | None, seed: int) -> list[T]:
    """``limit`` of the items, by the seed; all as they are without one. Nested: a seed's 1,000 are among its 3,000."""
    if limit is None or limit >= len(items):
        return items
    return Random(f"limit/{seed}").sample(items, len(items))[:limit]


def evaluation_pairs(data: DataSection, limit: int | None) -> list[Pair]:
    """The held-out pairs, the first ``limit`` of them. Raises `DataError`."""
    if not data.evaluation:
        return []
    pairs = list(read_pairs(Path(data.evaluation)))[:limit]
    _require_labels(pairs, (data.evaluation,))
    return pairs


def check_self_test(test: SelfTestSection | None, pairs: Sequence[Pair]) -> None:
    """The pair a recipe names must be judged with the others. Raises `DataError`."""
    if test is None:
        return
    texts = {(p.prompt.messages[-1].content, p.chosen, p.rejected) for p in pairs}
    if (test.prompt, test.chosen, test.rejected) not in texts:
        raise DataError("output.self_test is no pair of data.evaluation; add it there, or leave it out.")


def check_enough(rows: int, processes: int) -> None:
    """Every process must have a row of each step. Raises `DataError`."""
    if rows < processes:
        raise DataError(f"The data set has {rows} rows for {processes} processes; add rows or start fewer processes.")


def _require_labels(pairs: Sequence[Pair], files: Sequence[str]) -> None:
    missing = [pair.id for pair in pairs if pair.label is None]
    if missing:
        raise DataError(
            f"{', '.join(files)}, pair {missing[0]}, field label: missing (in {len(missing)} of {len(pairs)} pairs); "
            "this stage learns from labelled pairs only."
        )

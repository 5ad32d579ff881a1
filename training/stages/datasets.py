"""Pairs as map-style datasets: rows are rendered and tokenized when they are asked for, in the loader's workers.

A row depends on (pair, seed, epoch) only, so an interrupted run sees the same rows when it goes on. What cannot be a
row is refused before the first one is trained on, by file, row and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol, TypeVar

from torch.utils.data import Dataset

from training.configs import DataSection, SelfTestSection
from training.data.cleaning import fault_of
from training.data.pairs import DataError, Pair, read_pairs
from training.data.rows import shown_swapped
from training.stages.examples import Example

T = TypeVar("T")

_FIELDS = {"empty response": "response_a or response_b", "identical responses": "response_b", "lone surrogate": "any"}
"""Where a fault lies; elsewhere in the prompt."""

Build = Callable[[Pair, bool], Example]
"""A pair, and whether B is shown first."""


class Measured(Protocol):
    """Rows whose lengths are known before they are tokenized."""

    def lengths(self) -> list[int]:
        """Bytes of each row's texts: what padding goes by, but for the tokenizer's own ratio."""
        ...


def pair_bytes(pair: Pair) -> int:
    """Of everything a judge is shown."""
    texts = (*(message.content for message in pair.prompt.messages), pair.response_a, pair.response_b)
    return sum(len(text.encode()) for text in texts)


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

    def lengths(self) -> list[int]:
        times = 2 if self._swap == "both" else 1
        return [size for pair in self._pairs for size in [pair_bytes(pair)] * times]


class Interleaved(Dataset[Example]):
    """Two datasets as one, the shorter spread evenly over the longer: every stretch holds both in the same ratio."""

    def __init__(self, first: PairDataset, second: Any) -> None:
        """``second``: a dataset of examples that is `Measured`."""
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

    def lengths(self) -> list[int]:
        lengths = [part.lengths() for part in self._parts]
        return [lengths[part][i] for part, i in self._order]


def training_pairs(
    data: DataSection, seed: int, *, labelled: bool, build: Callable[[Pair], object] | None = None
) -> list[Pair]:
    """All pairs of the recipe's files, or ``data.limit`` of them drawn by the seed.

    ``build`` makes a row: it is tried on the first
    pair of each succession of roles, which is what decides whether a prompt leaves room. Raises `DataError`.
    """
    pairs = list(chain.from_iterable(_usable(Path(path), labelled, build) for path in data.train))
    return drawn(pairs, data.limit, seed)


def drawn(items: list[T], limit: int | None, seed: int) -> list[T]:
    """``limit`` of the items, by the seed; all as they are without one. Nested: a seed's 1,000 are among its 3,000."""
    if limit is None or limit >= len(items):
        return items
    return Random(f"limit/{seed}").sample(items, len(items))[:limit]


def evaluation_pairs(data: DataSection, limit: int | None, build: Callable[[Pair], object] | None = None) -> list[Pair]:
    """The held-out pairs, the first ``limit`` of them; see `training_pairs`. Raises `DataError`."""
    if not data.evaluation:
        return []
    return list(islice(_usable(Path(data.evaluation), True, build), limit))


def _usable(path: Path, labelled: bool, build: Callable[[Pair], object] | None) -> Iterator[Pair]:
    """The pairs of a file. Raises `DataError` naming file, row and field of the first that cannot be trained on."""
    tried: set[tuple[str, ...]] = set()
    for row, pair in enumerate(read_pairs(path), start=1):
        where = f"{path}, row {row} (pair {pair.id})"
        if labelled and pair.label is None:
            raise DataError(f"{where}, field label: missing; this stage learns from labelled pairs only.")
        if (fault := fault_of(pair)) is not None:
            raise DataError(
                f"{where}, field {_FIELDS.get(fault, 'prompt')}: {fault}; leave the row out "
                "(`python -m training data build` drops such rows, and counts them)."
            )
        roles = tuple(message.role for message in pair.prompt.messages)
        if build is not None and roles not in tried:
            tried.add(roles)
            try:
                build(pair)
            except DataError as error:
                raise DataError(f"{where}, field prompt: {error}") from error
        yield pair


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

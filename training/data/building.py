"""From sources to files of pairs: read, clean, decontaminate, de-duplicate, split, and say what became of every row.

Two passes, so that memory holds hashes and signatures (about 1 kB a pair), never texts: the first writes what is usable
to a spool and notes what must be known of all pairs at once (opposite labels, groups, signatures); then sides are
decided, and the spool is copied to them. The output folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from training.data.card import Card, SideStatistics, SourceCounts
from training.data.card_plot import draw
from training.data.cleaning import Duplicates, fault_of
from training.data.decontamination import Benchmarks, benchmark_prompts
from training.data.files import sha256_of
from training.data.formats.base import Dropped, Read
from training.data.near_duplicates import Signatures
from training.data.pairs import DataError, Pair, read_pairs, shown_swapped, write_pairs
from training.data.recipe import DataRecipe, Input, expanded
from training.data.sources import Reading
from training.data.splits import Groups, Side, keys_of, side_of

SIDES: tuple[Side, ...] = ("train", "validation", "test")
_SPOOL = "spool.jsonl"


def build(recipe: DataRecipe, output: Path, *, force: bool = False) -> Card:
    """Build the data set into the folder ``output`` and return its card; ``force`` replaces what is there.

    Raises `DataError` for input that cannot be used, for an output that exists, and when nothing is left to train on.
    """
    if output.exists() and not force:
        raise DataError(f"{output} exists already; name another folder, or replace it with --force.")
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        card = Builder(recipe, part).run()
        card.write(part)
        draw(card, part / "lengths.png")
        _replace(output, part)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return card


def _replace(output: Path, part: Path) -> None:
    """What stood at ``output`` is put aside first, and put back if the new folder cannot take its place."""
    old = output.with_name(f"{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    try:
        part.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


Item = TypeVar("Item")


def _progress(items: Iterable[Item], name: str, total: int | None = None) -> Iterator[Item]:
    """A bar in a terminal; in a log, a line every half minute of what takes that long."""
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    yield from tqdm(items, name, total, unit=" pairs", mininterval=seconds, maxinterval=seconds, delay=seconds)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is remembered of a pair on the spool: its input, what ties it to others, and its place in a draw."""

    source: int
    keys: tuple[str, ...]
    draw: bytes


class Builder:
    """One build. `run` may be called once."""

    def __init__(self, recipe: DataRecipe, folder: Path) -> None:
        self._recipe = recipe
        self._folder = folder
        # Inputs with a side of their own come first: of duplicates, the held-out one is kept.
        self._inputs = sorted(recipe.inputs, key=lambda given: given.side in (None, "train"))
        self._sources = [
            given.source() for given in self._inputs
        ]  # every complaint about a recipe comes before any work
        self._counts = [SourceCounts(given.path, given.name or "") for given in self._inputs]
        self._benchmarks = Benchmarks()
        self._overlap_of = lru_cache(maxsize=4096)(self._benchmarks.overlap_of)  # pairs of one prompt follow each other
        self._overlaps: Counter[tuple[str, str]] = Counter()
        self._ids: dict[bytes, int] = {}
        self._entries: list[_Entry] = []
        self._duplicates = Duplicates()
        self._signatures = Signatures()

    def run(self) -> Card:
        self._index_benchmarks()
        write_pairs(self._folder / _SPOOL, self._usable())
        near = self._near_duplicates()
        sides = self._sides(near)
        statistics = {side: self._write(side, sides) for side in SIDES if side in sides}
        if "train" not in statistics:
            raise DataError("Nothing is left to train on; the reasons: " + (self._reasons() or "the inputs are empty."))
        (self._folder / _SPOOL).unlink()
        return Card(
            recipe=self._recipe.model_dump(mode="json"),
            sources=self._counts,
            sides=statistics,
            benchmark_prompts=len(self._benchmarks),
            overlaps={f"{name}: {rule}": count for (name, rule), count in sorted(self._overlaps.items())},
            near_duplicates=len(near),
            compared=len(self._entries),
        )

    def _index_benchmarks(self) -> None:
        for location in self._recipe.decontaminate:
            path = Path(expanded(location))
            for prompt in _progress(benchmark_prompts(path), f"prompts of {path.name}"):
                self._benchmarks.add(path.name, prompt)

    def _usable(self) -> Iterator[Pair]:
        """Pairs worth keeping by themselves, noted as they pass."""
        for number, given in enumerate(self._inputs):
            counts, reading = self._counts[number], Reading(self._sources[number])
            items = islice(reading, given.limit)
            for item in _progress(items, given.name or Path(given.path).name):
                counts.read += 1
                reason = self._fault_of(item, given)
                if reason is not None:
                    counts.dropped[reason] += 1
                elif isinstance(item, Pair):
                    self._claim(item.id, number)
                    pair = (
                        item.swapped if self._recipe.shuffle_sides and shown_swapped(item, self._recipe.seed) else item
                    )
                    self._note(number, pair)
                    yield pair
            for (
                origin
            ) in reading.origins:  # as the recipe names them: a card says nothing of the machine it was built on
                origin.location = origin.location.replace(reading.source.location, given.path, 1)
            counts.origins = reading.origins

    def _claim(self, pair_id: str, number: int) -> None:
        """Ids begin with the source's name; two inputs of one format must not share it."""
        owner = self._ids.setdefault(hashlib.blake2b(pair_id.encode(), digest_size=8).digest(), number)
        if owner != number:
            paths = " and ".join(self._inputs[i].path for i in (owner, number))
            raise DataError(f"{paths} both hold a pair with id {pair_id}; give one of these inputs another name.")

    def _fault_of(self, item: Read, given: Input) -> str | None:
        if isinstance(item, Dropped):
            return item.reason
        if (reason := fault_of(item)) is not None:
            return reason
        if item.label is None and self._recipe.labels == "required":
            return "no label (a tie, or never judged)"
        if item.label is not None and given.min_margin is not None and (item.margin or 0.0) < given.min_margin:
            return f"margin below {given.min_margin:g}"
        if item.subset in given.drop_subsets:
            return "subset left out by the recipe"
        size = sum(len(m.content) for m in item.prompt.messages) + len(item.response_a) + len(item.response_b)
        if self._recipe.max_chars is not None and size > self._recipe.max_chars:
            return f"longer than {self._recipe.max_chars} characters"
        if (overlap := self._overlap_of(item.prompt)) is not None:
            rule, name = overlap
            self._overlaps[name, rule] += 1
            return f"asked by a benchmark ({rule})"
        return None

    def _note(self, source: int, pair: Pair) -> None:
        draw = hashlib.sha256(f"{self._recipe.seed}\x1f{pair.id}".encode()).digest()[:8]
        self._entries.append(_Entry(source, keys_of(pair), draw))
        self._duplicates.add(pair)
        if self._recipe.near_duplicates is not None:
            self._signatures.add(pair)

    def _near_duplicates(self) -> dict[int, int]:
        threshold = self._recipe.near_duplicates
        return {} if threshold is None else self._signatures.near_pairs(threshold)

    def _sides(self, near: dict[int, int]) -> list[Side | None]:
        """The side of each pair on the spool; None for those dropped here, which are counted."""
        faults = self._duplicates.faults()
        faults = dict.fromkeys(near, "near-duplicate") | faults
        groups = self._groups()
        names = [groups.name_of(entry.keys[0]) for entry in self._entries]
        held: dict[str, Side] = {}
        for entry, name in zip(self._entries, names, strict=True):
            side = self._inputs[entry.source].side
            if side is not None:
                held.setdefault(name, side)
        sides: list[Side | None] = []
        for index, (entry, name) in enumerate(zip(self._entries, names, strict=True)):
            wanted = self._inputs[entry.source].side or side_of(name, self._recipe.seed, self._recipe.fractions)
            if index not in faults and held.get(name, wanted) != wanted:
                faults[index] = f"its prompt is in the {held[name]} data"
            sides.append(None if index in faults else wanted)
        faults |= self._beyond_limit(sides)
        for index, reason in faults.items():
            self._counts[self._entries[index].source].dropped[reason] += 1
        return [None if index in faults else side for index, side in enumerate(sides)]

    def _groups(self) -> Groups:
        groups = Groups()
        for entry in self._entries:
            groups.tie(entry.keys)
        if self._recipe.near_duplicates is not None:
            for later, earlier in self._signatures.near_prompts(self._recipe.near_duplicates).items():
                groups.tie((self._entries[later].keys[0], self._entries[earlier].keys[0]))
        return groups

    def _beyond_limit(self, sides: list[Side | None]) -> dict[int, str]:
        """Pairs beyond the recipe's number for one prompt."""
        most = self._recipe.max_per_prompt
        if most is None:
            return {}
        prompts: dict[str, list[int]] = defaultdict(list)
        for index, entry in enumerate(self._entries):
            if sides[index] is not None:
                prompts[entry.keys[0]].append(index)
        drawn = (sorted(found, key=lambda index: self._entries[index].draw)[most:] for found in prompts.values())
        return {index: f"more than {most} pairs of one prompt" for beyond in drawn for index in beyond}

    def _write(self, side: Side, sides: list[Side | None]) -> SideStatistics:
        statistics = SideStatistics()

        def chosen() -> Iterator[Pair]:
            pairs = zip(read_pairs(self._folder / _SPOOL), self._entries, sides, strict=True)
            for pair, entry, wanted in _progress(pairs, f"writing {side}", total=len(sides)):
                if wanted == side:
                    statistics.add(pair)
                    self._counts[entry.source].kept[side] += 1
                    yield pair

        path = self._folder / f"{side}.jsonl"
        write_pairs(path, chosen())
        statistics.sha256 = sha256_of(path)
        return statistics

    def _reasons(self) -> str:
        total: Counter[str] = sum((counts.dropped for counts in self._counts), Counter())
        return ", ".join(f"{reason} ({count})" for reason, count in total.most_common())

"""The data card: what was read, what was dropped and why, what came out. Written beside every data set that is built.

Three files: ``card.json`` (everything, for programs), ``card.md`` (for people) and ``lengths.png``. The same recipe and
the same sources give the same bytes: there is no date in them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.data.pairs import Pair
from training.data.sources import Origin

PERCENTILES = (5, 25, 50, 75, 95, 99, 100)


@dataclass(slots=True)
class SourceCounts:
    """One input: pairs (and rows without one) read, dropped by reason, kept by side."""

    path: str
    name: str
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    origins: list[Origin] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.name or next((origin.format for origin in self.origins if origin.format), self.path)


@dataclass(slots=True)
class SideStatistics:
    """One written file: labels, lengths in characters, and how far length alone explains the labels."""

    sha256: str = ""
    labels: Counter[str] = field(default_factory=Counter)
    prompts: set[str] = field(default_factory=set)
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"prompt": [], "better": [], "worse": []})
    longer_wins: float = 0.0

    def add(self, pair: Pair) -> None:
        """Of an unlabelled pair, the first response counts as the better one in lengths, and in nothing else."""
        asked = "\n".join(message.content for message in pair.prompt.messages)
        better, worse = (pair.response_b, pair.response_a) if pair.label == "b" else (pair.response_a, pair.response_b)
        self.labels[pair.label or "none"] += 1
        self.prompts.add(asked)
        for name, text in (("prompt", asked), ("better", better), ("worse", worse)):
            self.lengths[name].append(len(text))
        if pair.label is not None:
            self.longer_wins += 0.5 if len(better) == len(worse) else float(len(better) > len(worse))

    @property
    def pairs(self) -> int:
        return sum(self.labels.values())

    @property
    def labelled(self) -> int:
        return self.labels["a"] + self.labels["b"]

    @property
    def length_accuracy(self) -> tuple[float, float] | None:
        """Accuracy of choosing the longer response (equal lengths count half), and its 95 % half-width (normal)."""
        if not self.labelled:
            return None
        accuracy = self.longer_wins / self.labelled
        return accuracy, 1.96 * math.sqrt(accuracy * (1.0 - accuracy) / self.labelled)

    def summary(self) -> dict[str, Any]:
        accuracy = self.length_accuracy
        return {
            "pairs": self.pairs,
            "prompts": len(self.prompts),
            "labels": dict(sorted(self.labels.items())),
            "length_only_accuracy": None if accuracy is None else round(accuracy[0], 4),
            "length_only_half_width": None if accuracy is None else round(accuracy[1], 4),
            "characters": {name: percentiles(found) for name, found in self.lengths.items()},
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Card:
    """``overlaps``: pairs dropped for each benchmark and rule; ``compared``: pairs looked at for near-duplicates."""

    recipe: dict[str, Any]
    sources: list[SourceCounts]
    sides: dict[Any, SideStatistics]
    benchmark_prompts: int
    overlaps: dict[str, int]
    near_duplicates: int
    compared: int

    @property
    def totals(self) -> dict[str, int]:
        read, kept = sum(s.read for s in self.sources), sum(s.pairs for s in self.sides.values())
        return {"read": read, "dropped": sum(self.dropped.values()), "kept": kept}

    @property
    def dropped(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.dropped)
        return total

    @property
    def near_duplicate_share(self) -> float:
        return self.near_duplicates / self.compared if self.compared else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "totals": self.totals,
            "dropped": dict(self.dropped.most_common()),
            "near_duplicate_share": round(self.near_duplicate_share, 5),
            "benchmark_prompts": self.benchmark_prompts,
            "overlaps": self.overlaps,
            "sides": {name: side.summary() for name, side in self.sides.items()},
            "sources": [
                {
                    "name": source.title,
                    "path": source.path,
                    "read": source.read,
                    "dropped": dict(source.dropped.most_common()),
                    "kept": dict(sorted(source.kept.items())),
                    "files": [asdict(origin) for origin in source.origins],
                }
                for source in self.sources
            ],
            "recipe": self.recipe,
        }

    def write(self, folder: Path) -> None:
        """``card.json`` and ``card.md`` into a folder that exists; `training.data.card_plot` draws ``lengths.png``."""
        text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
        (folder / "card.json").write_text(text + "\n", encoding="utf-8")
        (folder / "card.md").write_text("\n".join(markdown(self)) + "\n", encoding="utf-8")


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """Nearest-rank percentiles; {} of nothing."""
    ranked = sorted(values)
    return {str(p): ranked[max(0, math.ceil(p / 100 * len(ranked)) - 1)] for p in PERCENTILES} if ranked else {}


def markdown(card: Card) -> Iterator[str]:
    totals = card.totals
    yield "# Data card\n"
    yield f"{totals['read']:,} pairs read, {totals['dropped']:,} dropped, {totals['kept']:,} kept.\n"
    yield "![Lengths, and what became of each source](lengths.png)\n"
    yield from _sides(card)
    yield from _sources(card)
    yield from _drops(card)
    yield "## Files\n"
    yield from table(("file", "format", "rows", "sha256"), _files(card))
    yield "\n## Recipe\n"
    yield f"```json\n{json.dumps(card.recipe, indent=2, ensure_ascii=False)}\n```"


def _sides(card: Card) -> Iterator[str]:
    yield "## What came out\n"
    rows = []
    for name, side in card.sides.items():
        accuracy = side.length_accuracy
        longer = "-" if accuracy is None else f"{accuracy[0]:.3f} +- {accuracy[1]:.3f}"
        lengths = (_middle_and_tail(side.lengths[kind]) for kind in ("prompt", "better", "worse"))
        labels = "/".join(f"{side.labels[label]:,}" for label in ("a", "b", "none"))
        rows.append((name, f"{side.pairs:,}", f"{len(side.prompts):,}", labels, *lengths, longer))
    heads = ("side", "pairs", "prompts", "labels a/b/none", "prompt", "better", "worse", "the longer one is better")
    yield from table(heads, rows)
    yield "\nLengths are characters, median / 95th percentile. Picking the longer response is the accuracy to beat.\n"


def _sources(card: Card) -> Iterator[str]:
    yield "## Where it came from\n"
    rows = []
    for source in card.sources:
        kept = (f"{source.kept[side]:,}" for side in ("train", "validation", "test"))
        rows.append((source.title, source.path, f"{source.read:,}", f"{sum(source.dropped.values()):,}", *kept))
    yield from table(("source", "path", "read", "dropped", "train", "validation", "test"), rows)
    yield "\nRead: pairs, and rows that were left out before they made any.\n"


def _drops(card: Card) -> Iterator[str]:
    yield "## What was dropped\n"
    rows = []
    for reason, count in card.dropped.most_common():
        where = ", ".join(f"{s.title} {s.dropped[reason]:,}" for s in card.sources if s.dropped[reason])
        rows.append((reason, f"{count:,}", where))
    yield from table(("reason", "pairs", "of"), rows)
    share = f"{card.near_duplicates:,} of {card.compared:,} pairs compared ({100 * card.near_duplicate_share:.2f} %)"
    yield f"\nNear-duplicates, equal ones included: {share}.\n"
    if card.benchmark_prompts:
        yield f"Overlap with {card.benchmark_prompts:,} benchmark prompts (different wordings), in pairs dropped:\n"
        yield from table(("benchmark: rule", "pairs"), [(name, f"{n:,}") for name, n in card.overlaps.items()])
        yield ""


def _files(card: Card) -> list[tuple[str, ...]]:
    read: list[tuple[str, ...]] = [
        (origin.location, origin.format, f"{origin.rows:,}", origin.sha256)
        for source in card.sources
        for origin in source.origins
    ]
    return read + [(f"{name}.jsonl", "pairs", f"{s.pairs:,}", s.sha256) for name, s in card.sides.items()]


def _middle_and_tail(values: Sequence[int]) -> str:
    found = percentiles(values)
    return f"{found['50']:,} / {found['95']:,}" if found else "-"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

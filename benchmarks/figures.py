"""Small statistics and the report they end up in: a table for people, one JSON line for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine

DOCS = Path(__file__).parents[1] / "docs" / "measurements.md"
INTRODUCTION = (
    "# Measurements\n\n"
    "Written by `python -m benchmarks NAME --write-docs`, oldest first. Rates belong to the machine named; ratios\n"
    "carry further.\n"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A promised figure and what was measured. ``sense`` says on which side of ``bound`` it must lie."""

    what: str
    measured: float
    sense: Literal[">=", "<="]
    bound: float

    @property
    def holds(self) -> bool:
        """NaN never holds."""
        return self.measured >= self.bound if self.sense == ">=" else self.measured <= self.bound

    def __str__(self) -> str:
        return f"{self.what}: {self.measured:.4g} ({self.sense} {self.bound:g}: {'holds' if self.holds else 'MISSED'})"


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement: what was run, its table, its promises, and every raw figure behind them."""

    name: str
    summary: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[Bar]
    raw: Mapping[str, Any] | Sequence[Any]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def holds(self) -> bool:
        return all(bar.holds for bar in self.bars)

    def show(self) -> None:
        """Table and promises, then the JSON line."""
        console = Console(width=None if sys.stdout.isatty() else 150)
        table = Table(*self.headers, title=f"{self.name}: {self.summary}", title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for line in (*map(str, self.bars), *self.notes):
            console.print(line, highlight=False, markup=False)
        print(self.json_line(), flush=True)

    def json_line(self) -> str:
        bars = [asdict(bar) | {"holds": bar.holds} for bar in self.bars]
        return json.dumps({"measurement": self.name, "bars": bars, "raw": self.raw, "machine": describe_machine()})

    def markdown(self) -> str:
        machine = describe_machine()
        where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines = [
            f"## {self.name}, {machine['date']}",
            "",
            f"{self.summary} Machine: {where}; {versions}; commit {machine['commit']}.",
            "",
            *_markdown_table(self.headers, self.rows),
            "",
            *(f"- {line}" for line in (*map(str, self.bars), *self.notes)),
            "",
            f"<details><summary>raw figures</summary>\n\n```json\n{json.dumps(self.raw)}\n```\n\n</details>",
        ]
        return "\n".join(lines) + "\n"

    def append_to(self, page: Path, introduction: str = INTRODUCTION) -> None:
        """Add this measurement at the end of a page, which is begun if it does not exist."""
        page.parent.mkdir(exist_ok=True)
        before = page.read_text() if page.exists() else introduction
        page.write_text(f"{before}\n{self.markdown()}")


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Round by round, so that a machine that slows down for one round slows both sides of a ratio."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(ratios(numerators, denominators))


def largest_gap(left: Iterable[float | None], right: Iterable[float | None]) -> float:
    """The largest absolute difference; a number beside None is an infinite one, None beside None is none."""
    gap = 0.0
    for a, b in zip(left, right, strict=True):
        if (a is None) != (b is None):
            return float("inf")
        if a is not None and b is not None:
            gap = max(gap, abs(a - b))
    return gap


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]

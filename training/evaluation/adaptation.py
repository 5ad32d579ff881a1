"""An adaptation curve as a table and a picture: what a judge makes of a new domain against the pairs it was given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from training.evaluation.statistics import Interval

matplotlib.use("Agg")


@dataclass(frozen=True, slots=True)
class Point:
    """A size of the curve: accuracy of the two orders' mean with its 95 % interval, and the run's other figures."""

    pairs: int
    accuracy: Interval
    flip_rate: float
    ece: float
    loss: float
    checkpoint: str


def write_curve(points: Sequence[Point], directory: Path) -> None:
    """The table for people and for programs, and the picture."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "curve.json").write_text(json.dumps([asdict(p) for p in points], indent=1) + "\n", encoding="utf-8")
    (directory / "curve.md").write_text(table(points), encoding="utf-8")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes, accuracy = [p.pairs for p in points], [p.accuracy for p in points]
    below, above = [a.value - a.low for a in accuracy], [a.high - a.value for a in accuracy]
    axes.errorbar(sizes, [a.value for a in accuracy], [below, above], marker="o", capsize=3)
    axes.axhline(0.5, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="labelled pairs of the new domain", ylabel="accuracy, both orders averaged (95 %)")
    axes.set_title(f"{accuracy[0].clusters:,} held-out prompts")
    axes.grid(alpha=0.3)
    figure.savefig(directory / "curve.png", dpi=120)


def table(points: Sequence[Point]) -> str:
    """The curve in Markdown."""
    rows = [
        f"| {p.pairs:,} | {p.accuracy} | {p.flip_rate:.3f} | {p.ece:.3f} | {p.loss:.3f} | `{p.checkpoint}` |"
        for p in points
    ]
    head = (
        "| pairs | accuracy, two orders [95 %] | flips | ECE | loss, nats | checkpoint |\n|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"

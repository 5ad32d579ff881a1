"""Training curves of a finetune run, drawn from its history file: ``python -m training curves HISTORY PICTURE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")

_SMOOTH = 25


def draw_curves(history: Path, picture: Path) -> None:
    """Left: training losses, averaged over 25 steps. Right: what the periodic held-out evaluation saw."""
    rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, bars = figure.subplots(1, 2)
    for key, name in (
        ("ranking", "label: smoothed ranking loss"),
        ("written", "rationale: loss per token"),
        ("verdict", "helper: verdict per response"),
        ("chosen", "helper: better response as text"),
    ):
        points = [(row["step"], row[key]) for row in rows if key in row]
        losses.plot(*_smoothed(points), label=name)
    losses.set(xlabel="step", ylabel="nats", ylim=(0, 1.5), title="training")
    seen = [row for row in rows if "by_task" in row]
    steps = [row["step"] for row in seen]
    for key, name in (
        ("accuracy", "label accuracy (two orders)"),
        ("rationale_accuracy", "rationale accuracy"),
        ("flip_rate", "flips between orders"),
        ("label_mass", "label mass"),
    ):
        bars.plot(steps, [row[key] for row in seen], marker="o", label=name)
    bars.set(xlabel="step", ylim=(0, 1.02), title="held-out pairs")
    for axes in (losses, bars):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=90)


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Means over consecutive groups of points."""
    chunks = [points[i : i + _SMOOTH] for i in range(0, len(points), _SMOOTH)]
    return [c[len(c) // 2][0] for c in chunks], [sum(v for _, v in c) / len(c) for c in chunks]

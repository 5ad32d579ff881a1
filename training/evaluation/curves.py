"""Training curves of a run, drawn from its history file: ``python -m training curves HISTORY PICTURE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.data.pairs import DataError

matplotlib.use("Agg")

LOSSES = {
    "responses": "both responses: loss a token",
    "label": "label: smoothed ranking loss",
    "reward": "reward: ranking loss",
    "text": "text regulariser",
    "judgment": "judgment: loss a token",
    "label_mass_loss": "label mass: -log(p(A) + p(B))",
    "verdict": "helper: verdict per response",
    "chosen": "helper: better response as text",
    "ranking": "label: smoothed ranking loss",
    "written": "rationale: loss per token",
}
"""Terms by their names in the history; the last two are those of the demo judge's first recipe."""
FIGURES = {
    "accuracy": "accuracy (two orders)",
    "accuracy_one_order": "accuracy (one order)",
    "rationale_accuracy": "rationale accuracy",
    "flip_rate": "flips between orders",
    "label_mass": "label mass",
    "ece": "calibration error",
}


def draw_curves(history: Path, picture: Path) -> None:
    """Left: training losses, smoothed. Right: what periodic evaluation of held-out pairs saw. Raises `DataError`."""
    try:
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise DataError(f"{history} does not exist; a run writes it with its first saved state.") from error
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    for key, name in LOSSES.items():
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), float)]
        if points:
            losses.plot(*_smoothed(points), label=name)
    losses.set(xlabel="step", ylabel="nats", ylim=(0, None), title="training")
    for key, name in FIGURES.items():
        seen = _evaluated(rows, key)
        if seen:
            figures.plot(*zip(*seen, strict=True), marker="o", markersize=4, label=name)
    figures.set(xlabel="step", ylim=(-0.02, 1.02), title="held-out pairs")
    for axes in (losses, figures):
        _finish(axes)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)


def _evaluated(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of an evaluation figure, under the trainer's name for it or the demo's own."""
    found = []
    for row in rows:
        value = row.get(f"eval_{key}", row.get(key) if "by_task" in row else None)
        if value is not None:
            found.append((row["step"], value))
    return found


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing was logged", ha="center", transform=axes.transAxes)


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """A running mean over a fortieth of the run, one point for each logged step."""
    window = max(1, len(points) // 40)
    values = [value for _, value in points]
    means = [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    return [step for step, _ in points], means

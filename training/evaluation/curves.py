"""Training curves, drawn from the history files of a run's stages: ``python -m training curves HISTORY... PICTURE``."""

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
}
"""Terms by their names in the history."""
FIGURES = {
    "accuracy": "accuracy (two orders)",
    "accuracy_one_order": "accuracy (one order)",
    "flip_rate": "flips between orders",
    "label_mass": "label mass",
    "ece": "calibration error",
}


def draw_curves(histories: Sequence[Path], picture: Path) -> None:
    """Left: training losses, smoothed. Right: what periodic evaluation of held-out pairs saw.

    Several histories are stages of one run: drawn one after the other, a dotted line where the next begins. Raises
    `DataError` for a file that is missing.
    """
    rows, borders = _joined(histories)
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    losses, figures = figure.subplots(1, 2, sharex=True)
    for key, name in LOSSES.items():
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), float)]
        if points:
            losses.plot(*_smoothed(points), label=name)
    losses.set(xlabel="step", ylabel="nats", yscale="log", title="training")
    for key, name in FIGURES.items():
        seen = [(row["step"], row[f"eval_{key}"]) for row in rows if f"eval_{key}" in row]
        if seen:
            figures.plot(*zip(*seen, strict=True), marker="o", markersize=4, label=name)
    figures.set(xlabel="step", ylim=(-0.02, 1.02), title="held-out pairs")
    for axes in (losses, figures):
        _finish(axes, borders)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)


def _joined(histories: Sequence[Path]) -> tuple[list[dict[str, Any]], list[int]]:
    """All rows, steps counted on from stage to stage, and the steps at which a stage follows another."""
    rows: list[dict[str, Any]] = []
    borders: list[int] = []
    for history in histories:
        try:
            lines = history.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise DataError(f"{history} does not exist; a run writes it with its first saved state.") from error
        before = max((row["step"] for row in rows), default=0)
        borders += [before] if before else []
        rows += [row | {"step": row["step"] + before} for row in map(json.loads, lines)]
    return rows, borders


def _finish(axes: Axes, borders: Sequence[int]) -> None:
    axes.grid(alpha=0.3)
    for step in borders:
        axes.axvline(step, color="grey", linestyle=":")
    if axes.lines:
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    else:
        axes.text(0.5, 0.5, "nothing was logged", ha="center", transform=axes.transAxes)


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """A running mean over a fortieth of the run, one point for each logged step."""
    window = max(1, len(points) // 40)
    values = [value for _, value in points]
    means = [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    return [step for step, _ in points], means

"""The memory of a run as a picture: each way of sharding a bar, each part a colour, the card a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.estimate import GB, Memory, Run, Sharding, memory

COLORS = ("#1d4ed8", "#60a5fa", "#bfdbfe", "#059669", "#d97706", "#dc2626", "#9ca3af", "#a78bfa", "#111827")
PARTS = tuple(field.name for field in fields(Memory))


def table(run: Run) -> Mapping[Sharding, Memory]:
    """The run's memory under every kind of sharding."""
    return {kind: memory(replace(run, sharding=kind)) for kind in get_args(Sharding)}


def draw_memory(run: Run, path: Path) -> None:
    """Write the picture; the run's own sharding is set in bold."""
    needs = table(run)
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    left = dict.fromkeys(needs, 0.0)
    for part, color in zip(PARTS, COLORS, strict=True):
        widths = {kind: need.parts[part] / GB for kind, need in needs.items()}
        if not any(widths.values()):
            continue
        axes.barh(list(needs), list(widths.values()), 0.62, list(left.values()), color=color, label=part)
        left = {kind: left[kind] + widths[kind] for kind in needs}
    for place, total in enumerate(left.values()):
        axes.text(total, place, f" {total:.0f}", va="center", fontsize=8)
    card = run.gpu.memory / GB
    axes.axvline(card, color="#111827", linewidth=1.2, linestyle="--")
    axes.text(card, -0.75, f"{run.gpu.name} ", ha="right", va="center", fontsize=8)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == run.sharding else "normal")
    axes.set(xlabel="GB on each GPU", xlim=(0, 1.08 * max(card, *left.values())), ylim=(len(needs) - 0.5, -1.1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{run.architecture.hub}, {run.gpus} GPUs, {run.rows} x {run.row_tokens} tokens on each", fontsize=10
    )
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})

"""A run as a picture: how the judges do, what became of each round's labels, and how many of these are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.evaluation.statistics import wilson_interval

BLUE, GREEN, ORANGE, RED, GREY, DARK = "#2563eb", "#059669", "#d97706", "#dc2626", "#9ca3af", "#374151"
Counts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Accuracy of each judge on ``pairs`` held-out pairs, and by round the figures of its votes and its proofs."""

    accuracy: Mapping[str, float]
    pairs: int
    votes: Mapping[int, Counts]
    proofs: Mapping[int, Counts]


def draw_rounds(rounds: Rounds, path: Path) -> None:
    """Write the picture: two panels for a run with rounds, one for a control."""
    panels = (_accuracy, _labels) if rounds.votes else (_accuracy,)
    figure = Figure(figsize=(5.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        panel(axes, rounds)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
    part.replace(path)


def _accuracy(axes: Axes, rounds: Rounds) -> None:
    places = range(len(rounds.accuracy))
    values = list(rounds.accuracy.values())
    ends = [wilson_interval(value * rounds.pairs, rounds.pairs) for value in values]
    errors = [[v - low for v, (low, _) in zip(values, ends, strict=True)]]
    errors.append([high - v for v, (_, high) in zip(values, ends, strict=True)])
    axes.errorbar(places, values, errors, fmt="o-", color=BLUE, ecolor=GREY, capsize=3, markersize=5)
    for place, value in zip(places, values, strict=True):
        axes.annotate(f"{value:.2f}", (place, value), (6, 5), textcoords="offset points", fontsize=8, color=DARK)
    axes.set_xticks(list(places), list(rounds.accuracy))
    axes.margins(x=0.12)
    axes.set_ylim(min(0.4, *(low for low, _ in ends)), 1.02)
    axes.set_ylabel("accuracy", fontsize=9)
    axes.set_title(f"Judged in writing, both orders (n = {rounds.pairs}, 95 %)", fontsize=9, loc="left")


def _labels(axes: Axes, rounds: Rounds) -> None:
    """What became of the unlabelled pairs; the share of right labels stands above the bars."""
    names = [f"round {number}" for number in rounds.votes]
    parts = {"became a judgment": GREEN, "no proof was good enough": ORANGE, "label too uncertain": RED}
    below = [0] * len(names)
    for (name, color), counts in zip(parts.items(), zip(*map(_parts, *_both(rounds)), strict=True), strict=True):
        axes.bar(names, counts, 0.55, below, color=color, label=name)
        below = [b + c for b, c in zip(below, counts, strict=True)]
    for place, (votes, top) in enumerate(zip(rounds.votes.values(), below, strict=True)):
        if known := votes["kept_gold_known"]:
            text = f"right: {votes['kept_right'] / known:.2f} of kept"
            if votes["gold_known"]:
                text += f"\n{votes['right'] / votes['gold_known']:.2f} of decided"
            axes.annotate(text, (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=DARK)
    axes.set_ylim(0, max(below) * 1.5)
    axes.set_ylabel("unlabelled pairs", fontsize=9)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", ncols=1)
    axes.set_title("What became of unlabelled pairs", fontsize=9, loc="left")


def _both(rounds: Rounds) -> tuple[list[Counts], list[Counts]]:
    return list(rounds.votes.values()), list(rounds.proofs.values())


def _parts(votes: Counts, proofs: Counts) -> tuple[int, int, int]:
    """Of all pairs read. A pair proved in both orders counts by its part of the claims."""
    proved = round(votes["kept"] * proofs["judgments"] / max(1, proofs["claims"]))
    return proved, votes["kept"] - proved, votes["read"] - votes["kept"]

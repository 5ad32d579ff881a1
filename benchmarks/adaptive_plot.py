"""The picture of `benchmarks.adaptive`: hit rate against the share of comparisons, one panel a noise level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.statistics import wilson_interval

MARKERS = {"adaptive": "o", "swiss": "s", "knockout": "^", "linear": "v", "pivot": "D"}

Point = tuple[str, float, float, int, int]
"""Plan, noise (nats), share of all comparisons, hits, cases."""


def draw_plot(points: Sequence[Point], share: float, path: Path) -> None:
    """Plans with several budgets become a line. ``share`` is the promised bound, dotted."""
    noises = sorted({noise for _, noise, *_ in points})
    figure = Figure(figsize=(5.2 * len(noises), 4.2), layout="constrained")
    panels = figure.subplots(1, len(noises), sharey=True, squeeze=False)[0]
    for axes, noise in zip(panels, noises, strict=True):
        for plan, marker in MARKERS.items():
            _draw_plan(axes, sorted(point[2:] for point in points if point[:2] == (plan, noise)), plan, marker)
        axes.axvline(share, color="grey", linewidth=1, linestyle=":")
        axes.set_title("the judge as it is" if noise == 0 else f"log-odds noise of sd {noise:g} in every pair")
        axes.set_xlabel("mean share of all 120 comparisons")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("picks the very best of all pairs (95 % interval)")
    panels[0].legend(loc="lower right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_plan(axes: Axes, points: Sequence[tuple[float, int, int]], plan: str, marker: str) -> None:
    if not points:
        return
    shares, rates = [share for share, _, _ in points], [hits / cases for _, hits, cases in points]
    ends = [wilson_interval(hits, cases) for _, hits, cases in points]
    errors = [
        [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)],
        [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)],
    ]
    line = "-" if len(points) > 1 else "none"
    axes.errorbar(shares, rates, yerr=errors, marker=marker, markersize=5, capsize=3, linestyle=line, label=plan)

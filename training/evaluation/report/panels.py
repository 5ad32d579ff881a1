"""The report's pictures: each panel draws itself into one axes, alone for the page or beside the others."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.evaluation.report.findings import Findings
from training.evaluation.statistics import CalibrationBin, Interval, wilson_interval

RIGHT, WRONG, FLIP, RULE, INK = "#2563eb", "#dc2626", "#d97706", "#6b7280", "#111827"
MOST_DIVISIONS = 24
DPI = 150
LEAST_OUTSIDE = 1e-6
"""Where the axis of label mass begins; less is drawn there."""

Panel = Callable[[Axes, Findings], None]


def draw_accuracy(axes: Axes, found: Findings) -> None:
    """Each subset's accuracy with its interval; all pairs and the length rule as lines."""
    rows: list[tuple[str, Interval, str]] = [
        ("length rule", found.length.longer_wins, RULE),
        ("both orders right", found.both, INK),
        ("one order", found.single, INK),
        ("two-order average", found.accuracy, RIGHT),
    ]
    shown = found.divisions[:MOST_DIVISIONS]
    rows = [(f"{d.name[:34]} ({d.pairs:,})", d.accuracy, RIGHT) for d in reversed(shown)] + rows
    for place, (_, interval, color) in enumerate(rows):
        axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=1.6, alpha=0.55)
        axes.plot(interval.value, place, "o", color=color, markersize=5)
    axes.axvline(found.accuracy.value, color=RIGHT, linewidth=0.8, alpha=0.35)
    axes.axvline(0.5, color=RULE, linewidth=0.8, linestyle=":")
    if shown:
        axes.axhline(len(shown) - 0.5, color="#e5e7eb", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    low = min(0.45, min(interval.low for _, interval, _ in rows) - 0.02)
    axes.set(xlim=(max(-0.02, low), 1.02), xlabel="accuracy, 95 % interval", title="Accuracy")


def draw_orders(axes: Axes, found: Findings) -> None:
    """A pair a point: the better response's log-odds shown first against shown second. Off the diagonal: position."""
    points = np.array(found.orders)
    most = float(max(2.0, min(20.0, np.quantile(np.abs(points), 0.99) * 1.15)))
    both_right, both_wrong = (points > 0).all(axis=1), (points < 0).all(axis=1)
    flips = ~(both_right | both_wrong)
    inside = np.clip(points, -most, most)
    size = 9.0 if len(points) < 2000 else 4.0
    for chosen, color, name in (
        (both_right, RIGHT, "right in both orders"),
        (flips, FLIP, "the order decides"),
        (both_wrong, WRONG, "wrong in both orders"),
    ):
        share = f"{chosen.mean():.1%} {name}"
        axes.scatter(
            inside[chosen, 0],
            inside[chosen, 1],
            s=size,
            color=color,
            alpha=0.45,
            linewidths=0,
            label=share,
            rasterized=True,
        )
    axes.axhline(0, color=RULE, linewidth=0.8)
    axes.axvline(0, color=RULE, linewidth=0.8)
    axes.plot([-most, most], [-most, most], color=RULE, linewidth=0.8, linestyle=":")
    axes.set(xlim=(-most, most), ylim=(-most, most), xlabel="shown first, nats", ylabel="shown second, nats")
    axes.set_aspect("equal")
    axes.set_title("Log-odds of the better response")
    axes.legend(fontsize=7.5, loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")


def draw_reliability(axes: Axes, found: Findings) -> None:
    """Accuracy against stated confidence, before and after the temperature; a larger dot holds more pairs."""
    if found.calibration is None:
        _nothing(axes, "Calibration", "too few pairs")
        return
    axes.plot([0.5, 1], [0.5, 1], color=RULE, linewidth=0.8, linestyle=":")
    measured, after = found.calibration.measured, found.calibration.after
    for one in measured.bins:
        low, high = wilson_interval(one.accuracy * one.count, one.count)
        axes.plot([one.confidence] * 2, [low, high], color=RIGHT, linewidth=1.2, alpha=0.35)
    _dots(axes, measured.bins, RIGHT, f"as judged: ECE {measured.ece:.3f}")
    cooled = f"divided by {measured.temperature:.2f}: ECE {found.calibration.ece_after:.3f}"
    _dots(axes, after.bins, FLIP, cooled)
    axes.set(xlim=(0.49, 1.01), ylim=(-0.02, 1.04), xlabel="confidence", ylabel="accuracy, 95 % interval")
    axes.set_title("Calibration")
    axes.legend(fontsize=7.5, loc="lower left", frameon=False)


def _dots(axes: Axes, bins: Sequence[CalibrationBin], color: str, name: str) -> None:
    total = sum(one.count for one in bins)
    sizes = [12 + 90 * one.count / total for one in bins]
    places = [one.confidence for one in bins], [one.accuracy for one in bins]
    axes.scatter(*places, sizes, color=color, alpha=0.85, linewidths=0, zorder=3)
    axes.plot([], [], "o", color=color, markersize=5, label=name)


def draw_length(axes: Axes, found: Findings) -> None:
    """Accuracy where the better response is shorter (left) and longer (right). A length-biased judge rises."""
    bins = found.length.bins
    x = [one.doublings for one in bins]
    axes.fill_between(x, [b.accuracy.low for b in bins], [b.accuracy.high for b in bins], color=RIGHT, alpha=0.15)
    axes.plot(x, [b.accuracy.value for b in bins], "o-", color=RIGHT, markersize=4, linewidth=1.4, label="judge")
    widest = max(1.0, *(abs(value) for value in x)) * 1.08
    axes.plot([-widest, 0, 0, widest], [0, 0, 1, 1], color=RULE, linewidth=1, label="the longer one wins")
    axes.axvline(0, color=RULE, linewidth=0.8, linestyle=":")
    axes.set(xlim=(-widest, widest), ylim=(-0.02, 1.04), ylabel="accuracy")
    axes.set(xlabel="doublings of length, better against worse", title="Length")
    axes.legend(fontsize=7.5, loc="lower right", frameon=False)


def draw_position(axes: Axes, found: Findings) -> None:
    """How much each pair's log-odds lean to the response shown first, and the mean with its interval."""
    values, bias = np.array(found.position.per_pair), found.position.bias
    most = float(max(0.5, np.quantile(np.abs(values), 0.99) * 1.1, abs(bias.high), abs(bias.low)))
    axes.hist(np.clip(values, -most, most), bins=41, range=(-most, most), color="#93c5fd")
    axes.axvline(0, color=RULE, linewidth=0.8)
    axes.axvspan(bias.low, bias.high, color=FLIP, alpha=0.3, linewidth=0)
    axes.axvline(
        bias.value, color=FLIP, linewidth=1.5, label=f"mean {bias.value:+.2f} [{bias.low:+.2f}, {bias.high:+.2f}]"
    )
    axes.set(xlim=(-most, most), xlabel="nats towards the response shown first", ylabel="pairs", title="Position")
    axes.legend(fontsize=7.5, frameon=False)


def draw_mass(axes: Axes, found: Findings) -> None:
    """How much of the model's probability went to a label at all; the rest wanted to say something else."""
    if not found.label_mass:
        _nothing(axes, "Label mass", "this judge reads no label")
        return
    outside = np.clip(1.0 - np.array(found.label_mass), LEAST_OUTSIDE, 1.0)
    edges = np.logspace(np.log10(LEAST_OUTSIDE), 0, 41)
    axes.hist(outside, bins=edges.tolist(), color="#93c5fd")
    high = float(np.quantile(outside, 0.95))
    axes.axvline(high, color=FLIP, linewidth=1.5, label=f"5 % of the pairs lie above {high:.2g}")
    axes.axvline(0.5, color=RULE, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlim=(LEAST_OUTSIDE, 1), xlabel="probability of anything but A or B", ylabel="pairs")
    axes.set_title("Label mass")
    axes.legend(fontsize=7.5, frameon=False, loc="upper right")


def _nothing(axes: Axes, title: str, why: str) -> None:
    axes.set_title(title)
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=RULE, transform=axes.transAxes)


PANELS: Mapping[str, Panel] = {
    "accuracy": draw_accuracy,
    "orders": draw_orders,
    "calibration": draw_reliability,
    "length": draw_length,
    "position": draw_position,
    "label_mass": draw_mass,
}


def pictures(found: Findings) -> dict[str, bytes]:
    """Every panel as a PNG of its own, and ``overview`` with all of them."""
    made = {}
    for name, draw in PANELS.items():
        rows = 4 + min(len(found.divisions), MOST_DIVISIONS)
        size = (
            (5.2, max(3.4, 0.27 * rows + 1)) if name == "accuracy" else (5.2, 4.6) if name == "orders" else (5.2, 3.4)
        )
        figure = Figure(figsize=size, layout="constrained")
        _draw(figure.subplots(), draw, found)
        made[name] = _png(figure)
    figure = Figure(figsize=(13.5, 7.6), layout="constrained")
    for axes, draw in zip(figure.subplots(2, 3).flat, PANELS.values(), strict=True):
        _draw(axes, draw, found)
    made["overview"] = _png(figure)
    return made


def _draw(axes: Any, draw: Panel, found: Findings) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    draw(axes, found)
    axes.title.set_fontsize(10.5)
    axes.title.set_fontweight("bold")


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()

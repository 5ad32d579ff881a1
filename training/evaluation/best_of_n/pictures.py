"""The over-optimisation picture: both scores against n, and what each way of choosing costs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.evaluation.best_of_n.study import Curve, Study

PROXY, ORACLE, GREY = "#2563eb", "#d97706", "#6b7280"
PLANS = ("#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2", "#4b5563")
MARKS = "osD^vP"


def draw(result: Study, path: Path, title: str) -> None:
    """Left: proxy and oracle of the chosen sample against n, with the KL spent. Right: the oracle's score each way of
    choosing reaches for its comparisons, where there are several."""
    panels = (_curves, _costs) if len(result.curves) > 1 else (_curves,)
    figure = Figure(figsize=(5.75 * len(panels) + (len(panels) == 1), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        panel(axes, result)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
    part.replace(path)


def _curves(axes: Axes, result: Study) -> None:
    main = result.curves[0]
    sizes = [point.n for point in main.points]
    for name, color in (("proxy", PROXY), ("oracle", ORACLE)):
        values = [getattr(point, name) for point in main.points]
        axes.fill_between(
            sizes, [v.low for v in values], [v.high for v in values], color=color, alpha=0.15, linewidth=0
        )
        axes.plot(sizes, [v.value for v in values], "o-", color=color, markersize=4, label=_NAMES[name])
    axes.axhline(result.reference_oracle.value, color=GREY, linewidth=0.9, linestyle=":", label="greedy, by the oracle")
    axes.axhline(result.ceiling.value, color=GREY, linewidth=0.9, linestyle="--", label="best of all, by the oracle")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{point.n}\n{point.kl:.2f}" for point in main.points], fontsize=8)
    axes.set(xlabel="n, and KL from the policy in nats (upper bound)", ylabel="score of the chosen sample")
    _plain(axes, "Chosen by the score against the greedy response")


_NAMES = {"proxy": "proxy: P(better than greedy)", "oracle": "oracle"}


def _costs(axes: Axes, result: Study) -> None:
    for i, curve in enumerate(result.curves):
        _cost(axes, curve, PLANS[i % len(PLANS)], MARKS[i % len(MARKS)])
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set(xlabel="comparisons a prompt (each in both orders)", ylabel="oracle's score of the chosen sample")
    ticks = sorted(
        {2**i for i in range(12) if 2**i <= 1.3 * max(p.comparisons for c in result.curves for p in c.points)}
    )
    axes.set_xticks([0, *ticks], [str(t) for t in (0, *ticks)], fontsize=8)
    _plain(axes, "What each way of choosing gets for its comparisons")


def _cost(axes: Axes, curve: Curve, color: str, mark: str) -> None:
    x = [point.comparisons for point in curve.points]
    y = [point.oracle for point in curve.points]
    axes.fill_between(x, [v.low for v in y], [v.high for v in y], color=color, alpha=0.1, linewidth=0)
    axes.plot(x, [v.value for v in y], mark + "-", color=color, markersize=4, linewidth=1.2, label=curve.name)


def _plain(axes: Axes, title: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)

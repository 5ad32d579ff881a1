"""A study's page: verdicts first, then the picture, the tables, every comparison, and how to run it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.studies.comparisons import Comparison, Values, over_seeds

matplotlib.use("Agg")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, distinct for most colour-blind eyes."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of a page."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> list[str]:
        lines = [self.headers, ["---"] * len(self.headers), *self.rows]
        return [f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""]


@dataclass(frozen=True, slots=True)
class Report:
    """What a study says: sentences, families of comparisons by what they ask, tables, one picture."""

    title: str
    question: str
    verdicts: Sequence[str]
    families: Mapping[str, Sequence[Comparison]]
    grids: Sequence[Grid]
    picture: Figure


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a report's numbers come from: results under ``folder``, so many of so many, and the command."""

    folder: Path
    command: str
    finished: int
    planned: int
    processor_seconds: float


def write_report(report: Report, origin: Origin, page: Path) -> None:
    """Write the page and, beside it, its picture under the same name."""
    page.parent.mkdir(parents=True, exist_ok=True)
    picture = page.with_suffix(".png")
    report.picture.savefig(picture, dpi=130)
    page.write_text("\n".join(_lines(report, origin, picture.name)) + "\n", encoding="utf-8")


def _lines(report: Report, origin: Origin, picture: str) -> list[str]:
    lines = [f"# {report.title}", "", report.question, ""]
    if origin.finished < origin.planned:
        lines += [
            f"**Unfinished: {origin.finished} of {origin.planned} runs.** What follows is what they say so far.",
            "",
        ]
    lines += [*(f"- {verdict}" for verdict in report.verdicts), "", f"![{report.title}]({picture})", ""]
    lines += ["Means over seeds with 95 % intervals (Student's t).", ""]
    for grid in report.grids:
        lines += grid.markdown()
    lines += ["## Comparisons", ""]
    lines += [
        "First minus second, paired by seed (weights, labels, order and test set), with 95 % interval; p corrected",
        "by Holm within each family; *detectable*: the smallest true difference found 4 times in 5 at p < 0.05 before",
        "that correction.",
        "",
    ]
    for name, family in report.families.items():
        lines += [f"**{name}**", "", *(f"- {comparison}" for comparison in family), ""]
    return [*lines, *_provenance(origin)]


def _provenance(origin: Origin) -> list[str]:
    pinned = json.loads((origin.folder / "setup.json").read_text(encoding="utf-8"))
    machine = ", ".join(f"{name} {value}" for name, value in pinned["machine"].items())
    return [
        "## How to run it again",
        "",
        f"    {origin.command}",
        "",
        f"{origin.finished} runs, {origin.processor_seconds / 60:.0f} minutes of processor time in all, one thread "
        f"each. Machine: {machine}.",
        "",
        f"<details><summary>setup</summary>\n\n```json\n{json.dumps(pinned['setup'], indent=1)}\n```\n\n</details>",
    ]


def shown(values: Values) -> str:
    """ "0.861 ± 0.012"; a dash for nothing, no interval for one seed."""
    found = over_seeds(values)
    if found is None:
        return "-"
    return f"{found.value:.3f}" if found.clusters == 1 else f"{found.value:.3f} ± {found.high - found.value:.3f}"


def new_figure(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure and its panels, row by row."""
    figure = Figure(figsize=(4.3 * columns, 3.7 * rows), layout="constrained")
    return figure, [list(row) for row in figure.subplots(rows, columns, squeeze=False)]


def draw_series(
    axes: Axes, xs: Sequence[float], series: Mapping[str, Sequence[Values]], *, place: int = 0, line: bool = True
) -> None:
    """One line with intervals for each name, coloured from ``place`` on; missing points are left out."""
    for number, (name, points) in enumerate(series.items(), start=place):
        found = [(x, interval) for x, values in zip(xs, points, strict=True) if (interval := over_seeds(values))]
        if not found:
            continue
        means = [interval.value for _, interval in found]
        halves = [interval.high - interval.value if interval.clusters > 1 else 0.0 for _, interval in found]
        axes.errorbar(
            [x for x, _ in found],
            means,
            yerr=halves,
            label=name,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            capsize=2.5,
            linewidth=1.4,
            linestyle="-" if line else "none",
        )


def finish(axes: Axes, *, title: str, xlabel: str, ylabel: str, chance: float | None = None) -> None:
    """Labels, a light grid and, dotted, the level of guessing. What is drawn are shares: intervals may leave [0, 1]."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    if chance is not None:
        axes.axhline(chance, color="grey", linewidth=1, linestyle=":")

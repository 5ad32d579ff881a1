"""Results as people read them: a markdown table and a picture of each benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.results import Result, ScoreLine
from training.evaluation.statistics import Interval

matplotlib.use("Agg")

COLUMNS = {
    "two_orders": "two orders, averaged",
    "single_order": "single order",
    "both_orders": "both orders right",
    "valid_only": "two orders, valid only",
    "length": "longer wins",
}
_INK, _MUTED, _GRID = "#1f4e79", "#8a8a8a", "#e4e4e4"


def markdown(result: Result, *, details: bool = True) -> str:
    """The result's page: scores in per cent with 95 % intervals, then what qualifies them, then the files."""
    lines = [line for line in result.scores if details or line.headline]
    harness = COLUMNS.get(result.official)
    official = f" The benchmark's own harness counts as **{harness}**." if harness else ""
    parts = [
        f"## {result.title}: {result.judge}",
        "",
        *(_warnings(result)),
        "Per cent, 95 % intervals clustered by prompt." + official,
        "",
        "| score | pairs or lists | prompts | " + " | ".join(COLUMNS.values()) + " |",
        "|---|--:|--:|" + "--:|" * len(COLUMNS),
        *(_row(line) for line in lines),
        "",
        *_qualifiers(result),
        *(["", *_files(result)] if details else _file_summary(result)),
    ]
    return "\n".join(parts) + "\n"


def _warnings(result: Result) -> list[str]:
    notes = []
    if result.limit is not None:
        notes.append(f"**A trial on about {result.limit} pairs, not the whole.**")
    notes += [
        f"**{line.name}: without {_listed(line.missing)}.**" for line in result.scores if line.headline and line.missing
    ]
    if any(record.known is False for record in result.files):
        notes.append("**A file is not the published one; this is not comparable with published scores.**")
    return [text for note in notes for text in (note, "")]


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def summary(results: Sequence[Result]) -> str:
    """The headline of each benchmark, one row each."""
    names = [key for key in COLUMNS if key != "valid_only"]
    rows = [
        "| benchmark | score | pairs | " + " | ".join(COLUMNS[key] for key in names) + " | invalid | orders disagree |",
        "|---|---|--:|" + "--:|" * (len(names) + 2),
    ]
    for result in results:
        line, health = result.headline, result.health
        cells = [_percent(getattr(line, key)) for key in names]
        rates = [f"{100 * rate.value:.1f}" if rate else "-" for rate in (health.invalid, health.flips)]
        title = result.title + (" (trial)" if result.limit is not None else "")
        rows.append(f"| {title} | {line.title} | {health.pairs:,} | " + " | ".join([*cells, *rates]) + " |")
    return "\n".join(rows) + "\n"


def _row(line: ScoreLine) -> str:
    name = f"**{line.title}**" if line.headline else line.title
    cells = [_percent(getattr(line, key)) for key in COLUMNS]
    return f"| {name} | {line.units:,} | {line.prompts:,} | " + " | ".join(cells) + " |"


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _qualifiers(result: Result) -> list[str]:
    health = result.health
    errors = ", ".join(f"{code} {count:,}" for code, count in health.errors.items())
    lines = [
        f"- judge: `{result.version}`; positions shuffled with seed {result.seed}, both orders judged",
        f"- {health.pairs:,} pairs; invalid {_percent(health.invalid)}" + (f" ({errors})" if errors else ""),
    ]
    if health.flips is not None:
        lines.append(f"- the two orders contradict each other in {_percent(health.flips)} of the valid pairs")
    if health.first is not None:
        lines.append(f"- an order prefers the response it shows first in {100 * health.first:.1f}")
    if health.label_mass is not None:
        lines.append(f"- label mass {health.label_mass:.4f}")
    if health.ties or result.identical:
        lines.append(
            f"- {health.ties:,} exact ties, counted as wrong; {result.identical:,} pairs of identical responses"
        )
    return lines


_CONTENT = {True: "as published", False: "CHANGED", None: "unknown"}


def _file_summary(result: Result) -> list[str]:
    counts = Counter(_CONTENT[record.known] for record in result.files)
    return [f"- files: {', '.join(f'{count} {content}' for content, count in counts.items())}"] if counts else []


def _files(result: Result) -> list[str]:
    shown = [f"| `{f.file}` | {f.rows:,} | `{f.sha256[:16]}` | {_CONTENT[f.known]} |" for f in result.files]
    return ["| file | rows | sha256 | content |", "|---|--:|---|---|", *shown] if shown else []


def picture(result: Result, path: Path) -> None:
    """Headline scores with intervals, the length baseline and the single-order accuracy beside each."""
    lines = [line for line in result.scores if line.headline]
    figure = Figure(figsize=(8.5, 1.9 + 0.42 * len(lines)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(lines))
    axes.axvline(50, color=_GRID, linewidth=1.2, zorder=0)
    axes.scatter([100 * x.length.value for x in lines], rows, marker="|", s=160, color=_MUTED, label="longer wins")
    axes.scatter(
        [100 * x.single_order.value for x in lines],
        rows,
        facecolors="white",
        edgecolors=_INK,
        s=46,
        label="single order",
        zorder=3,
    )
    _dots(axes, lines)
    axes.set_yticks(list(rows), [fill(f"{line.title}  ({line.units:,})", 44) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(-0.8, 100.8)  # a dot at 100 is a whole dot
    axes.set_xlabel("accuracy, per cent (number of pairs or lists in brackets)")
    trial = f", trial on about {result.limit} pairs" if result.limit is not None else ""
    axes.set_title(f"{result.title}: {result.judge}{trial}", fontsize=11, loc="left")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _dots(axes: Axes, lines: Sequence[ScoreLine]) -> None:
    found = [line.two_orders for line in lines]
    low = [100 * (x.value - x.low) for x in found]
    high = [100 * (x.high - x.value) for x in found]
    axes.errorbar(
        [100 * x.value for x in found],
        range(len(lines)),
        xerr=[low, high],
        fmt="o",
        color=_INK,
        markersize=6,
        capsize=3,
        label="two orders averaged, 95 % interval",
        zorder=4,
    )

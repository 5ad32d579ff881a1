"""Measured beside published: one line a score, and whether the published number lies in the measured interval.

The interval is of the measured score (95 %, clustered by prompt). A published number inside it *agrees*: with these
prompts the two cannot be told apart. One outside *differs*, and the line says by how much. The published number has an
error of its own, which is rarely printed; as it is of the same prompts, most of it is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from training.evaluation.results import Result
from training.evaluation.statistics import Interval
from training.evaluation.tables import COLUMNS
from training.evaluation.verify.published import Published

Finding = Literal["agrees", "differs", "incomplete", "not published"]


@dataclass(frozen=True, slots=True)
class Line:
    """``published`` None: nobody printed this score. ``incomplete``: parts of the benchmark's data are missing here."""

    benchmark: str
    score: str
    pairs: int
    measured: Interval
    published: float | None
    finding: Finding

    def as_json(self) -> dict[str, Any]:
        interval = self.measured
        return {
            "benchmark": self.benchmark,
            "score": self.score,
            "pairs": self.pairs,
            "measured": interval.value,
            "low": interval.low,
            "high": interval.high,
            "published": self.published,
            "finding": self.finding,
        }


def compare(results: Sequence[Result], published: Published | None) -> list[Line]:
    """The headline scores of each result, counted as the published ones are (without any: as the benchmark's own
    harness counts)."""
    lines = []
    for result in results:
        figures = published.figures.get(result.benchmark, {}) if published else {}
        counting = published.counting if published else result.official
        for line in result.scores:
            if not line.headline and line.name not in figures:
                continue
            measured: Interval = getattr(line, counting)
            known = figures.get(line.name)
            finding = _finding(measured, known, complete=not line.missing)
            lines.append(Line(result.title, line.title, line.units, measured, known, finding))
    return lines


def _finding(measured: Interval, published: float | None, *, complete: bool) -> Finding:
    if published is None:
        return "not published"
    if not complete:
        return "incomplete"
    rounding = 0.0005  # published to a tenth of a per cent
    return "agrees" if measured.low - rounding <= published <= measured.high + rounding else "differs"


def page(lines: Sequence[Line], results: Sequence[Result], published: Published | None, model: str) -> str:
    """Markdown, for terminal and file."""
    first = results[0]
    parts = [f"# {model}, measured and published", ""]
    if first.limit is not None:
        parts += [
            f"**A trial on about {first.limit} pairs of each benchmark: the intervals are wide, and say so.**",
            "",
        ]
    parts += [
        f"Per cent, counted as {_counted(results, published)}; 95 % intervals clustered by prompt. "
        f"Judge `{first.version}`.",
        "",
        "| benchmark | score | pairs | measured | published | |",
        "|---|---|--:|--:|--:|---|",
        *(_row(line) for line in lines),
        "",
        *(_sources(published) if published else ["Nothing is published of this judge that could be compared."]),
        *(f"- {result.title}: {_invalid(result)}" for result in results),
    ]
    return "\n".join(parts) + "\n"


def verdict(lines: Sequence[Line]) -> str:
    """One sentence."""
    findings = [line.finding for line in lines]
    compared = findings.count("agrees") + findings.count("differs")
    if not compared:
        return "Nothing was compared: no published score of this judge is complete here."
    return f"{findings.count('agrees')} of {compared} published scores agree, {findings.count('differs')} differ."


def _counted(results: Sequence[Result], published: Published | None) -> str:
    """What makes a pair right: in all benchmarks the same, or in each its own."""
    ways = {result.title: COLUMNS[published.counting if published else result.official] for result in results}
    if len(set(ways.values())) == 1:
        return f"**{next(iter(ways.values()))}**"
    return "in each benchmark's own harness (" + "; ".join(f"{title}: **{way}**" for title, way in ways.items()) + ")"


def _row(line: Line) -> str:
    interval = line.measured
    measured = f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    shown = "-" if line.published is None else f"{100 * line.published:.1f}"
    told: str = line.finding
    if line.published is not None and line.finding == "differs":
        told = f"**differs** by {100 * (interval.value - line.published):+.1f}"
    return f"| {line.benchmark} | {line.score} | {line.pairs:,} | {measured} | {shown} | {told} |"


def _sources(published: Published) -> list[str]:
    return [f"- published: {published.source}", *([f"- {published.note}"] if published.note else [])]


def _invalid(result: Result) -> str:
    health = result.health
    errors = ", ".join(f"{code} {count}" for code, count in health.errors.items())
    return f"{health.pairs:,} pairs, {100 * health.invalid.value:.1f} % without a verdict" + (
        f" ({errors})" if errors else ""
    )

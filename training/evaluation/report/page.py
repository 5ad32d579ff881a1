"""The report as files: one HTML page that needs nothing else, its markdown twin, the pictures and the raw numbers."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.evaluation.report.findings import Findings
from training.evaluation.report.panels import pictures
from training.evaluation.report.story import Card, Example, Section, Subject, cards, examples, sections
from training.evaluation.report.throughput import Spent

_TEMPLATES = Path(__file__).parent


def write_report(output: Path, found: Findings, spent: Spent, subject: Subject) -> None:
    """``report.html``, ``report.md``, ``report.json`` and ``plots/`` below ``output``; each file whole or absent."""
    drawn = pictures(found)
    told = cards(found, spent, subject), sections(found, spent, subject), examples(found.worst)
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for name, picture in drawn.items():
        _replace(output / "plots" / f"{name}.png", picture)
    _replace(output / "report.html", html(subject, *told, drawn).encode())
    _replace(output / "report.md", markdown(subject, *told).encode())
    _replace(output / "report.json", json.dumps(numbers(found, spent, subject), indent=1).encode())


def html(
    subject: Subject,
    card: Sequence[Card],
    section: Sequence[Section],
    example: Sequence[Example],
    drawn: Mapping[str, bytes],
) -> str:
    """The page. Every text is escaped by the template engine, and the page allows itself no script and no address."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    encoded = {name: b64encode(picture).decode() for name, picture in drawn.items()}
    return environment.get_template("page.html.j2").render(
        subject=subject, cards=card, sections=section, examples=example, pictures=encoded
    )


def markdown(subject: Subject, card: Sequence[Card], section: Sequence[Section], example: Sequence[Example]) -> str:
    """The same words; pictures by their files."""
    lines = [f"# {cell(subject.judge)}", ""]
    lines += [
        f"Judge {cell(subject.version)} at {cell(subject.where)}; pairs {cell(subject.data)}, sha256 {subject.sha256}; "
    ]
    lines += [f"{subject.date}. Every pair in both orders; intervals are 95 %, clustered by prompt.", ""]
    lines += table([("", "", ""), *((one.label, one.value, one.note) for one in card)])
    lines += ["", "![all panels](plots/overview.png)", ""]
    for part in section:
        lines += [f"## {part.title}", "", *(line for sentence in part.sentences for line in (sentence, ""))]
        lines += [*table([part.headers, *part.rows]), ""] if part.rows else []
    lines += ["## Where it is surest and wrong", ""]
    rows = [(one.id, one.confidence, one.prompt, one.better, one.preferred) for one in example]
    heads = ("pair", "p of the worse", "prompt", "better, by the label", "the judge prefers")
    lines += table([heads, *rows]) if rows else ["It was not wrong once."]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table, the first row its head."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def cell(text: str) -> str:
    """A text that cannot leave its cell: no markup, no links, no line ends."""
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "&#92;"), ("|", "&#124;")):
        text = text.replace(mark, safe)
    for mark in "`*_[]!":
        text = text.replace(mark, f"\\{mark}")
    return "<br>".join(text.splitlines())


def numbers(found: Findings, spent: Spent, subject: Subject) -> dict[str, Any]:
    """Everything for programs; what belongs to single pairs is in the answers file."""
    left_out = ("orders", "worst", "label_mass")
    kept: dict[str, Any] = {key: value for key, value in asdict(found).items() if key not in left_out}
    kept["position"].pop("per_pair")
    rates = {
        "pairs_per_second": spent.pairs_per_second,
        "tokens_per_second": spent.tokens_per_second,
        "dollars_per_thousand": spent.cost_per_thousand(subject.hardware_price),
    }
    whole: dict[str, Any] = _finite({"subject": asdict(subject), "findings": kept, "spent": asdict(spent) | rates})
    return whole


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

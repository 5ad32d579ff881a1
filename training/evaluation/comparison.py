"""Two judges on the same benchmark: which is better, by how much, and could it be chance.

Two intervals that overlap say little: both judges saw the same pairs, and most of the noise is the pairs'. The paired
test looks at the pairs that only one of them got right. Every pair (or list) weighs the same here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.evaluation.answers import read_rows
from training.evaluation.judges.base import EvaluationError
from training.evaluation.results import load_result
from training.evaluation.statistics import mcnemar, paired_test

Answers = dict[tuple[str, str], dict[str, Any]]
"""By item and what was shown of it: another position is another question."""


def compare(first: Path, second: Path) -> str:
    """A page of markdown. Raises `EvaluationError` for results that are not about the same items."""
    results = [_result(path) for path in (first, second)]
    answers = [_answers(path, result) for path, result in zip((first, second), results, strict=True)]
    if results[0]["benchmark"] != results[1]["benchmark"]:
        raise EvaluationError(f"{first} is about {results[0]['title']}, {second} about {results[1]['title']}.")
    shared = sorted(answers[0].keys() & answers[1].keys())
    if not shared:
        raise EvaluationError("The two results share no items (other data, or another --seed); evaluate both alike.")
    units = [_right(answers[i], shared) for i in (0, 1)]
    group_of = {_unit(answers[0][shown]): answers[0][shown]["group"] for shown in shared}
    names = list(group_of)
    test = paired_test([units[0][n] for n in names], [units[1][n] for n in names], [group_of[n] for n in names])
    left = (len(answers[0]) - len(shared), len(answers[1]) - len(shared))
    low, high = 100 * test.low, 100 * test.high
    lines = [
        f"## {results[0]['title']}: {results[0]['judge']} against {results[1]['judge']}",
        "",
        f"- {len(names):,} pairs or lists that both judged, {test.clusters:,} prompts"
        + (f"; {left[0]:,} and {left[1]:,} judged by one only are left out" if any(left) else ""),
        f"- right by two orders averaged: {_mean(units[0]):.1f} % and {_mean(units[1]):.1f} %",
        f"- difference {100 * test.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}",
        f"- only the first right: {test.first_only:,}; only the second: {test.second_only:,}",
        f"- p = {test.p:.4f} (sign-flip test, whole prompts together); McNemar, as if all pairs were independent: "
        f"p = {mcnemar(test.first_only, test.second_only):.4f}",
    ]
    return "\n".join(lines) + "\n"


def _result(path: Path) -> dict[str, Any]:
    try:
        return load_result(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as a result ({error}).") from error


def _answers(path: Path, result: dict[str, Any]) -> Answers:
    """The judge's answers beside its result, by item and what was shown."""
    rows = read_rows(path.with_name(f"{result['benchmark']}.answers.jsonl"))
    found = {(row["id"], row["shown"]): row for row in rows if row["judge"] == result["version"]}
    if not found:
        raise EvaluationError(f"There are no answers beside {path}; keep {result['benchmark']}.answers.jsonl with it.")
    return found


def _unit(row: dict[str, Any]) -> str:
    return str(row.get("unit") or row["id"])


def _right(answers: Answers, shared: list[tuple[str, str]]) -> dict[str, float]:
    """Each unit's value by two orders averaged; a failed judgment is wrong."""
    units: dict[str, float] = {}
    for shown in shared:
        row = answers[shown]
        p = row.get("p_first", 0.5)
        right = float(p > 0.5 if row["label"] == "a" else p < 0.5)
        units[_unit(row)] = min(units.get(_unit(row), 1.0), right)
    return units


def _mean(units: dict[str, float]) -> float:
    return 100 * sum(units.values()) / len(units)

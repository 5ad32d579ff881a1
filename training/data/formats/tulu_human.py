"""Tulu's human evaluation (arXiv 2306.04751), a spreadsheet: two models' completions and a verdict in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.data.formats.base import Format, Read, Row
from training.data.pairs import PairLabel

EXAMPLE = {
    "prompt": "Name a prime number.",
    "model_a": "one",
    "model_b": "another",
    "completion_a": "7 is prime.",
    "completion_b": "9 is prime.",
    "preference": "a-is-slightly-better",
    "evaluator": "somebody",
}

_LABELS: dict[Any, PairLabel | None] = {
    "a-is-better": "a",
    "a-is-slightly-better": "a",
    "tie": None,
    "b-is-slightly-better": "b",
    "b-is-better": "b",
}


def read(row: Row) -> Iterator[Read]:
    """The margin is 1 for slightly better and 2 for better. Two people may have judged the same two completions."""
    label = row.choice("preference", _LABELS)
    margin = 1.0 if "slightly" in row.text("preference") else 2.0
    yield row.pair(
        row.text("prompt"),
        row.text("completion_a"),
        row.text("completion_b"),
        label,
        margin=margin if label else None,
    )


FORMAT = Format(
    "tulu_human",
    "prompt, two completions, preference in words",
    frozenset({"prompt", "completion_a", "completion_b", "preference"}),
    EXAMPLE,
    read,
)

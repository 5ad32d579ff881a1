"""Auto-J's pairwise test (arXiv 2310.05470): human verdicts over 58 scenarios, ties included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.data.formats.base import Format, Read, Row
from training.data.pairs import PairLabel

EXAMPLE = {
    "scenario": "math_reasoning",
    "label": 0,
    "prompt": "Name a prime number.",
    "response 1": "7 is prime.",
    "response 2": "9 is prime.",
}

_LABELS: dict[Any, PairLabel | None] = {0: "a", 1: "b", 2: None}


def read(row: Row) -> Iterator[Read]:
    """Label 2 is a tie: a pair without a label."""
    label = row.choice("label", _LABELS)
    first, second = row.text("response 1"), row.text("response 2")
    yield row.pair(row.text("prompt"), first, second, label, subset=row.text("scenario"))


FORMAT = Format("autoj", "prompt, response 1, response 2, label 0/1/2", frozenset(EXAMPLE), EXAMPLE, read)

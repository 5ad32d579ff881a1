"""Scored answers of many models to one prompt (the repacked arena-bench-v1): every two whose scores differ by 2 or more
are a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "question_id": "invented",
    "prompt": "Name a prime number.",
    "reference": "7",
    "responses": [
        {"model": "one", "answer": "7 is prime.", "gpt4_score": 9.0},
        {"model": "another", "answer": "9 is prime.", "gpt4_score": 2.0},
        {"model": "unscored", "answer": "11 is prime.", "gpt4_score": None},
    ],
}

LEAST_GAP = 2.0
"""Scores of 1 to 10 by one model judge: smaller differences are mostly noise."""


def read(row: Row) -> Iterator[Read]:
    """Answers without a score are left out; the margin is the difference of the scores."""
    scored = [item for item in (_scored(row, *numbered) for numbered in enumerate(row.sequence("responses"))) if item]
    for (i, first, x), (j, second, y) in combinations(scored, 2):
        if abs(x - y) >= LEAST_GAP:
            label = "a" if x > y else "b"
            yield row.pair(row.text("prompt"), first, second, label, part=f"{i}-{j}", margin=abs(x - y))  # type: ignore[arg-type]


def _scored(row: Row, index: int, response: object) -> tuple[int, str, float] | None:
    if not isinstance(response, Mapping) or not isinstance(response.get("answer"), str):
        raise row.fault("responses", f"entry {index + 1} must have an answer, which is a text.")
    score = response.get("gpt4_score")
    return None if score is None else (index, str(response["answer"]), float(score))


FORMAT = Format(
    "arena_bench",
    "a prompt, scored answers of many models",
    frozenset({"prompt", "responses"}),
    EXAMPLE,
    read,
)

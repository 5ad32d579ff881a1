"""Fine-grained RLHF's long-form answers (arXiv 2306.01693): four to a question, and every two of them compared."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "question": "When did the bridge open?",
    "passages": [["The bridge", "The bridge opened in 1932."]],
    "gold": "It opened in 1932.",
    "prediction 1": "It opened in 1932.",
    "prediction 2": "In 1932.",
    "prediction 3": "It opened in 1923.",
    "prediction 4": "The bridge is long.",
    "preference": [0, 1, 1, 1, 1, 1],
}


def read(row: Row) -> Iterator[Read]:
    """``preference`` is in the order 12, 13, 14, 23, 24, 34: 1 the first is better, 2 the second, 0 neither.

    Answers that nobody told apart make no pair. The passages are left out: the question alone is the prompt.
    """
    verdicts = row.sequence("preference")
    if len(verdicts) != 6 or any(verdict not in (0, 1, 2) for verdict in verdicts):
        raise row.fault("preference", "must hold six numbers, each 0, 1 or 2.")
    for (i, j), verdict in zip(combinations((1, 2, 3, 4), 2), verdicts, strict=True):
        if verdict:
            texts = row.text(f"prediction {i}"), row.text(f"prediction {j}")
            yield row.pair(row.text("question"), *texts, "a" if verdict == 1 else "b", part=f"{i}{j}")


FORMAT = Format(
    "finegrained_qa",
    "a question, four predictions, six preferences",
    frozenset({"question", "prediction 1", "prediction 4", "preference"}),
    EXAMPLE,
    read,
)

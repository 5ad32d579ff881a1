"""PandaLM's test set (arXiv 2306.05087): three people each say 1, 2 or 0 (tie)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from training.data.formats.base import Format, Read, Row
from training.data.pairs import PairLabel

EXAMPLE = {
    "idx": 0,
    "instruction": "Name a prime number.",
    "input": "",
    "response1": "7 is prime.",
    "response2": "9 is prime.",
    "annotator1": 1,
    "annotator2": 1,
    "annotator3": 0,
}

_ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def read(row: Row) -> Iterator[Read]:
    """The majority's label; none for a tie or for three opinions. The margin is the winner's votes: 3 is unanimous.

    A few cells of the published file are no texts (a spreadsheet made TRUE and FALSE of them): such rows are dropped.
    """
    verdicts = [row.choice(name, {0: None, 1: "a", 2: "b"}) for name in _ANNOTATORS]
    label, votes = _majority(verdicts)
    first, second = row.value("response1"), row.value("response2")
    if not isinstance(first, str) or not isinstance(second, str):
        yield row.dropped("a response is not a text")
        return
    prompt = "\n\n".join(part for part in (row.text("instruction"), row.text("input")) if part)
    yield row.pair(prompt, first, second, label, margin=float(votes) if label else None)


def _majority(verdicts: list[PairLabel | None]) -> tuple[PairLabel | None, int]:
    label, votes = Counter(verdicts).most_common(1)[0]
    return (label, votes) if votes > 1 else (None, votes)


FORMAT = Format(
    "pandalm",
    "instruction, input, two responses, three annotators",
    frozenset(EXAMPLE) - {"idx"},
    EXAMPLE,
    read,
)

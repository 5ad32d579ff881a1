"""Binarised UltraFeedback (arXiv 2310.01377, 2310.16944): prompt, chosen and rejected with their scores, which stand in
columns of their own or under ``metadata``. The margin is the difference of the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from training.data.formats.base import Format, Read, Row
from training.data.pairs import Pair

EXAMPLE = {
    "prompt": "Name a prime number.",
    "chosen": "7 is prime.",
    "rejected": "9 is prime.",
    "metadata": {"score_chosen": 9.0, "score_rejected": 2.5},
}

_SCORES = ("score_chosen", "score_rejected")


def read(row: Row) -> Iterator[Read]:
    """Equal scores are a tie, which the makers' order broke, not a judgment: a pair without a label."""
    chosen, rejected = (_score(row, name) for name in _SCORES)
    if chosen < rejected:
        yield row.dropped("the rejected response has the higher score")
        return
    for item in row.chosen_and_rejected(row.conversation("prompt"), margin=chosen - rejected):
        yield replace(item, label=None) if isinstance(item, Pair) and chosen == rejected else item


def _score(row: Row, name: str) -> float:
    value = row.data.get(name, row.data.get("metadata", {}).get(name))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.fault(name, "must be a number, in a column of its own or under metadata.")
    return float(value)


def _fits(row: Mapping[str, Any]) -> bool:
    meta = row.get("metadata")
    return _SCORES[0] in row or (isinstance(meta, Mapping) and _SCORES[0] in meta)


FORMAT = Format(
    "ultrafeedback",
    "prompt, chosen, rejected with scores",
    frozenset({"prompt", "chosen", "rejected"}),
    EXAMPLE,
    read,
    _fits,
)

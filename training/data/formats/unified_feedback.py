"""Unified-Feedback: two conversations and a rating for each; GRAM's stage-1 data and in-distribution test."""

from __future__ import annotations

from collections.abc import Iterator

from service.types import Prompt
from training.data.formats.base import Format, Read, Row
from training.data.pairs import PairLabel

EXAMPLE = {
    "id": "invented-1",
    "source": "invented",
    "conv_A": [
        {"role": "user", "content": "Name a prime number."},
        {"role": "assistant", "content": "7 is prime."},
    ],
    "conv_A_rating": 1.0,
    "conv_B": [
        {"role": "user", "content": "Name a prime number."},
        {"role": "assistant", "content": "9 is prime."},
    ],
    "conv_B_rating": 0.0,
}


def read(row: Row) -> Iterator[Read]:
    """Equal ratings are ties: pairs without a label."""
    first, second = row.conversation("conv_A"), row.conversation("conv_B")
    for name, turns in (("conv_A", first), ("conv_B", second)):
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise row.fault(name, "must hold a prompt and end with the assistant's turn.")
    if first[:-1] != second[:-1]:
        yield row.dropped("responses answer different conversations")
        return
    gap = row.number_of("conv_A_rating") - row.number_of("conv_B_rating")
    label: PairLabel | None = None if gap == 0 else "a" if gap > 0 else "b"
    subset = row.data.get("source")
    yield row.pair(
        Prompt(first[:-1]),
        first[-1].content,
        second[-1].content,
        label,
        margin=abs(gap),
        subset=subset if isinstance(subset, str) else "",
    )


FORMAT = Format(
    "unified_feedback",
    "two rated conversations (Unified-Feedback)",
    frozenset({"conv_A", "conv_B", "conv_A_rating", "conv_B_rating"}),
    EXAMPLE,
    read,
)

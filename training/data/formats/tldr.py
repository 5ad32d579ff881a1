"""TL;DR summaries (arXiv 2009.01325), one comparison a row: a post, two summaries, the better one's letter.

The posts say nothing of the task; "TL;DR:" is put behind them, as in the prompts of the paper's own policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "id": "invented_1",
    "prompt": "My neighbour borrowed my ladder in May. It is October, and he painted it green. What do I say?",
    "response_a": " Neighbour kept my ladder for months and painted it. How do I bring it up?",
    "response_b": " I own a ladder.",
    "label": "A",
}

CUE = "\n\nTL;DR:"


def read(row: Row) -> Iterator[Read]:
    label = row.choice("label", {"A": "a", "B": "b"})
    yield row.pair(with_cue(row.text("prompt")), row.text("response_a"), row.text("response_b"), label)


def with_cue(post: str) -> str:
    return post if post.rstrip().endswith("TL;DR:") else post + CUE


def _fits(row: Mapping[str, Any]) -> bool:
    return row["label"] in ("A", "B")


FORMAT = Format("tldr", "a post, two summaries, A or B", frozenset(EXAMPLE) - {"id"}, EXAMPLE, read, _fits)

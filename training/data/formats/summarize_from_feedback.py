"""OpenAI's summarize_from_feedback comparisons (arXiv 2009.01325), as the authors publish them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.data.formats.base import Format, Read, Row
from training.data.formats.tldr import with_cue
from training.data.pairs import PairLabel

EXAMPLE = {
    "info": {"id": "t3_invented", "title": "The ladder", "post": "My neighbour borrowed my ladder ..."},
    "summaries": [
        {"text": " Neighbour kept my ladder and painted it.", "policy": "ref", "note": None},
        {"text": " I own a ladder.", "policy": "sup1", "note": None},
    ],
    "choice": 0,
}


def read(row: Row) -> Iterator[Read]:
    info = row.mapping("info")
    post = info.get("post") or info.get("article")
    if not isinstance(post, str):
        raise row.fault("info", "must hold the post (or article) as a text.")
    first, second = _summaries(row)
    labels: dict[Any, PairLabel | None] = {0: "a", 1: "b"}
    title = info.get("title")
    prompt = f"{title}\n\n{post}" if isinstance(title, str) and title else post
    yield row.pair(with_cue(prompt), first, second, row.choice("choice", labels))


def _summaries(row: Row) -> tuple[str, str]:
    texts = [summary.get("text") for summary in row.sequence("summaries") if isinstance(summary, dict)]
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise row.fault("summaries", "must hold two summaries with a text each.")
    return str(texts[0]), str(texts[1])


FORMAT = Format(
    "summarize_from_feedback",
    "info, summaries, choice (OpenAI's comparisons)",
    frozenset({"info", "summaries", "choice"}),
    EXAMPLE,
    read,
)

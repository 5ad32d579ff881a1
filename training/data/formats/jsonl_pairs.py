"""This project's own pairs (see `training.data.pairs`), so that what was built can be built on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from training.data.formats.base import Format, Read, Row
from training.data.pairs import pair_of_row

EXAMPLE = {
    "id": "mine/1",
    "prompt": "Name a prime number.",
    "response_a": "7",
    "response_b": "9",
    "label": "a",
    "source": "mine",
}


def read(row: Row) -> Iterator[Read]:
    pair = pair_of_row(f"{row.file}, row {row.number}", row.data, row.id())
    yield pair if pair.source else replace(pair, source=row.source)


def _fits(row: Mapping[str, Any]) -> bool:
    return row.get("label") in ("a", "b", None)


FORMAT = Format(
    "pairs",
    "this project's own pairs",
    frozenset({"prompt", "response_a", "response_b"}),
    EXAMPLE,
    read,
    _fits,
)

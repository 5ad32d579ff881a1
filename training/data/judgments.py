"""Written judgments of pairs, one for each row of a JSONL file: what a judge that writes before it decides learns from.

    {"pair": {"prompt": "2 + 2?", "response_a": "4", "response_b": "5", "label": "a"}, "order": "ab",
     "text": "<think>...</think>\\n<answer>A</answer>"}

``order`` is the one the text speaks of: "ba" shows B first, as assistant A.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.types import Order
from training.data.pairs import DataError, Pair, as_row, pair_of_row, read_objects, write_objects

_FIELDS = frozenset({"pair", "order", "text"})


@dataclass(frozen=True, slots=True)
class WrittenJudgment:
    """A labelled pair shown in one order, and what was written of it."""

    pair: Pair
    order: Order
    text: str


def read_judgments(path: Path) -> Iterator[WrittenJudgment]:
    """The judgments of a file, one at a time. Raises `DataError` naming file, row and field, for no rows too."""
    for row, data in read_objects(path):
        yield _judgment(f"{path}, row {row}", data, f"{path.stem}/{row}")


def write_judgments(path: Path, judgments: Iterable[WrittenJudgment]) -> int:
    """Write a file that is whole or absent; returns the number of rows."""
    rows = ({"pair": as_row(one.pair), "order": one.order, "text": one.text} for one in judgments)
    return write_objects(path, rows)


def _judgment(where: str, data: Mapping[str, Any], default_id: str) -> WrittenJudgment:
    if data.keys() != _FIELDS:
        raise DataError(f"{where}: must be a JSON object with the fields {', '.join(sorted(_FIELDS))} and no others.")
    if data["order"] not in ("ab", "ba"):
        raise DataError(f'{where}, field order: must be "ab" or "ba".')
    if not isinstance(data["text"], str) or not data["text"].strip():
        raise DataError(f"{where}, field text: must be a text that is not empty.")
    if not isinstance(data["pair"], dict):
        raise DataError(f"{where}, field pair: not a JSON object; every judgment needs its pair.")
    pair = pair_of_row(f"{where}, field pair", data["pair"], default_id)
    if pair.label is None:
        raise DataError(f"{where}, field pair.label: missing; a judgment decides for one response.")
    return WrittenJudgment(pair, data["order"], data["text"])

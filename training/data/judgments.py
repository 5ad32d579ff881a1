"""Written judgments of pairs, one for each row of a JSONL file: what a judge that writes before it decides learns from.

    {"pair": {"prompt": "2 + 2?", "response_a": "4", "response_b": "5", "label": "a"}, "order": "ab",
     "text": "<think>...</think>\\n<answer>A</answer>"}

``order`` is the one the text speaks of: "ba" shows B first, as assistant A.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.types import Order
from training.data.pairs import DataError, Pair, as_row, pair_of_row

_FIELDS = frozenset({"pair", "order", "text"})


@dataclass(frozen=True, slots=True)
class WrittenJudgment:
    """A labelled pair shown in one order, and what was written of it."""

    pair: Pair
    order: Order
    text: str


def read_judgments(path: Path) -> Iterator[WrittenJudgment]:
    """The judgments of a file, one at a time. Raises `DataError` naming file, row and field, for no rows too."""
    row = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for row, line in enumerate(lines, start=1):
                yield _judgment(path, row, line)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path.") from error
    if row == 0:
        raise DataError(f"{path} is empty; build it again, or name another file.")


def write_judgments(path: Path, judgments: Iterable[WrittenJudgment]) -> int:
    """Write a file that is whole or absent; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    count = 0
    try:
        with part.open("w", encoding="utf-8", newline="\n") as out:
            for item in judgments:
                row = {"pair": as_row(item.pair), "order": item.order, "text": item.text}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _judgment(path: Path, row: int, line: str) -> WrittenJudgment:
    where = f"{path}, row {row}"
    try:
        data: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); every row must be one JSON object.") from error
    if not isinstance(data, dict) or data.keys() != _FIELDS:
        raise DataError(f"{where}: must be a JSON object with the fields {', '.join(sorted(_FIELDS))} and no others.")
    if data["order"] not in ("ab", "ba"):
        raise DataError(f'{where}, field order: must be "ab" or "ba".')
    if not isinstance(data["text"], str) or not data["text"].strip():
        raise DataError(f"{where}, field text: must be a text that is not empty.")
    if not isinstance(data["pair"], dict):
        raise DataError(f"{where}, field pair: not a JSON object; every judgment needs its pair.")
    pair = pair_of_row(f"{where}, field pair", data["pair"], f"{path.stem}/{row}")
    if pair.label is None:
        raise DataError(f"{where}, field pair.label: missing; a judgment decides for one response.")
    return WrittenJudgment(pair, data["order"], data["text"])

"""Formats by name, and the format of a row nobody named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from training.data.formats import (
    arena_bench,
    autoj,
    conversations,
    finegrained_qa,
    flask,
    gram_json,
    hh_rlhf,
    jsonl_pairs,
    pandalm,
    preference,
    rewardbench_bon,
    sharegpt,
    summarize_from_feedback,
    tldr,
    tulu_human,
    ultrafeedback,
    unified_feedback,
)
from training.data.formats.base import Format
from training.data.pairs import DataError

# Where two formats fit a row, the one with more columns is meant, then the one listed first.
FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        jsonl_pairs.FORMAT,
        gram_json.STAGE2,
        gram_json.STAGE1,
        unified_feedback.FORMAT,
        hh_rlhf.FORMAT,
        conversations.FORMAT,
        ultrafeedback.FORMAT,
        preference.FORMAT,
        sharegpt.FORMAT,
        tldr.FORMAT,
        summarize_from_feedback.FORMAT,
        autoj.FORMAT,
        pandalm.FORMAT,
        tulu_human.FORMAT,
        finegrained_qa.FORMAT,
        arena_bench.FORMAT,
        rewardbench_bon.FORMAT,
        flask.FORMAT,
    )
}


def get_format(name: str) -> Format:
    """Raises `DataError` listing the formats."""
    if name not in FORMATS:
        raise DataError(f"Unknown format {name!r}; choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def detect(where: str, row: Mapping[str, Any]) -> Format:
    """The format of a row by its columns. Raises `DataError` naming the columns found and the formats known."""
    fitting = [known for known in FORMATS.values() if known.columns <= row.keys() and known.fits(row)]
    if not fitting:
        raise DataError(f"{where}: no format fits the columns {_names(row)}. Known formats: {_table()}.")
    return max(fitting, key=lambda known: len(known.columns))


def _names(columns: Iterable[Any]) -> str:
    return ", ".join(map(str, columns)) or "(none)"


def _table() -> str:
    return "; ".join(f"{known.name} ({_names(sorted(known.columns))})" for known in FORMATS.values())

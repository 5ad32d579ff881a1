"""Chosen and rejected as whole conversations, without a prompt column: Skywork-Reward-Preference-80K and its kin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from training.data.formats.base import Format, Read, Row
from training.data.pairs import Pair

EXAMPLE = {
    "chosen": [
        {"role": "user", "content": "Name a prime number."},
        {"role": "assistant", "content": "7 is prime."},
    ],
    "rejected": [
        {"role": "user", "content": "Name a prime number."},
        {"role": "assistant", "content": "9 is prime."},
    ],
    "source": "invented",
}


def read(row: Row) -> Iterator[Read]:
    """``source``, where it is there, becomes the subset: these sets are mixes of others."""
    subset = row.data.get("source")
    for item in row.chosen_and_rejected(()):
        yield replace(item, subset=subset) if isinstance(item, Pair) and isinstance(subset, str) else item


def _fits(row: Mapping[str, Any]) -> bool:
    return not isinstance(row["chosen"], str)


FORMAT = Format(
    "conversations",
    "chosen, rejected as lists of turns (Skywork-Reward-Preference)",
    frozenset({"chosen", "rejected"}),
    EXAMPLE,
    read,
    _fits,
)

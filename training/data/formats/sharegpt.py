"""ShareGPT-like preferences, as LLaMA-Factory's data sets have them: a conversation, then two turns to choose from."""

from __future__ import annotations

from collections.abc import Iterator

from service.types import Prompt
from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "conversations": [
        {"from": "human", "value": "Hi."},
        {"from": "gpt", "value": "Hello!"},
        {"from": "human", "value": "Name a prime number."},
    ],
    "chosen": {"from": "gpt", "value": "7 is prime."},
    "rejected": {"from": "gpt", "value": "9 is prime."},
}


def read(row: Row) -> Iterator[Read]:
    turns = row.conversation("conversations")
    if not turns:
        raise row.fault("conversations", "must hold at least one turn.")
    yield row.pair(Prompt(turns), _value(row, "chosen"), _value(row, "rejected"), "a")


def _value(row: Row, field: str) -> str:
    value = row.mapping(field).get("value")
    if not isinstance(value, str):
        raise row.fault(field, "must have a value, which is a text.")
    return value


FORMAT = Format(
    "sharegpt",
    "conversations, chosen, rejected with from and value (LLaMA-Factory)",
    frozenset({"conversations", "chosen", "rejected"}),
    EXAMPLE,
    read,
)

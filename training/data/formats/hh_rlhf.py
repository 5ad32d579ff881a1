"""HH-RLHF (arXiv 2204.05862): whole dialogues as text. The response is what follows the last "\\n\\nAssistant:"; the
dialogue before it must be the same on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from service.types import Message, Prompt
from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "chosen": "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Name a prime number.\n\nAssistant: 7 is prime.",
    "rejected": "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Name a prime number.\n\nAssistant: 9 is prime.",
}

_REPLY = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


def read(row: Row) -> Iterator[Read]:
    """A space after each speaker's name belongs to the format; nothing else is trimmed."""
    (context, chosen), (other, rejected) = (_split(row, field) for field in ("chosen", "rejected"))
    if context != other:
        yield row.dropped("chosen and rejected answer different conversations")
        return
    _, *pieces = _TURN.split(context)
    turns = tuple(
        Message("user" if who == "Human" else "assistant", text.removeprefix(" "))
        for who, text in zip(pieces[::2], pieces[1::2], strict=True)
    )
    if not turns:
        yield row.dropped("no human turn before the response")
        return
    yield row.pair(Prompt(turns), chosen.removeprefix(" "), rejected.removeprefix(" "), "a", subset=row.stem)


def _split(row: Row, field: str) -> tuple[str, str]:
    context, mark, response = row.text(field).rpartition(_REPLY)
    if not mark:
        raise row.fault(field, r'must hold a dialogue with a "\n\nAssistant:" turn.')
    return context, response


def _fits(row: Mapping[str, Any]) -> bool:
    return isinstance(row["chosen"], str) and _REPLY in row["chosen"]


FORMAT = Format(
    "hh_rlhf", "chosen, rejected as whole dialogues", frozenset({"chosen", "rejected"}), EXAMPLE, read, _fits
)

"""Plain preferences with their prompt: the columns TRL and most hub data sets use. Prompt and responses are texts or
conversations; a conversation may repeat the prompt."""

from __future__ import annotations

from collections.abc import Iterator

from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "prompt": "Name a prime number.",
    "chosen": "7 is prime.",
    "rejected": "9 is prime.",
}


def read(row: Row) -> Iterator[Read]:
    return row.chosen_and_rejected(row.conversation("prompt"))


FORMAT = Format("preference", "prompt, chosen, rejected", frozenset(EXAMPLE), EXAMPLE, read)

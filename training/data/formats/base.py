"""What every format file is made of: a row that names itself in errors, and what reading it can yield."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.types import Message, Prompt
from training.data.pairs import KNOWN_ROLES, DataError, Pair, PairLabel

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "function_call": "assistant"}
"""Other words for roles, as ShareGPT-like data spells them."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is left out by a policy, not by an error; ``reason`` is what the data card counts."""

    id: str
    reason: str


Read = Pair | Dropped


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file. ``number`` counts from 1; ``source`` names the data set in the ids of its pairs."""

    file: str
    number: int
    data: Mapping[str, Any]
    source: str
    stem: str = ""

    def fault(self, field: str, complaint: str) -> DataError:
        return DataError(f"{self.file}, row {self.number}, field {field}: {complaint}")

    def value(self, field: str) -> Any:
        """Raises `DataError` naming the columns there are."""
        if field not in self.data:
            raise self.fault(field, f"missing; the columns are {', '.join(map(str, self.data)) or 'none'}.")
        return self.data[field]

    def text(self, field: str) -> str:
        value = self.value(field)
        if not isinstance(value, str):
            raise self.fault(field, f"must be a text, not {_shown(value)}.")
        return value

    def number_of(self, field: str) -> float:
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(field, f"must be a number, not {_shown(value)}.")
        return float(value)

    def sequence(self, field: str) -> Sequence[Any]:
        value = self.value(field)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self.fault(field, f"must be a list, not {_shown(value)}.")
        return value

    def mapping(self, field: str) -> Mapping[str, Any]:
        value = self.value(field)
        if not isinstance(value, Mapping):
            raise self.fault(field, f"must be an object, not {_shown(value)}.")
        return value

    def choice(self, field: str, labels: Mapping[Any, PairLabel | None]) -> PairLabel | None:
        """The label a value stands for. Raises `DataError` for a value outside the set."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value not in labels:
            known = ", ".join(json.dumps(label) for label in labels)
            raise self.fault(field, f"must be one of {known}, not {_shown(value)}.")
        return labels[value]

    def conversation(self, field: str) -> tuple[Message, ...]:
        """Turns with role and content (or ShareGPT's from and value); a text is one user turn."""
        value = self.value(field)
        if isinstance(value, str):
            return (Message("user", value),)
        turns = self.sequence(field)
        return tuple(self._turn(field, i, turn) for i, turn in enumerate(turns))

    def _turn(self, field: str, index: int, turn: Any) -> Message:
        keys = ("from", "value") if isinstance(turn, Mapping) and "from" in turn else ("role", "content")
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in keys):
            raise self.fault(field, f"turn {index + 1} must have a {keys[0]} and a {keys[1]}, both texts.")
        role, content = (str(turn[key]) for key in keys)
        if (role := ROLES.get(role, role)) not in KNOWN_ROLES:
            raise self.fault(field, f"turn {index + 1}: its {keys[0]} must be one of {', '.join(KNOWN_ROLES)}.")
        return Message(role, content)

    def pair(
        self,
        prompt: Prompt | str,
        first: str,
        second: str,
        label: PairLabel | None,
        *,
        part: str = "",
        margin: float | None = None,
        subset: str = "",
        group: str = "",
    ) -> Pair:
        """A pair of this row; ``part`` tells apart the pairs of one row."""
        prompt = Prompt.from_text(prompt) if isinstance(prompt, str) else prompt
        return Pair(self.id(part), prompt, first, second, label, self.source, margin, subset, group)

    def dropped(self, reason: str, part: str = "") -> Dropped:
        return Dropped(self.id(part), reason)

    def id(self, part: str = "") -> str:
        """Unique within a data set: its name, the file within it, the row, the part of the row."""
        return "/".join(piece for piece in (self.source, self.stem, str(self.number), part) if piece)

    def chosen_and_rejected(self, prompt: tuple[Message, ...], *, margin: float | None = None) -> Iterator[Read]:
        """A pair from ``chosen`` and ``rejected``: texts, or conversations of which both end with a response.

        Conversations may repeat the prompt or hold the response alone; ones with different contexts are dropped.
        """
        chosen, rejected = self._ending("chosen", prompt), self._ending("rejected", prompt)
        if chosen[0] != rejected[0]:
            yield self.dropped("chosen and rejected answer different conversations")
        elif not chosen[0]:
            raise self.fault("prompt", "missing; the conversations hold nothing but the response.")
        else:
            yield self.pair(Prompt(chosen[0]), chosen[1], rejected[1], "a", margin=margin)

    def _ending(self, field: str, prompt: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
        if isinstance(self.value(field), str):
            return prompt, self.text(field)
        turns = self.conversation(field)
        if not turns or turns[-1].role != "assistant":
            raise self.fault(field, "must end with the assistant's turn.")
        return turns[:-1] or prompt, turns[-1].content


def _shown(value: object) -> str:
    """A value for an error message, cut short."""
    return json.dumps(value, default=str, ensure_ascii=True)[:40]


@dataclass(frozen=True, slots=True)
class Format:
    """A row format. ``example`` is an invented row; a row whose columns hold it is recognised unless ``fits`` objects.

    ``read`` yields the row's pairs and what it leaves out. Raises `DataError` naming file, row and field.
    """

    name: str
    about: str
    columns: frozenset[str]
    example: Mapping[str, Any]
    read: Callable[[Row], Iterator[Read]]
    fits: Callable[[Mapping[str, Any]], bool] = lambda row: True

"""One row of a benchmark file, read field by field: every complaint says file, row, field and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.types import Message, Prompt
from training.data.pairs import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row, and where it stands (``file`` without folder and packing, ``number`` from 1)."""

    file: str
    number: int
    data: dict[str, Any]

    def error(self, field: str, what: str) -> DataError:
        return DataError(f"{self.file}, row {self.number}, field {field}: {what}.")

    def value(self, field: str) -> Any:
        if field not in self.data:
            raise self.error(field, f"missing (there are: {', '.join(sorted(self.data))})")
        return self.data[field]

    def text(self, field: str) -> str:
        return self.as_text(field, self.value(field))

    def as_text(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(field, "must be a text")
        return value

    def entry(self, field: str, key: str) -> str:
        """The text ``key`` of the object in ``field``."""
        value = self.value(field)
        if not isinstance(value, dict) or key not in value:
            raise self.error(field, f"must be an object with {key}")
        return self.as_text(f"{field}.{key}", value[key])

    def turns(self, field: str) -> tuple[Message, ...]:
        """A conversation: a list of turns with role and content."""
        value = self.value(field)
        if not isinstance(value, list) or not value:
            raise self.error(field, "must be a list of turns")
        turns = []
        for turn in value:
            if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
                raise self.error(field, "every turn must have a role and a content, both texts")
            turns.append(Message(turn["role"], turn["content"]))
        return tuple(turns)

    def prompt(self, field: str) -> Prompt:
        """A text or a conversation."""
        value = self.value(field)
        return Prompt.from_text(value) if isinstance(value, str) else Prompt(self.turns(field))

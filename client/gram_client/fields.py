"""Reading a reply field by field: what is missing or of the wrong kind is a `MalformedReply` that names it."""

from __future__ import annotations

import math
from typing import Any

from gram_client.errors import MalformedReply


class Fields:
    """A JSON object of a reply; `what` names it in errors."""

    __slots__ = ("_data", "_what")

    def __init__(self, data: Any, what: str) -> None:
        if not isinstance(data, dict):
            raise MalformedReply(f"The service sent something else than {what}.")
        self._data = data
        self._what = what

    def expect(self, true: bool, problem: str) -> None:
        """Raises `MalformedReply` unless `true`."""
        if not true:
            raise MalformedReply(f"The service sent {self._what} that {problem}.")

    def raw(self, name: str) -> Any:
        """Whatever stands there; None where nothing does."""
        return self._data.get(name)

    def text(self, name: str) -> str:
        value = self._data.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._data.get(name) is None else self.text(name)

    def one_of(self, name: str, words: tuple[str, ...]) -> Any:
        """One of the words; the caller knows its literal type."""
        value = self._data.get(name)
        if value not in words:
            raise self._wrong(name, " or ".join(words))
        return value

    def truth(self, name: str) -> bool:
        value = self._data.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def truth_or_none(self, name: str) -> bool | None:
        return None if self._data.get(name) is None else self.truth(name)

    def whole(self, name: str) -> int:
        value = self._data.get(name)
        if type(value) is not int:
            raise self._wrong(name, "a whole number")
        return value

    def whole_or_none(self, name: str) -> int | None:
        return None if self._data.get(name) is None else self.whole(name)

    def number(self, name: str) -> float:
        value = self._data.get(name)
        if value is None or not _is_number(value):
            raise self._wrong(name, "a finite number")
        return float(value)

    def number_or_none(self, name: str) -> float | None:
        return None if self._data.get(name) is None else self.number(name)

    def share(self, name: str) -> float:
        value = self.number(name)
        if not 0.0 <= value <= 1.0:
            raise self._wrong(name, "a probability")
        return value

    def inside(self, name: str) -> Fields:
        return Fields(self._data.get(name), f"{self._what} with {name}")

    def inside_or_none(self, name: str) -> Fields | None:
        return None if self._data.get(name) is None else self.inside(name)

    def many(self, name: str) -> list[Fields]:
        value = self._data.get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return [Fields(one, f"{self._what} with {name}") for one in value]

    def wholes(self, name: str) -> tuple[int, ...]:
        value = self._data.get(name)
        if not isinstance(value, list) or any(type(one) is not int for one in value):
            raise self._wrong(name, "a list of whole numbers")
        return tuple(value)

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts."""
        value = self._data.get(name)
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise self._wrong(name, "an object of texts")
        return value

    def matrix_or_none(self, name: str) -> tuple[tuple[float | None, ...], ...] | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(_is_row(row, len(value)) for row in value):
            raise self._wrong(name, "a square of numbers")
        return tuple(tuple(row) for row in value)

    def _wrong(self, name: str, wanted: str) -> MalformedReply:
        return MalformedReply(f"The service sent {self._what} whose {name} is not {wanted}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_row(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length and all(one is None or _is_number(one) for one in row)

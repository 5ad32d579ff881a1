"""Rationales as they are written: server-sent events, as bytes, to typed events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gram_client.errors import ConnectionLost, MalformedReply, error_of_code
from gram_client.fields import Fields
from gram_client.results import Rationale


@dataclass(frozen=True)
class Text:
    """A piece of what the judge writes in one vote of one display order."""

    order: Literal["ab", "ba"]
    vote: int
    text: str


Event = Text | Rationale


class EventReader:
    """Takes a stream in pieces of any size, gives its events. The last is the `Rationale` with the verdict."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self.done = False

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that this piece completes. Raises the error that the service sent, or `MalformedReply`."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            event = self._line(line.decode("utf-8", "replace").rstrip("\r"))
            if event is not None:
                yield event

    def _line(self, line: str) -> Event | None:
        """The event that this line completes."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        return self._event(name, data) if data else None

    def _event(self, name: str, data: str) -> Event | None:
        try:
            fields = Fields(json.loads(data), "an event")
        except ValueError as error:
            raise MalformedReply("The service sent an event that is not JSON.") from error
        if name == "text":
            return Text(fields.one_of("order", ("ab", "ba")), fields.whole("vote"), fields.text("text"))
        if name == "verdict":
            self.done = True
            return Rationale.from_json(json.loads(data))
        if name == "error":
            details = fields.raw("details")
            raise error_of_code(
                fields.text("code"),
                fields.text("message"),
                fields.truth("retryable"),
                fields.text_or_none("request_id"),
                details if isinstance(details, dict) else None,
            )
        return None  # an event of a newer service

    def end(self) -> None:
        """The stream is over. Raises `ConnectionLost` if the verdict is missing."""
        if not self.done:
            raise ConnectionLost("The stream ended before its verdict; ask again.")

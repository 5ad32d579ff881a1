"""What a request's trace is made of, without any library: one span around it and one for each stage of its work.

`service.tracing` writes them with OpenTelemetry where an address to send them to is configured; else nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Literal, Protocol

Stage = Literal["admission", "tokenize", "engine", "aggregate", "store"]
"""Waiting for room and weights; texts to token ids; the model; what is made of all verdicts together; reward windows
and stored replies."""
Value = str | int | float

REQUEST_ID: ContextVar[str | None] = ContextVar("REQUEST_ID", default=None)
TRACE_ID: ContextVar[str | None] = ContextVar("TRACE_ID", default=None)
"""Of the request that the running task works for; logs carry both."""


class RequestSpan(Protocol):
    """The span around one request."""

    def end(self, name: str, attributes: Mapping[str, Value | None], failed: bool) -> None:
        """Its name (the route's template) and what is known once the reply is out; None is left out."""
        ...


class Tracing(Protocol):
    """Where spans come from. Spans hold numbers, names and error codes: never texts, never keys."""

    def request(self, headers: Mapping[bytes, bytes]) -> AbstractContextManager[RequestSpan]:
        """Around a request; part of its caller's trace where the headers (names in lower case) name one."""
        ...

    def stage(self, name: Stage, **attributes: Value) -> AbstractContextManager[None]:
        """Around a piece of the work of the request that the running task works for."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class _NoSpan:
    def end(self, name: str, attributes: Mapping[str, Value | None], failed: bool) -> None:
        """Nothing."""


class NoTracing:
    """Without an address for spans."""

    _request, _stage = nullcontext(_NoSpan()), nullcontext()

    def request(self, headers: Mapping[bytes, bytes]) -> AbstractContextManager[RequestSpan]:
        return self._request

    def stage(self, name: Stage, **attributes: Value) -> AbstractContextManager[None]:
        return self._stage

    def close(self) -> None:
        """Nothing."""


NO_TRACING: Tracing = NoTracing()

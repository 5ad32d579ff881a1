"""A teacher behind any OpenAI-compatible endpoint (``/v1/chat/completions``), asked patiently.

What may pass - timeouts, lost connections, 408, 409, 425, 429 and 5xx, replies that are no completion - is tried again
after a growing wait with jitter, or after the ``Retry-After`` the server names. A question that is refused (any other
4xx, as for one too long) is not asked again; a refused key, address or model ends the run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Self

import httpx

from training.generation.outcomes import Failure, GenerationError

LONGEST_WAIT = 60.0
"""Seconds between two tries at most."""
REFUSED = "teacher_refused"
_PASSING = {408, 409, 425, 429}
_HOPELESS = {401: "refuses the key", 403: "refuses the key", 404: "does not know this address or model"}

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask. ``key_variable`` names the environment variable that holds the key; none is sent without.

    Times are seconds, ``timeout`` that of one try from the question to the last byte; ``temperature`` 0 asks for the
    likeliest text.
    """

    url: str
    model: str
    key_variable: str = "TEACHER_API_KEY"
    max_tokens: int = 8192
    temperature: float = 0.0
    timeout: float = 600.0
    tries: int = 6
    first_wait: float = 1.0

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on: not the address, not the patience."""
        return {"model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the teacher wrote; ``finished`` is false where it was cut off."""

    text: str
    finished: bool
    tokens: int
    prompt_tokens: int


class Teacher:
    """An open connection; an async context manager."""

    def __init__(self, endpoint: Endpoint, at_once: int) -> None:
        self.endpoint = endpoint
        key = os.environ.get(endpoint.key_variable, "")
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=endpoint.timeout)
        self._jitter = Random()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, messages: Messages) -> Reply | Failure:
        """The reply, or why there is none after all tries. Raises `GenerationError` where no try can help."""
        failure = Failure("teacher_unavailable", "The teacher was never asked.")
        for attempt in range(self.endpoint.tries):
            found, wait = await self._try(messages)
            if isinstance(found, Reply):
                return found
            failure = found
            if failure.code == REFUSED:
                break
            if attempt + 1 < self.endpoint.tries:
                growing = min(LONGEST_WAIT, self.endpoint.first_wait * 2**attempt) * self._jitter.uniform(0.5, 1.5)
                await asyncio.sleep(growing if wait is None else min(LONGEST_WAIT, wait))
        return failure

    async def _try(self, messages: Messages) -> tuple[Reply | Failure, float | None]:
        e = self.endpoint
        body = {"model": e.model, "messages": list(messages), "max_tokens": e.max_tokens, "temperature": e.temperature}
        try:
            async with asyncio.timeout(e.timeout):  # the client's own limit is one of each read: a drip would pass it
                response = await self._client.post(f"{e.url.rstrip('/')}/v1/chat/completions", json=body)
        except (TimeoutError, httpx.TimeoutException):
            return Failure("teacher_timeout", f"No answer within {e.timeout:g} s."), None
        except httpx.RequestError as error:
            return Failure("teacher_unavailable", f"{type(error).__name__}: the connection failed."), None
        status = response.status_code
        if status in _HOPELESS:
            raise GenerationError(f"{e.url} {_HOPELESS[status]} ({status}); check --url, --model, ${e.key_variable}.")
        if status in _PASSING or status >= 500:
            return Failure("teacher_unavailable", f"Status {status}."), _seconds(response.headers.get("retry-after"))
        if status != 200:
            return Failure(REFUSED, f"Status {status}."), None
        return _reply(response), None


def _reply(response: httpx.Response) -> Reply | Failure:
    try:
        data = response.json()
        choice = data["choices"][0]
        text = choice["message"].get("content") or ""
        usage = data.get("usage") or {}
        counts = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
        return Reply(str(text), choice.get("finish_reason") != "length", *counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Failure("teacher_broken", "The reply is no chat completion.")


def _seconds(value: str | None) -> float | None:
    """``Retry-After`` in seconds; its date form is not waited for."""
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None

"""One request until it is answered: tries, pauses and the deadline, as a generator that does no input or output.

It yields what is to be done and is sent what came of it, so the sync and the async client, and tests without a network,
share every decision.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gram_client.errors import DeadlineExceeded, MalformedReply, ScoringError, error_of
from gram_client.request import Request
from gram_client.retries import Retries

T = TypeVar("T")

MAX_DEADLINE_MS = 600_000
"""The longest that the service accepts by default; whoever waits longer asks again."""
ROUND_TRIP_S = 0.25
"""How much earlier the service is to give up, so that its reason arrives in time; at most a twentieth of the time."""


class Deadline:
    """When a call must be over, shared by its chunks and tries. `cut` ends it early."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - self._clock())

    def cut(self) -> None:
        """Over now: other chunks of a call that failed must not go on."""
        self._at = self._clock()


@dataclass(frozen=True)
class Send:
    """Send the request; the answer is a `Reply`, or a `ScoringError` where none came within the deadline."""

    request: Request
    headers: Mapping[str, str]
    deadline: Deadline


@dataclass(frozen=True)
class Pause:
    """Wait; the answer is None."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """What came back: status, header names in lower case, the whole body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """Raises `MalformedReply`."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise MalformedReply("The server's answer is not JSON.", status=self.status) from error

    def error(self) -> ScoringError:
        """What a reply that is not 2xx says."""
        try:
            body = json.loads(self.body)
        except ValueError:
            body = None
        return error_of(self.status, body, _seconds(self.headers.get("retry-after")))


Step = Send | Pause
Answer = Reply | ScoringError | None
Steps = Generator[Step, Answer, T]


def exchange(
    request: Request, retries: Retries, deadline: Deadline, luck: Callable[[], float] = random.random
) -> Steps[Reply]:
    """The 2xx reply to `request`. Raises the `ScoringError` that ended it."""
    tries = 0
    while True:
        tries += 1
        left_s = deadline.left_s
        if left_s <= 0:
            raise DeadlineExceeded("The call's time was over before the request could be sent; allow more time.")
        answer = yield Send(request, _headers(request, left_s), deadline)
        if isinstance(answer, Reply) and 200 <= answer.status < 300:
            return answer
        error = answer.error() if isinstance(answer, Reply) else answer
        assert error is not None  # drivers answer a Send with a reply or an error
        error.tries = tries
        wait = retries.wait_s(error, tries, deadline.left_s, luck(), request.repeatable)
        if wait is None:
            raise error
        yield Pause(wait)


def _headers(request: Request, left_s: float) -> dict[str, str]:
    headers = {}
    if request.timed:
        told_s = left_s - min(ROUND_TRIP_S, left_s / 20)
        headers["X-Deadline-Ms"] = str(max(1, min(MAX_DEADLINE_MS, int(told_s * 1000))))
    if request.key is not None:
        headers["Idempotency-Key"] = request.key
    return headers


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is not what the service sends and is passed over."""
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 7 else None

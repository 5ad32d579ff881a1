"""How fast work gets done, measured: what `Retry-After` and the refusal of hopeless requests are derived from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WINDOW_S = 30.0
ENOUGH = 16
"""Finished requests from which on the pace is trusted to refuse somebody."""


class Pace:
    """Work done a second while there was any, over the last `WINDOW_S` of such seconds.

    Idle time does not count: a service that did nothing for an hour is as fast as it was before. Where nothing finished
    in the whole window the pace is 0, which is what a hung engine looks like.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._busy_before = 0.0
        self._busy_since: float | None = None
        self._finished: deque[tuple[float, float]] = deque()
        self._done = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough was finished to tell."""
        return len(self._finished) >= ENOUGH

    def resume(self) -> None:
        """There is work from now on."""
        if self._busy_since is None:
            self._busy_since = self._clock()

    def rest(self) -> None:
        """There is none any more."""
        self._busy_before = self._busy()
        self._busy_since = None

    def finished(self, work: float) -> None:
        """Some work was done."""
        now = self._busy()
        self._finished.append((now, work))
        self._done += work
        self._forget(now)

    def seconds_for(self, work: float) -> float | None:
        """How long this much work takes; None while nothing is known, infinite while nothing moves."""
        now = self._busy()
        self._forget(now)
        if not self._finished:
            return None if now < WINDOW_S else float("inf")
        return work * min(now, WINDOW_S) / self._done if self._done > 0 else float("inf")

    def _forget(self, now: float) -> None:
        """Drop what lies before the window."""
        while self._finished and self._finished[0][0] < now - WINDOW_S:
            self._done -= self._finished.popleft()[1]
        if not self._finished:
            self._done = 0.0  # no rounding errors are kept

    def _busy(self) -> float:
        """Seconds with work so far."""
        return self._busy_before + (0.0 if self._busy_since is None else self._clock() - self._busy_since)

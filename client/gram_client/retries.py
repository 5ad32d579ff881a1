"""What is tried again, and after how long. Pure: no clock, no sleep, no network.

Tried again is only what can be answered differently and does no harm twice: a connection that was not made, a service
that is full or away (503, after its Retry-After), a request that ran out of the service's time (504) and, where the
request may be repeated, a connection that broke. Pauses grow and are drawn at random, so that a thousand rollouts
refused together do not come back together (full jitter: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

from gram_client.errors import ConnectionLost, DeadlineExceeded, Overloaded, ScoringError

NOT_BEGUN = ("overloaded",)
"""Codes of refusals at the door: nothing of the request was done."""


@dataclass(frozen=True)
class Retries:
    """At most `attempts` tries, `first_wait_s`, twice, four times .. up to `max_wait_s` apart at most, all within the
    call's deadline. ``Retries(attempts=1)`` tries once."""

    attempts: int = 8
    first_wait_s: float = 0.25
    max_wait_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_wait_s <= self.max_wait_s:
            raise ValueError("Retries need at least one attempt, and waits of 0 <= first_wait_s <= max_wait_s.")

    def wait_s(
        self, error: ScoringError, tries: int, left_s: float, luck: float, repeatable: bool = True
    ) -> float | None:
        """Seconds to wait before the next try after `tries` of them; None: give up with `error`.

        `left_s` is what the deadline leaves: no wait reaches it. `luck` is drawn from [0, 1). `repeatable`: the request
        does no harm when it is done twice.
        """
        if tries >= self.attempts or not is_worth_another_try(error, repeatable):
            return None
        backoff_s = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(tries - 1, 60))
        wait = (error.retry_after_s or 0.0) + luck * backoff_s
        return wait if wait < left_s else None


def is_worth_another_try(error: ScoringError, repeatable: bool = True) -> bool:
    """May the same request succeed later, and is it safe to send again?"""
    if error.retryable is False:
        return False
    if isinstance(error, ConnectionLost):
        return repeatable or not error.maybe_done
    if isinstance(error, Overloaded):
        return repeatable or error.code in NOT_BEGUN
    return isinstance(error, DeadlineExceeded) and error.status is not None and repeatable

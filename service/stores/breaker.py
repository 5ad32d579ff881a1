"""A circuit breaker: a store that does not answer is left alone for a second at a time.

Without one every request would wait for its own timeout, and a service full of waiting requests answers nobody.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import StoreUnavailable


class Breaker:
    """Closed: calls pass. After `max_failures` failures in a row it opens: calls fail at once with `StoreUnavailable`.

    Every `wait_s` seconds one call passes as a probe. Its success closes the breaker, its failure, or its being
    cancelled, begins another wait. So after the store's recovery the next probe, at most `wait_s` and the time of one
    call away, closes it. `clock` gives seconds that never run backwards.
    """

    def __init__(self, max_failures: int = 5, wait_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_failures = max_failures
        self._wait_s = wait_s
        self._clock = clock
        self._failures = 0
        self._probe_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self._failures >= self._max_failures

    @contextmanager
    def attempt(self, *failures: type[BaseException]) -> Iterator[None]:
        """One call. Exceptions of `failures` say that the store did not answer; any other means that it did.

        Raises `StoreUnavailable` with ``retry_after_s`` instead of making the call while the breaker is open.
        """
        probe = self._admit()
        try:
            yield
        except failures:
            self._failures += 1
            self._wait()
            raise
        except Exception:
            self._failures = 0
            raise
        except BaseException:  # cancelled: nothing is known about the store
            if probe:
                self._wait()
            raise
        else:
            self._failures = 0
        finally:
            self._probing = self._probing and not probe

    def _admit(self) -> bool:
        """Whether this call is the probe."""
        if not self.is_open:
            return False
        left_s = self._probe_at - self._clock()
        if self._probing or left_s > 0.0:
            raise StoreUnavailable(
                "The reward store has not answered lately; send the request again after Retry-After.",
                retry_after_s=max(1, math.ceil(left_s)),
            )
        self._probing = True
        return True

    def _wait(self) -> None:
        if self.is_open:
            self._probe_at = self._clock() + self._wait_s

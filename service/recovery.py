"""What is done about an engine that has failed: start another one, let the process end, or leave it to others.

Whatever it is, callers know at once: every request inside gets a typed 503, and new ones are refused until there is an
engine that has given a sound answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.admission import Admission
from service.engines.supervised import SupervisedEngine
from service.errors import EngineDead, StartupError

log = logging.getLogger("gram.recovery")

OnFailure = Literal["restart", "exit", "stay"]
Outcome = Literal["started", "failed"]


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    """`service.engine_settings.RecoverySettings` says what the fields mean. ``heals_itself``: the engine may come back
    without anybody's help, as servers elsewhere do."""

    on_failure: OnFailure = "stay"
    max_restarts: int = 5
    window_s: float = 3600.0
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    heals_itself: bool = False


class Recovery:
    """``given_up`` is why the process is to exit, once it is. ``saw`` is told how each restart ended."""

    def __init__(
        self,
        engine: SupervisedEngine,
        admission: Admission,
        policy: RecoveryPolicy,
        saw: Callable[[Outcome], None] = lambda outcome: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.policy = policy
        self.given_up: str | None = None
        self._engine = engine
        self._admission = admission
        self._saw = saw
        self._clock = clock or time.monotonic
        self._tries: deque[float] = deque()

    async def after(self, reason: str) -> None:
        """The engine has failed, for `reason` (one sentence). Returns when it is replaced or nothing more is done."""
        if self.policy.on_failure == "stay" or self._admission.is_draining:
            self._admission.stop_all(EngineDead(reason, retry_after_s=5))
            return
        log.error("the engine has failed: %s", reason)
        while self.given_up is None:
            wait_s = self._next_wait_s() if self.policy.on_failure == "restart" else None
            if wait_s is None:
                self._give_up(reason)
                return
            self._tell(f"{reason} It is being restarted, try {len(self._tries) + 1}.", wait_s + self._engine.start_s)
            await asyncio.sleep(wait_s)
            failure = await self._restart()
            if failure is None:
                return
            reason = failure

    async def _restart(self) -> str | None:
        """One try: None, or why it failed."""
        self._tries.append(self._clock())
        try:
            await self._engine.replace()
        except Exception as error:
            known = isinstance(error, StartupError)
            log.error("the engine could not be restarted: %s", error, exc_info=None if known else error)
            self._saw("failed")
            return error.message if isinstance(error, StartupError) else "The engine could not be restarted."
        log.warning("the engine was restarted in %.0f s", self._engine.start_s)
        self._saw("started")
        return None

    def _next_wait_s(self) -> float | None:
        """How long to wait before the next try; None when there have been enough."""
        while self._tries and self._tries[0] < self._clock() - self.policy.window_s:
            self._tries.popleft()
        if len(self._tries) >= self.policy.max_restarts:
            return None
        doublings = len(self._tries) - 1
        return min(self.policy.max_backoff_s, self.policy.backoff_s * 2.0**doublings) if doublings >= 0 else 0.0

    def _give_up(self, reason: str) -> None:
        self._tell(f"{reason} The service is shutting down.", 1.0)
        log.error("the service exits, as recovery.on_failure and recovery.max_restarts have it")
        self.given_up = reason

    def _tell(self, message: str, back_in_s: float) -> None:
        """End every request inside, and have new ones refused."""
        self._admission.stop_all(self._engine.take_down(message, back_in_s))

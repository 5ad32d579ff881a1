"""Is the service worth sending requests to? A watchdog looks at engine and store every second.

An engine's own health check stays green while it hangs (measured with a stopped vLLM engine core), so signs of life are
watched: any token, any answer. A burst of work can therefore never starve the check. Only a silent engine is asked for
one small answer, the canary, so that idle and hung are told apart; and its numbers must be finite, because a model with
broken weights answers as fast as ever. What is done about a failed engine is `service.recovery`'s.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass

from service.admission import Admission
from service.engines.supervised import SupervisedEngine
from service.errors import Draining, EngineDead, NonFiniteScore, ServiceError, StoreUnavailable, Unavailable
from service.recovery import Recovery
from service.stores.base import RewardStore

log = logging.getLogger("gram.health")

TICK_S = 1.0
CHECK_TIMEOUT_S = 3.0
GAP_S = 2.0
"""A tick that comes so much later than it should says that this process was stopped or busy: silence proves nothing."""
SILENT = "The engine has given no output for too long; it may be hung."
BROKEN = 3
"""Canaries in a row with broken numbers before the engine has failed; it is not ready from the first."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds without a sign of life: until the canary is asked (0: never), until the engine is not ready, and until it
    has failed."""

    canary_s: float = 4.0
    stall_s: float = 30.0
    fatal_stall_s: float = 120.0


class Health:
    """`check_ready` and `check_alive` are what the probes answer with; `watch` runs as long as the service does."""

    def __init__(
        self,
        engine: SupervisedEngine,
        store: RewardStore,
        admission: Admission,
        patience: Patience,
        recovery: Recovery,
    ) -> None:
        self._engine = engine
        self._store = store
        self._admission = admission
        self._patience = patience
        self._recovery = recovery
        self._canary: asyncio.Task[None] | None = None
        self._broken = 0
        self._slept_s, self._slept_since = 0.0, -math.inf
        self._state = "ready"

    @property
    def stalled_s(self) -> float:
        """Seconds for which the engine has had work and given nothing."""
        return self._engine.progress.stalled_s(time.monotonic())

    @property
    def silent_s(self) -> float:
        """Seconds without a sign of life. Without a canary an idle engine is not silent."""
        now, progress = time.monotonic(), self._engine.progress
        silent = progress.stalled_s(now)
        if self._has_canary:
            silent = max(silent, now - progress.last)
        return silent - (self._slept_s if progress.last == self._slept_since else 0.0)

    @property
    def _is_stalled(self) -> bool:
        return self.silent_s > self._patience.stall_s

    @property
    def is_ready(self) -> bool:
        """What the last tick found."""
        return self._state == "ready"

    @property
    def given_up(self) -> str | None:
        """Why this process is to exit; None while it is to go on."""
        return self._recovery.given_up

    async def check_ready(self) -> None:
        """Raises the `Unavailable` error that keeps requests away."""
        if self._admission.is_draining:
            raise Draining("The service is shutting down.", retry_after_s=1)
        await self._check_engine()
        if self._is_stalled:
            raise EngineDead(SILENT, retry_after_s=5)
        if self._broken:
            raise EngineDead("The model answers with numbers that are not finite; it is damaged.", retry_after_s=5)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):  # wait_for can swallow a cancellation before Python 3.12
                await self._store.ping()
        except TimeoutError as error:
            raise StoreUnavailable("The reward store does not answer.", retry_after_s=1) from error

    async def check_alive(self) -> None:
        """Raises `EngineDead` when only a restart of the process helps."""
        policy = self._recovery.policy
        if self.given_up is not None:
            raise EngineDead(self.given_up)
        if policy.on_failure != "stay" or policy.heals_itself:
            return
        if (reason := await self._failure()) is not None:
            raise EngineDead(reason)

    async def watch(self) -> None:
        """Every second: ask a silent engine, recover from a failed one, log each change of readiness once."""
        try:
            while True:
                try:
                    await self._tick()
                except Exception:
                    log.exception("a health check failed in itself")
                began = time.monotonic()
                await asyncio.sleep(TICK_S)
                self._excuse(time.monotonic() - began - TICK_S)
        finally:
            self._end_canary()

    async def _tick(self) -> None:
        self._ask_canary_if_needed()
        self._engine.hold(SILENT if self._is_stalled else None)
        if self.given_up is None and (reason := await self._failure()) is not None:
            self._note(reason)
            self._end_canary()
            await self._recovery.after(reason)
            if self._recovery.policy.on_failure != "stay":  # then it is another engine, or none
                self._broken = 0
        try:
            await self.check_ready()
        except Unavailable as error:
            self._note(error.message)
        else:
            self._note("ready")

    def _excuse(self, late_s: float) -> None:
        """Take the time in which this process did not run itself out of the present silence."""
        if late_s <= GAP_S:
            return
        last = self._engine.progress.last
        self._slept_s = late_s + (self._slept_s if last == self._slept_since else 0.0)
        self._slept_since = last

    async def _failure(self) -> str | None:
        """Why the engine has failed; None while it has not."""
        try:
            await self._check_engine()
        except EngineDead as error:
            return error.message
        if self.silent_s > self._patience.fatal_stall_s:
            return f"The engine has given no output for {self._patience.fatal_stall_s:.0f} s."
        if self._broken >= BROKEN:
            return "The model answers with numbers that are not finite."
        return None

    async def _check_engine(self) -> None:
        """A check that does not return is no proof of death (the machine may be busy): silence decides that."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._engine.check()
        except TimeoutError:
            log.warning("the engine's own check did not answer within %s s", CHECK_TIMEOUT_S)
        except EngineDead as error:
            raise EngineDead(error.message, retry_after_s=error.details.get("retry_after_s") or 5) from error
        except ServiceError as error:
            raise EngineDead("The engine does not answer; restart it.", retry_after_s=5) from error

    @property
    def _has_canary(self) -> bool:
        return self._engine.has_canary and self._patience.canary_s > 0

    def _ask_canary_if_needed(self) -> None:
        """One at a time: when nothing was heard for long enough, or the last numbers were broken."""
        if not self._has_canary or (self._canary is not None and not self._canary.done()):
            return
        suspicious = self._broken or self._engine.unsound
        if suspicious or self.silent_s >= self._patience.canary_s:
            self._canary = asyncio.create_task(self._ask_canary())

    async def _ask_canary(self) -> None:
        """Its answer is a sign of life by itself, and its failure none of death; its numbers are looked at here."""
        try:
            await self._engine.ask_canary()
            self._broken = 0
        except NonFiniteScore:
            self._broken += 1
        except ServiceError as error:
            log.info("the canary was not answered: %s", error.message)

    def _end_canary(self) -> None:
        if self._canary is not None:
            self._canary.cancel()
            self._canary = None

    def _note(self, state: str) -> None:
        if state != self._state:
            log.warning("readiness changed: %s", state)
        self._state = state

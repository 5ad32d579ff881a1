"""Is the service worth sending requests to? A watchdog asks the engine and the store every second.

An engine's own health check stays green while it hangs (measured with a stopped vLLM engine core), so progress is
watched too: work inside without output for too long is a hang.
"""

from __future__ import annotations

import asyncio
import logging
import time

from service.admission import Admission
from service.engines.base import Engine
from service.errors import Draining, EngineDead, ServiceError, StoreUnavailable, Unavailable
from service.stores.base import RewardStore

log = logging.getLogger("gram.health")

TICK_S = 1.0
CHECK_TIMEOUT_S = 3.0


class Health:
    """`check_ready` and `check_alive` are what the probes answer with; `watch` runs as long as the service does."""

    def __init__(
        self, engine: Engine, store: RewardStore, admission: Admission, stall_s: float, fatal_stall_s: float
    ) -> None:
        self._engine = engine
        self._store = store
        self._admission = admission
        self._stall_s = stall_s
        self._fatal_stall_s = fatal_stall_s

    @property
    def stalled_s(self) -> float:
        """Seconds for which the engine has had work and given nothing."""
        return self._engine.progress.stalled_s(time.monotonic())

    async def check_ready(self) -> None:
        """Raises the `Unavailable` error that keeps requests away."""
        if self._admission.is_draining:
            raise Draining("The service is shutting down.", retry_after_s=1)
        await self._check_engine()
        if self.stalled_s > self._stall_s:
            raise EngineDead("The engine has work but gives no output; it may be hung.", retry_after_s=5)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):  # wait_for can swallow a cancellation before Python 3.12
                await self._store.ping()
        except TimeoutError as error:
            raise StoreUnavailable("The reward store does not answer.", retry_after_s=1) from error

    async def check_alive(self) -> None:
        """Raises `EngineDead` when only a restart helps."""
        await self._check_engine()
        if self.stalled_s > self._fatal_stall_s:
            raise EngineDead("The engine has given no output for too long; restart the service.")

    async def watch(self) -> None:
        """End every request inside as soon as the engine is dead; log each change of readiness once."""
        state = "ready"
        while True:
            try:
                now = await self._state()
            except Exception:
                log.exception("a health check failed in itself")
                now = state
            if now != state:
                log.warning("readiness changed: %s", now)
            state = now
            await asyncio.sleep(TICK_S)

    async def _state(self) -> str:
        try:
            await self._check_engine()
        except EngineDead as error:
            self._admission.stop_all(error)
            return error.message
        try:
            await self.check_ready()
        except Unavailable as error:
            return error.message
        return "ready"

    async def _check_engine(self) -> None:
        """A check that does not return is no proof of death (the machine may be busy): the stall watch decides that."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._engine.check()
        except TimeoutError:
            log.warning("the engine's own check did not answer within %s s", CHECK_TIMEOUT_S)
        except EngineDead as error:
            raise EngineDead(error.message, retry_after_s=5) from error
        except ServiceError as error:
            raise EngineDead("The engine does not answer; restart it.", retry_after_s=5) from error

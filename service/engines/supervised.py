"""An engine in front of an engine, which can be taken down and replaced while judges go on holding this one.

It decides nothing: `service.health` finds out how the engine does and `service.recovery` what is done about it. Here is
what both need: no call without a deadline, a refusal at once while there is no engine, and the count of answers that
were no finite numbers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import cast

from service.engines.base import (
    Engine,
    EngineInfo,
    EngineRequest,
    Progress,
    Repeatable,
    TextDelta,
    adaptable,
    is_sound,
    reloadable,
)
from service.errors import EngineDead, JudgmentFailed, NonFiniteScore, ServiceError, StartupError
from service.types import Completion

log = logging.getLogger("gram.engine")

CLOSE_S = 60.0
"""Engines bound their own end; one that does not hold to it must not hold up its successor."""


class SupervisedEngine:
    """``make`` builds an engine, not started; each replacement is another one. ``canary`` is a small request that every
    sound engine answers with finite numbers (None: it is never asked). No call takes longer than ``limit_s`` seconds,
    no start longer than ``start_limit_s``.
    """

    def __init__(
        self, make: Callable[[], Engine], canary: EngineRequest | None, limit_s: float, start_limit_s: float = 1800.0
    ) -> None:
        self._make = make
        self._canary = canary
        self._limit_s = limit_s
        self._start_limit_s = start_limit_s
        self._engine: Engine | None = None
        self._last: Engine | None = None
        self._info: EngineInfo | None = None
        self._down: str | None = "The engine is not started."
        self._held: str | None = None
        self._changing = 0
        self._changed_at = -math.inf
        self._back_at = 0.0
        self._on_replaced: list[Callable[[], None]] = []
        self.start_s = 0.0
        self.unsound = 0

    @property
    def info(self) -> EngineInfo:
        """The last engine's while there is none: its successor serves the same."""
        if self._info is None:
            raise self._gone()
        return self._info

    @property
    def progress(self) -> Progress:
        """A change of weights is no hang: while it goes on, and at its end, the engine counts as having moved."""
        if self._engine is None or self._changing:
            return Progress(0, time.monotonic(), time.monotonic())
        seen = self._engine.progress
        return Progress(seen.unfinished, max(seen.since, self._changed_at), max(seen.last, self._changed_at))

    @property
    def has_canary(self) -> bool:
        return self._canary is not None

    def on_replaced(self, callback: Callable[[], None]) -> None:
        """Call `callback` when another engine has taken over: for what remembers answers of the old one."""
        self._on_replaced.append(callback)

    async def start(self) -> None:
        """Start the first engine. Raises `StartupError`, also for one that answers with broken numbers."""
        self._take_over(await self._started(self._make()))

    async def complete(self, request: EngineRequest) -> Completion:
        """The engine's answer, with its errors; `EngineDead` while there is none, `JudgmentFailed` after a while."""
        engine = self._open()
        try:
            async with asyncio.timeout(self._limit_s) as timer:
                completion = await engine.complete(request)
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise JudgmentFailed("The engine gave no answer in time; ask for less at once.") from error
        self.unsound = 0 if is_sound(completion) else self.unsound + 1
        return completion

    async def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        """As the engine's own; ``limit_s`` bounds the time between two pieces."""
        # The protocol promises an iterator; every engine's is a generator, which must end when this one does.
        written = cast(AsyncGenerator[TextDelta | Completion, None], self._open().stream(request))
        async with aclosing(written) as pieces:
            while True:
                try:
                    async with asyncio.timeout(self._limit_s) as timer:
                        piece = await anext(pieces, None)
                except TimeoutError as error:
                    if not timer.expired():
                        raise
                    raise JudgmentFailed("The engine stopped writing; try it again.") from error
                if piece is None:
                    return
                yield piece

    async def check(self) -> None:
        await self._running().check()

    async def close(self) -> None:
        self._down = "The engine is closed."
        await self._drop()

    async def reload(self, model: str | None, version: str | None) -> None:
        """The engine's own, if it can."""
        with self._change() as engine:
            await reloadable(engine).reload(model, version)

    async def add_adapter(self, name: str, path: str) -> None:
        with self._change() as engine:
            await adaptable(engine).add_adapter(name, path)

    async def remove_adapter(self, name: str) -> None:
        with self._change() as engine:
            await adaptable(engine).remove_adapter(name)

    @contextmanager
    def _change(self) -> Iterator[Engine]:
        """What is changed in the engine is what its successor must serve."""
        engine = self._running()
        self._changing += 1
        try:
            yield engine
        finally:
            self._changing -= 1
            self._changed_at = time.monotonic()
            self._info = engine.info

    def take_down(self, reason: str, back_in_s: float = 0.0) -> EngineDead:
        """Refuse all calls from now on, until `replace`; callers are told to come again after `back_in_s`.

        Returns the refusal.
        """
        self._down = reason
        self._back_at = time.monotonic() + back_in_s
        return self._gone()

    def hold(self, reason: str | None) -> None:
        """Refuse new calls with `reason` until it is None again; those inside go on, and the engine stays."""
        self._held = reason

    async def replace(self) -> None:
        """Close the engine, start another one, and let it take over.

        Raises `StartupError` when it does not start, answers with broken numbers or serves anything else than the one
        before; then there is none.
        """
        await self._drop()
        engine = await self._started(self._last.another() if isinstance(self._last, Repeatable) else self._make())
        if (difference := _difference(self.info, engine.info)) is not None:
            await _close(engine)
            raise StartupError(f"The engine came back with {difference}; restart the service to serve that.")
        self._take_over(engine)
        for callback in self._on_replaced:
            callback()

    async def ask_canary(self) -> None:
        """Ask for the smallest answer there is. Raises `NonFiniteScore` for broken numbers, and the engine's errors."""
        if self._canary is not None:
            await _ask(self._running(), self._canary)
            self.unsound = 0

    def _take_over(self, engine: Engine) -> None:
        self._engine = self._last = engine
        self._info, self._down, self._held, self.unsound = engine.info, None, None, 0

    def _open(self) -> Engine:
        if self._held is not None:
            raise EngineDead(self._held, retry_after_s=5)
        return self._running()

    def _running(self) -> Engine:
        if self._engine is None or self._down is not None:
            raise self._gone()
        return self._engine

    def _gone(self) -> EngineDead:
        message = self._down or "The engine is not running."
        return EngineDead(message, retry_after_s=max(1, math.ceil(self._back_at - time.monotonic())))

    async def _started(self, engine: Engine) -> Engine:
        """The engine, when it has given a sound answer. Raises `StartupError`."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._start_limit_s) as timer:
                await engine.start()
                await self._first_answer(engine)
        except BaseException as error:
            await _close(engine)
            if isinstance(error, TimeoutError) and timer.expired():
                limit = f"{self._start_limit_s:.0f} s"
                raise StartupError(f"The engine did not start within {limit}; see recovery.start_timeout_s.") from error
            raise
        self.start_s = time.monotonic() - began
        return engine

    async def _first_answer(self, engine: Engine) -> None:
        if self._canary is None:
            return
        try:
            await _ask(engine, self._canary)
        except NonFiniteScore as error:
            raise StartupError(error.message) from error
        except ServiceError as error:
            raise StartupError("The engine started and then gave no answer; its log says why.") from error

    async def _drop(self) -> None:
        if (engine := self._engine) is not None:
            self._engine = None
            await _close(engine)


async def _ask(engine: Engine, canary: EngineRequest) -> None:
    if not is_sound(await engine.complete(canary)):
        raise NonFiniteScore("The model answers with numbers that are not finite; check the weights and the dtype.")


async def _close(engine: Engine) -> None:
    """Whatever it was, it is over: its end is bounded and its errors are only logged."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await engine.close()
    except Exception:
        log.exception("an engine could not be closed properly")


def _difference(before: EngineInfo, after: EngineInfo) -> str | None:
    """In what two engines differ that requests, windows and caches depend on."""
    if before.weight_version != after.weight_version:
        return f"weights {after.weight_version} instead of {before.weight_version}"
    if before.max_model_len != after.max_model_len:
        return f"a context of {after.max_model_len} tokens instead of {before.max_model_len}"
    if before.adapter_versions != after.adapter_versions:
        return "other adapters"
    return None

"""Who gets in and for how long: a bounded number of engine prompts, deadlines, departed callers, shutdown.

Overload is refused at once, before any tokenization, with the seconds after which trying again is sensible; only
trainers whose own protocol knows no such answer wait in a line of bounded length. Everything that ends a request early
cancels its task; engines abort the work of cancelled tasks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from service.errors import DeadlineExceeded, Draining, Overloaded, ServiceError

T = TypeVar("T")

RATE_WINDOW_S = 30.0
MAX_RETRY_AFTER_S = 30
MAX_LINE = 4096


class ClientGone(Exception):
    """The caller closed the connection; nobody will read an answer."""


class _Running:
    """One request under its deadline; ``reason`` replaces the deadline as the error when it is stopped early."""

    def __init__(self, timer: asyncio.Timeout) -> None:
        self.timer = timer
        self.reason: ServiceError | None = None

    def stop(self, reason: ServiceError, after_s: float = 0.0) -> None:
        at = asyncio.get_running_loop().time() + after_s
        when = self.timer.when()
        if not self.timer.expired() and (when is None or at < when):
            self.reason = reason
            self.timer.reschedule(at)


class Admission:
    """Bounds the prompts inside the service and watches every request's time. Lives on one event loop."""

    def __init__(self, max_prompts: int, clock: Callable[[], float] = time.monotonic, max_line: int = MAX_LINE) -> None:
        self._max_prompts = max_prompts
        self._max_line = max_line
        self._clock = clock
        self._held = 0
        self._finished: deque[tuple[float, int]] = deque()
        self._running: set[_Running] = set()
        self._draining = False
        self._on_drain: list[Callable[[], None]] = []
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Engine prompts of the requests inside."""
        return self._held

    @property
    def in_line(self) -> int:
        """Requests that wait for room."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Requests inside."""
        return len(self._running)

    @property
    def is_draining(self) -> bool:
        return self._draining

    @contextmanager
    def prompts(self, count: int) -> Iterator[None]:
        """Hold room for `count` engine prompts. A request larger than all the room gets in when nothing else is inside.

        Raises `Overloaded` with ``retry_after_s``.
        """
        if not self._fits(count):
            raise self._overloaded("The service is at its limit of waiting prompts; try again later.")
        self._held += count
        try:
            yield
        finally:
            self._leave(count)

    @asynccontextmanager
    async def room(self, count: int, wait_s: float) -> AsyncIterator[None]:
        """As `prompts`, for callers that cannot come again later: they wait in line, first come first served.

        Raises `Overloaded` after `wait_s`, and at once where the line is full.
        """
        await self._queue(count, wait_s)
        try:
            yield
        finally:
            self._leave(count)

    @asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[None]:
        """Around one request. Raises `DeadlineExceeded`, `Draining`, or what `stop_all` was given."""
        if self._draining:
            raise Draining("The service is shutting down; send this to another replica.", retry_after_s=1)
        running: _Running | None = None
        try:
            async with asyncio.timeout(seconds) as timer:
                running = _Running(timer)
                self._running.add(running)
                yield
        except TimeoutError as error:
            if running is None or not running.timer.expired():
                raise
            message = "The deadline passed before the answer was ready; allow more time or ask for less at once."
            raise running.reason or DeadlineExceeded(message) from error
        finally:
            if running is not None:
                self._running.discard(running)

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` when draining begins: for what waits for requests that will not come any more."""
        self._on_drain.append(callback)

    def drain(self, seconds: float) -> None:
        """Refuse new requests from now on; those inside have `seconds` left."""
        self._draining = True
        for callback in self._on_drain:
            callback()
        for running in self._running:
            running.stop(Draining("The service is shutting down; try another replica.", retry_after_s=1), seconds)

    def stop_all(self, reason: ServiceError) -> None:
        """End every request inside with `reason`, now."""
        for running in self._running:
            running.stop(reason)

    async def _queue(self, count: int, wait_s: float) -> None:
        """Returns with the room held."""
        if not self._line and self._fits(count):
            self._held += count
            return
        if len(self._line) >= self._max_line:
            raise self._overloaded("The line of waiting requests is full; try again later.")
        place = (count, asyncio.get_running_loop().create_future())
        self._line.append(place)
        try:
            async with asyncio.timeout(wait_s):
                await place[1]
        except BaseException as error:
            if place[1].cancelled():
                with suppress(ValueError):  # passed over already
                    self._line.remove(place)
                self._serve_line()
            else:  # it was its turn in the same moment
                self._leave(count)
            if isinstance(error, TimeoutError):
                raise self._overloaded("There was no room before the deadline; try again later.") from error
            raise

    def _fits(self, count: int) -> bool:
        return not self._held or self._held + count <= self._max_prompts

    def _leave(self, count: int) -> None:
        self._held -= count
        self._finished.append((self._clock(), count))
        self._serve_line()

    def _serve_line(self) -> None:
        """Let those in who are first and fit: the room is theirs before anybody else can ask for it."""
        while self._line and (self._line[0][1].cancelled() or self._fits(self._line[0][0])):
            count, turn = self._line.popleft()
            if not turn.cancelled():
                self._held += count
                turn.set_result(None)

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded(message, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> int:
        """Seconds until what is inside has passed, at the recent rate."""
        now = self._clock()
        while self._finished and self._finished[0][0] < now - RATE_WINDOW_S:
            self._finished.popleft()
        rate = sum(count for _, count in self._finished) / RATE_WINDOW_S
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._held / rate))) if rate else 5


async def unless_gone(gone: Awaitable[None], work: Awaitable[T]) -> T:
    """The result of `work`. It is cancelled as soon as `gone` returns (raises `ClientGone`) or the caller is cancelled.

    Returns only when the cancelled work has ended, so that whatever it held is free again.
    """
    worker, watcher = asyncio.ensure_future(work), asyncio.ensure_future(gone)
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientGone
        return worker.result()
    finally:
        for task in (worker, watcher):
            task.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def pumped(source: AsyncGenerator[T, None], size: int = 64) -> AsyncGenerator[T, None]:
    """The items of `source`, which runs in one task of its own, at most `size` items ahead.

    A stream's first item is awaited by the handler and the rest by the response, in different tasks; deadlines inside
    the source need one. Closing this closes the source.
    """
    items: asyncio.Queue[T | None] = asyncio.Queue(size)

    async def fill() -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await items.put(item)
        finally:
            if not (task := asyncio.current_task()) or not task.cancelling():
                await items.put(None)

    filler = asyncio.create_task(fill())
    try:
        while (item := await items.get()) is not None:
            yield item
        await filler
    finally:
        filler.cancel()
        await asyncio.gather(filler, return_exceptions=True)

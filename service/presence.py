"""Callers who may leave: work ends when nobody is left to read its answer.

`unless_gone` stands around every request, `pumped` between a stream and the connection that reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

PRESENCE = "presence"
"""In a request's state, where the server tells who left (`service.connections`): its `Presence`."""


class ClientGone(Exception):
    """The caller closed the connection; nobody will read an answer."""


class Presence(Protocol):
    """Tells when a caller closes the connection."""

    @property
    def has_sent_all(self) -> bool:
        """Whether the whole request is here, so that reading its body waits for nothing."""
        ...

    def watch(self, leave: Callable[[], None]) -> None:
        """Call `leave` when it happens, or soon if it has; never within this call."""
        ...

    def forget(self) -> None:
        """Call nobody any more."""
        ...


class Awaited:
    """The presence of a caller who has left when `gone` returns: for servers that say it in no other way."""

    has_sent_all = False

    def __init__(self, gone: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._gone = gone
        self._watcher: asyncio.Task[None] | None = None

    def watch(self, leave: Callable[[], None]) -> None:
        def left(watcher: asyncio.Task[None]) -> None:
            if not watcher.cancelled():
                watcher.exception()  # a connection that cannot be watched is gone too
                leave()

        self._watcher = asyncio.create_task(self._gone())
        self._watcher.add_done_callback(left)

    def forget(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()


async def unless_gone(caller: Presence, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the caller has left: raises `ClientGone` once it has ended.

    The work runs in the caller's own task: this stands around every request.
    """
    task = asyncio.current_task()
    assert task is not None
    before, is_over, has_left = task.cancelling(), False, False

    def leave() -> None:
        nonlocal has_left
        if not is_over and not has_left:
            has_left = True
            task.cancel()

    caller.watch(leave)
    try:
        return await work
    except asyncio.CancelledError as error:
        if has_left and task.cancelling() == before + 1:  # else a deadline, say, has cancelled it as well
            raise ClientGone from error
        raise
    finally:
        is_over = True
        caller.forget()
        if has_left:
            task.uncancel()


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

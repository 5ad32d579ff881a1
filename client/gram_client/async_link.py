"""The asynchronous way to the service: `Link`, awaited."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from gram_client.calls import Call
from gram_client.errors import ConnectionLost, InvalidRequest, Overloaded, ScoringError
from gram_client.exchange import Answer, Deadline, Reply, Send, Steps, exchange
from gram_client.request import Request
from gram_client.retries import Retries
from gram_client.streams import Event, EventReader
from gram_client.transport import Settings, build, error_of_transport, reply_of, timeouts

T = TypeVar("T")


@dataclass(frozen=True)
class _Opened:
    """Connections of one event loop, and the generator that closes them with it."""

    loop: asyncio.AbstractEventLoop
    http: httpx.AsyncClient
    holder: AsyncGenerator[httpx.AsyncClient, None]


class AsyncLink:
    """Does what calls ask for, on any number of event loops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[tuple[int, int], _Opened] = {}  # by process and loop
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        opened = self._opened.get(_here())
        if opened is not None:
            await opened.holder.aclose()

    async def is_answered(self, request: Request, timeout_s: float) -> bool:
        """Asked once: False where the service says "not now" or is not there."""
        steps = exchange(request, Retries(attempts=1), Deadline(timeout_s))
        try:
            await self._drive(steps)
        except (Overloaded, ConnectionLost):
            return False
        return True

    async def run(self, call: Call[T], timeout_s: float | None) -> T:
        deadline = self._settings.deadline(timeout_s)

        def ask(request: Request) -> Steps[Reply]:
            return exchange(request, self._settings.retries, deadline)

        if len(call.parts) == 1:
            return call.read([await self._drive(call.parts[0](ask))])
        return call.read(await self._side_by_side([part(ask) for part in call.parts]))

    async def _side_by_side(self, parts: Sequence[Steps[Any]]) -> list[Any]:
        """The results in order. The first error ends the others."""
        room = asyncio.Semaphore(self._settings.concurrency)

        async def one(part: Steps[Any]) -> Any:
            async with room:
                return await self._drive(part)

        tasks = [asyncio.ensure_future(one(part)) for part in parts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, steps: Steps[T]) -> T:
        answer: Answer = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Send):
                    answer = await self._send(step)
                else:
                    await asyncio.sleep(step.seconds)
                    answer = None
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, send: Send) -> Reply | ScoringError:
        http, left_s = await self._http(), send.deadline.left_s
        request = build(http, send, {"timeout": timeouts(left_s)})
        try:
            response = await within(left_s, http.send(request))
        except (httpx.HTTPError, httpx.StreamError, asyncio.TimeoutError) as error:
            return error_of_transport(error, send.deadline)
        return reply_of(response, response.content)

    async def _http(self) -> httpx.AsyncClient:
        if self._closed:
            raise InvalidRequest("This client is closed; make another one.")
        key = _here()
        opened = self._opened.get(key)
        loop = asyncio.get_running_loop()
        if opened is not None and opened.loop is loop:  # an id may be that of a loop long gone
            return opened.http
        holder = self._hold(key)
        http = await holder.__anext__()  # nothing in it waits, so no other call of this loop comes between
        self._opened[key] = _Opened(loop, http, holder)
        return http

    async def _hold(self, key: tuple[int, int]) -> AsyncGenerator[httpx.AsyncClient, None]:
        """Suspended while the connections are used: a loop that ends closes its generators, and so these with it."""
        async with httpx.AsyncClient(**self._settings.http()) as http:
            try:
                yield http
            finally:
                self._opened.pop(key, None)

    async def stream(self, request: Request, deadline: Deadline) -> AsyncIterator[Event]:
        response = await self._open_stream(request, deadline)
        reader = EventReader()
        pieces = response.aiter_bytes()
        try:
            while (piece := await within(deadline.left_s, anext(pieces, None))) is not None:
                for event in reader.feed(piece):
                    yield event
            reader.end()
        except (httpx.HTTPError, httpx.StreamError, asyncio.TimeoutError) as error:
            raise error_of_transport(error, deadline) from error
        finally:
            await response.aclose()

    async def _open_stream(self, request: Request, deadline: Deadline) -> httpx.Response:
        """The response once it has begun well, with the tries of any other call."""
        steps = exchange(request, self._settings.retries, deadline)
        answer: Answer = None
        while True:
            step = steps.send(answer)
            if not isinstance(step, Send):
                await asyncio.sleep(step.seconds)
                answer = None
                continue
            http, left_s = await self._http(), deadline.left_s
            sent = build(http, step, {"timeout": timeouts(left_s)})
            try:
                response = await within(left_s, http.send(sent, stream=True))
                if response.status_code == 200:
                    return response
                try:
                    answer = reply_of(response, await within(deadline.left_s, response.aread()))
                finally:
                    await response.aclose()
            except (httpx.HTTPError, httpx.StreamError, asyncio.TimeoutError) as error:
                answer = error_of_transport(error, deadline)


def _here() -> tuple[int, int]:
    """This process and this event loop."""
    return os.getpid(), id(asyncio.get_running_loop())


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises `asyncio.TimeoutError` when it takes longer."""
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(seconds):
            return await work
    else:
        return await asyncio.wait_for(work, seconds)

"""The synchronous way to the service: connections, tries and chunks of `Client`, which has only methods."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpx

from gram_client.calls import Call
from gram_client.errors import ConnectionLost, InvalidRequest, Overloaded, ScoringError
from gram_client.exchange import Answer, Deadline, Reply, Send, Steps, exchange
from gram_client.request import Request
from gram_client.retries import Retries
from gram_client.streams import Event, EventReader
from gram_client.transport import Settings, build, error_of_transport, reply_of, shrinking, timeouts, too_late

T = TypeVar("T")


class Link:
    """Does what calls ask for. Safe in several threads and after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[int, httpx.Client] = {}  # by process: a fork must not share its parent's connections
        self._closed = False

    def close(self) -> None:
        self._closed = True
        http = self._opened.pop(os.getpid(), None)
        if http is not None:
            http.close()

    def is_answered(self, request: Request, timeout_s: float) -> bool:
        """Asked once: False where the service says "not now" or is not there."""
        steps = exchange(request, Retries(attempts=1), Deadline(timeout_s))
        try:
            self._drive(steps)
        except (Overloaded, ConnectionLost):
            return False
        return True

    def run(self, call: Call[T], timeout_s: float | None) -> T:
        deadline = self._settings.deadline(timeout_s)

        def ask(request: Request) -> Steps[Reply]:
            return exchange(request, self._settings.retries, deadline)

        if len(call.parts) == 1:
            return call.read([self._drive(call.parts[0](ask))])
        return call.read(self._side_by_side([part(ask) for part in call.parts], deadline))

    def _side_by_side(self, parts: Sequence[Steps[Any]], deadline: Deadline) -> list[Any]:
        """The results in order. The first error ends the others at their next step."""
        if not parts:
            return []
        pool = ThreadPoolExecutor(min(self._settings.concurrency, len(parts)), "gram-client")
        try:
            futures = [pool.submit(self._drive, part) for part in parts]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future in done:
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            deadline.cut()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _drive(self, steps: Steps[T]) -> T:
        answer: Answer = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Send):
                    answer = self._send(step)
                else:
                    time.sleep(step.seconds)
                    answer = None
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, send: Send) -> Reply | ScoringError:
        try:
            response = self._begin(send)
            try:
                return reply_of(response, _whole(response, send.deadline))
            finally:
                response.close()
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            return error_of_transport(error, send.deadline)

    def _begin(self, send: Send) -> httpx.Response:
        """The response with its body still to come."""
        http, limits = self._http(), timeouts(send.deadline.left_s)
        request = build(http, send, {"timeout": limits, "trace": shrinking(send.deadline, limits)})
        return http.send(request, stream=True)

    def _http(self) -> httpx.Client:
        if self._closed:
            raise InvalidRequest("This client is closed; make another one.")
        process = os.getpid()
        http = self._opened.get(process)
        if http is None:
            made = httpx.Client(**self._settings.http())
            http = self._opened.setdefault(process, made)  # one step: of two threads the second gives way
            if http is not made:
                made.close()
        return http

    def stream(self, request: Request, deadline: Deadline) -> Iterator[Event]:
        response = self._open_stream(request, deadline)
        reader = EventReader()
        try:
            for piece in response.iter_bytes():
                if deadline.left_s <= 0:
                    raise too_late()
                yield from reader.feed(piece)
            reader.end()
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            raise error_of_transport(error, deadline) from error
        finally:
            response.close()

    def _open_stream(self, request: Request, deadline: Deadline) -> httpx.Response:
        """The response once it has begun well, with the tries of any other call."""
        steps = exchange(request, self._settings.retries, deadline)
        answer: Answer = None
        while True:
            step = steps.send(answer)
            if not isinstance(step, Send):
                time.sleep(step.seconds)
                answer = None
                continue
            try:
                response = self._begin(step)
                if response.status_code == 200:
                    return response
                try:
                    answer = reply_of(response, _whole(response, deadline))
                finally:
                    response.close()
            except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
                answer = error_of_transport(error, deadline)


def _whole(response: httpx.Response, deadline: Deadline) -> bytes:
    """The body. Raises `TimeoutError` when it comes too slowly, piece by piece."""
    pieces = []
    for piece in response.iter_bytes():
        pieces.append(piece)
        if deadline.left_s <= 0:
            raise TimeoutError
    return b"".join(pieces)

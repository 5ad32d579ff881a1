"""Connections with an end: what uvicorn does not bound by itself.

uvicorn waits for ever for the rest of a request's headers or body, and for a caller that does not read its reply; three
hundred half-sent headers stood open for as long as anybody looked. So this protocol gives each part a time, bounds the
size of headers, and counts connections: beyond the limit only probes are answered, so that an orchestrator does not
restart a service for being popular. A proxy in front can do all of this too; the service is safe without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.presence import PRESENCE

PROBES = frozenset({"/livez", "/readyz", "/startupz"})
RESERVED = 64
"""Connections beyond the limit that are kept for probes; those after them are closed unanswered."""
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
FULL = b'{"error":{"code":"overloaded","message":"Too many connections; try again later.","retryable":true}}'

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for the headers and for the body of a request, and for a caller to go on reading its reply; the bytes of
    headers and trailers together; open connections."""

    header_s: float
    body_s: float
    write_s: float
    header_bytes: int
    connections: int


class Departure:
    """Tells the request at work that its caller has closed the connection (`service.presence.Presence`).

    ASGI's own way is a message to be awaited, for which every request would need a second task.
    """

    __slots__ = ("_leave", "_left", "_loop", "has_sent_all")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.has_sent_all = False
        self._left = False
        self._leave: Callable[[], None] | None = None

    def watch(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        if self._left:
            self._loop.call_soon(leave)

    def forget(self) -> None:
        self._leave = None

    def note(self) -> None:
        """The connection is closed."""
        self._left = True
        if self._leave is not None:
            self._leave()


class _TooLarge(Exception):
    """Headers beyond the limit; ends the parser's work."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `guarded` makes the class that uvicorn is given.

    httptools (llhttp, the parser of Node.js) reads a request in a tenth of the time that h11, in Python, takes.
    """

    limits: ClassVar[Limits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: str | None = None  # "head" or "body" of a request, None between requests
        self._read_timer: asyncio.TimerHandle | None = None
        self._read_due: float | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._header_bytes = 0
        self._at_work: RequestResponseCycle | None = None
        self._departure = Departure(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        beyond = len(self.connections) - self.limits.connections
        if beyond > RESERVED:
            transport.close()
            return
        if beyond > 0:
            self.app = _probes_only(self.app)
        self._expect(self.limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the latest request on the connection: with others sent behind it, not the one at work."""
        self._cancel_timers()
        super().connection_lost(exc)
        if self._at_work is not None and not self._at_work.response_complete:
            self._at_work.disconnected = True
            self._at_work.message_event.set()
            self._departure.note()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._at_work, self._departure = cycle, Departure(self.loop)
        self._departure.has_sent_all = not cycle.more_body
        cycle.scope["state"][PRESENCE] = self._departure
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._reading == "head":
            self._unread += len(data)
            if self._unread > self.limits.header_bytes:
                self.send_400_response("")
        elif self._reading is None and self._read_due is None and self._is_idle:
            self._expect(self.limits.header_s)  # empty lines before a request end no waiting

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading, self._unread, self._header_bytes = "head", 0, 0
        if self._read_due is None:
            self._expect(self.limits.header_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self.limits.header_bytes:
            raise _TooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading = "body"
        self._expect(self.limits.body_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading = None
        if self._at_work is self.cycle:
            self._departure.has_sent_all = True
        self._expect(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Also what the parser's errors end in, ours among them."""
        if max(self._unread, self._header_bytes) > self.limits.header_bytes:
            self.transport.write(TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect(self, seconds: float | None) -> None:
        """The next part of a request within so many seconds; None: nothing is expected.

        A timer that is there stays, and looks at the clock again when it ends: parts come faster than timers are made.
        """
        self._read_due = None if seconds is None else self.loop.time() + seconds
        if self._read_due is not None and (self._read_timer is None or self._read_due < self._read_timer.when()):
            self._set_read_timer()

    def _set_read_timer(self) -> None:
        self._cancel_read_timer()
        if self._read_due is not None:
            self._read_timer = self.loop.call_at(self._read_due, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._read_timer = None
        if self._read_due is not None and self.loop.time() >= self._read_due:
            self._read_due = None
            self._too_late()
        elif self._read_timer is None:
            self._set_read_timer()

    def _too_late(self) -> None:
        if self.flow.read_paused:  # it is this side that does not read
            self._expect(self.limits.body_s)
        elif not self.transport.is_closing():
            if self._reading == "head" and self._is_idle:
                self.transport.write(LATE)
            self.transport.close()

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _cancel_timers(self) -> None:
        self._read_due = None
        self._cancel_read_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def guarded(limits: Limits) -> type[GuardedProtocol]:
    """The protocol with its limits, as uvicorn's ``http`` setting takes it."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits})


def _probes_only(app: App) -> App:
    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(FULL)).encode())]
        headers += [(b"retry-after", b"1"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": FULL})

    return answer

"""A client that costs almost nothing: one request after the other on a connection, in as few steps as asyncio allows.

Load is to be limited by the service and not by whoever measures it; and a measurement wants to see what stood on the
wire, and to hang up in the middle of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_TOTAL = re.compile(rb"total;dur=([\d.]+)")
_LINGER_NONE = struct.pack("ii", 1, 0)


class Cut(ConnectionError):
    """The connection ended; ``begun``: in the middle of a reply."""

    def __init__(self, begun: bool) -> None:
        super().__init__("in the middle of a reply" if begun else "before a reply")
        self.begun = begun


@dataclass(frozen=True, slots=True)
class Reply:
    """``seconds`` from the first byte sent to the last one received."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    @property
    def retry_after_s(self) -> int | None:
        found = _RETRY_AFTER.search(self.head)
        return int(found[1]) if found else None

    @property
    def service_s(self) -> float:
        """The service's own account of it (Server-Timing), NaN without one: the rest is waiting for a processor."""
        found = _TOTAL.search(self.head)
        return float(found[1]) / 1000 if found else float("nan")

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """To one address. Replies must carry a Content-Length."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n") + 4
        if head_end < 4 or self._answer is None:
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        end = head_end + int(length[1]) if length else head_end
        if len(self._buffer) >= end and not self._answer.done():
            self._answer.set_result((self._buffer[:head_end], self._buffer[head_end:end]))
            self._buffer = self._buffer[end:]

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Cut(bool(self._buffer)))
        self._transport = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Raises `Cut` on a closed connection."""
        if self._transport is None:
            raise Cut(begun=False)
        self._transport.write(data)

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request and read its reply. Raises `Cut`."""
        self._answer = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        self.write(request)
        head, body = await self._answer
        return Reply(int(head[9:12]), head, body, time.perf_counter() - started)

    def close(self, *, reset: bool = False) -> None:
        """Hang up: with a FIN, or with an RST as a killed process's machine may send."""
        if self._transport is None:
            return
        if reset:
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            self._transport.abort()
        else:
            self._transport.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection that is closed at the end."""
    connection = await open_connection(url)
    try:
        yield connection
    finally:
        connection.close()


async def open_connection(url: str) -> Connection:
    address = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.hostname, address.port)
    return connection


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def post(path: str, body: bytes | Mapping[str, Any], **headers: str) -> bytes:
    """A request as it stands on the wire; ``x_deadline_ms="5"`` is the header X-Deadline-Ms."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

"""Callers that are slow, or that never finish: each part of a request has its time, and a connection its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from service.connections import RESERVED, Limits, guarded

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = Limits(header_s=0.2, body_s=0.25, write_s=0.3, header_bytes=4096, connections=1000)
LATEST_S = 5.0
"""How much later than its time a connection may be closed on a busy machine."""

head_was_read = asyncio.Event()


async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Reads the body; answers with its length, on /large with more than any buffer holds, on /late in two steps."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    if scope["path"] == "/late":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await head_was_read.wait()
        await send({"type": "http.response.body", "body": b"late"})
        return
    body = b"x" * 50_000_000 if scope["path"] == "/large" else str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listening(limits: Limits = LIMITS) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=guarded(limits), ws="none", lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        config.load()
        task = asyncio.create_task(server._serve([listener]))
        yield listener.getsockname()[1], server
        server.should_exit = True
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[tuple[int, uvicorn.Server]]:
    async with listening() as found:
        yield found


@pytest.fixture
def port(running: tuple[int, uvicorn.Server]) -> int:
    return running[0]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until_closed(reader: asyncio.StreamReader, least_s: float) -> bytes:
    """What still came. The other side must have closed after `least_s` at the earliest."""
    started = time.monotonic()
    try:
        rest = await asyncio.wait_for(reader.read(), least_s + LATEST_S)
    except ConnectionResetError:
        rest = b""
    assert time.monotonic() - started >= least_s
    return rest


async def drip(writer: asyncio.StreamWriter, piece: bytes, every_s: float = 0.05) -> None:
    """A byte now and then, as long as somebody takes them."""
    with contextlib.suppress(OSError):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_s)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: "
HALF_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
HALF_CHUNKS = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


@pytest.mark.parametrize("piece", [None, b"x", b"x: y\r\n"])
@pytest.mark.parametrize("before", [b"", GET])
async def test_headers_that_do_not_end(port: int, before: bytes, piece: bytes | None) -> None:
    """From the first byte: further ones do not prolong the time."""
    async with connected(port) as (reader, writer):
        writer.write(before)
        if before:
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
        writer.write(HALF_HEAD if piece is None else b"GET / HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip(writer, piece)) if piece else None
        rest = await until_closed(reader, 0.9 * LIMITS.header_s)
        assert rest.startswith(b"HTTP/1.1 408") or not rest
        if dripping:
            dripping.cancel()


async def test_a_connection_that_says_nothing(port: int) -> None:
    async with connected(port) as (reader, _writer):
        assert await until_closed(reader, 0.9 * LIMITS.header_s) == b""


async def test_empty_lines_between_requests_are_no_sign_of_life(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n0")
        dripping = asyncio.create_task(drip(writer, b"\r\n"))
        await until_closed(reader, 0.9 * LIMITS.header_s)
        dripping.cancel()


@pytest.mark.parametrize("head", [HALF_BODY, HALF_CHUNKS])
@pytest.mark.parametrize("dripping", [False, True])
async def test_a_body_that_does_not_end(port: int, head: bytes, dripping: bool) -> None:
    async with connected(port) as (reader, writer):
        writer.write(head)
        piece = b"x" if head is HALF_BODY else b"1\r\nx\r\n"
        task = asyncio.create_task(drip(writer, piece)) if dripping else None
        assert await until_closed(reader, 0.9 * LIMITS.body_s) == b""
        if task:
            task.cancel()


async def test_a_reply_that_nobody_reads(running: tuple[int, uvicorn.Server]) -> None:
    port, server = running
    async with connected(port) as (_, writer):
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET.replace(b" / ", b" /large "))
        started = time.monotonic()
        while not server.server_state.connections:
            await asyncio.sleep(0.01)
        while server.server_state.connections:
            assert time.monotonic() - started < LATEST_S
            await asyncio.sleep(0.01)
        assert time.monotonic() - started >= 0.9 * LIMITS.write_s


async def test_whoever_is_in_time_is_never_cut_off(port: int) -> None:
    """Requests with pauses, in pieces, pipelined: each part is within its time, all of them together are not."""
    async with connected(port) as (reader, writer):
        for number in range(4):
            for piece in (b"POST / HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 4\r\n\r\n", b"ab", b"cd"):
                writer.write(piece)
                await asyncio.sleep(0.04)
            assert (await reader.readuntil(b"\r\n\r\n4")).startswith(b"HTTP/1.1 200"), number
        writer.write(GET * 20)
        for _ in range(20):
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [1000, 60_000, 300_000])
@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b""),
        (b"GET /", b""),
        (HALF_CHUNKS + b"0\r\nX-Trailer: ", b"\r\n\r\n"),
    ],
    ids=["a whole head", "half a head", "half an address", "a trailer"],
)
async def test_headers_are_bounded(port: int, head: bytes, tail: bytes, size: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(head + b"x" * size + tail)
        answer = await until_closed(reader, 0.0) if size > LIMITS.header_bytes else await reader.read(12)
        ends = b"200" if tail else b"408"
        assert not answer or answer[:12] == b"HTTP/1.1 " + (b"431" if size > LIMITS.header_bytes else ends)
        if size == 60_000 and tail and head.startswith(b"GET"):
            assert answer, "who sent a whole request, and all of it was read, is told what was wrong with it"


async def test_beyond_the_limit_only_probes_are_answered() -> None:
    limits = Limits(5, 5, 5, 4096, connections=3)
    async with listening(limits) as (port, server), contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            reader, writer = await stack.enter_async_context(connected(port))
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n0")
        for path, status in ((b"/score", b"503"), (b"/livez", b"200"), (b"/readyz", b"200")):
            async with connected(port) as (reader, writer):
                writer.write(GET.replace(b" / ", b" " + path + b" "))
                answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                assert answer[9:12] == status
                assert (b"retry-after" in answer) == (status == b"503")
        while len(server.server_state.connections) > 3:
            await asyncio.sleep(0.01)
        silent = [await stack.enter_async_context(connected(port)) for _ in range(RESERVED)]
        async with connected(port) as (reader, _):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert len(silent) == RESERVED


async def test_a_head_does_not_wait_for_a_body_that_is_late(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(b"POST /late HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"x")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        head_was_read.set()
        assert await reader.readexactly(4) == b"late"

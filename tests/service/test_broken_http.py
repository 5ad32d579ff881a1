"""Requests that are broken below the body, over sockets: framing, headers, smuggled requests, compressed bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.engines.fake import FakeEngine
from tests.support.properties import count
from tests.support.serving import PAIR, ROUTES, Api, listening, options

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = json.dumps(PAIR).encode()
SMUGGLED = b"POST /compare HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
"""What would be judged if it were taken for a request of its own."""
WAIT_S, SILENCE_S = 2.0, 0.15
"""For the first answer, and behind the last one."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with listening({"limits": {"max_body_bytes": 64 * 1024}}, FakeEngine(options())) as running:
        yield running


def head(route: str, *lines: bytes) -> bytes:
    return b"\r\n".join((f"POST {route} HTTP/1.1".encode(), b"Host: x", b"Content-Type: application/json", *lines))


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


TE, CL = b"Transfer-Encoding: chunked", b"Content-Length: %d"
FRAMING: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "length, then chunks": ((CL % 5, TE), b"0\r\n\r\n" + SMUGGLED),
    "chunks, then length": ((TE, CL % (5 + len(SMUGGLED))), b"0\r\n\r\n" + SMUGGLED),
    "two lengths, the first too short": ((CL % 2, CL % len(BODY)), BODY + SMUGGLED),
    "two lengths, the last too short": ((CL % len(BODY), CL % 2), BODY + SMUGGLED),
    "two lengths in one": ((b"Content-Length: 2, %d" % len(BODY),), BODY + SMUGGLED),
    "a length with a sign": ((b"Content-Length: +5",), b"{}   " + SMUGGLED),
    "a negative length": ((b"Content-Length: -1",), SMUGGLED),
    "a length in hex": ((b"Content-Length: 0x5",), b"{}   " + SMUGGLED),
    "a length with a comma": ((b"Content-Length: 5,",), b"{}   " + SMUGGLED),
    "a length with space inside": ((b"Content-Length: 1 0",), b"{}   " + SMUGGLED),
    "a length of other digits": (("Content-Length: \u0665".encode(),), b"{}   " + SMUGGLED),
    "a length that overflows": ((b"Content-Length: 18446744073709551621",), b"{}   " + SMUGGLED),
    "a space before the colon": ((b"Transfer-Encoding : chunked", CL % 5), b"0\r\n\r\n" + SMUGGLED),
    "a folded header": ((b"X: y\r\n Transfer-Encoding: chunked", CL % 5), b"0\r\n\r\n" + SMUGGLED),
    "an unknown coding": ((b"Transfer-Encoding: xchunked",), b"0\r\n\r\n" + SMUGGLED),
    "chunked twice": ((TE, TE), b"0\r\n\r\n" + SMUGGLED),
    "chunked before gzip": ((b"Transfer-Encoding: chunked, gzip",), b"0\r\n\r\n" + SMUGGLED),
    "gzip before chunked": ((b"Transfer-Encoding: gzip, chunked",), b"0\r\n\r\n" + SMUGGLED),
    "identity and chunked": ((b"Transfer-Encoding: identity", TE), b"0\r\n\r\n" + SMUGGLED),
    "a tab before chunked, and a length": ((b"Transfer-Encoding:\tchunked", CL % 5), b"0\r\n\r\n" + SMUGGLED),
    "a vertical tab in the coding": ((b"Transfer-Encoding: \x0bchunked", CL % 5), b"0\r\n\r\n" + SMUGGLED),
    "a NUL in a header": ((b"X: a\x00b", CL % 2), b"{}" + SMUGGLED),
    "a bare carriage return": ((b"X: a\rTransfer-Encoding: chunked", CL % 2), b"{}" + SMUGGLED),
    "a chunk size that is none": ((TE,), b"zz\r\n" + SMUGGLED),
    "a negative chunk": ((TE,), b"-5\r\n" + SMUGGLED),
    "a chunk size that overflows": ((TE,), b"fffffffffffffffff\r\n" + SMUGGLED),
    "a chunk longer than it says": ((TE,), b"2\r\n{}" + SMUGGLED),
    "a chunk size with a sign": ((TE,), b"+2\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
}
"""Two readers could disagree on where these end. One is answered at the most, with a 4xx, and then it is over."""

LINES: dict[str, bytes] = {
    "garbage": b"garbage\r\n\r\n",
    "no version": b"POST /compare\r\nHost: x\r\n\r\n",
    "another version": b"POST /compare HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"POST /compare HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": b"GET /models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 40,
    "a header without colon": b"GET /models HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "a header without name": b"GET /models HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "spaces in the path": b"GET /models /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path of bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "huge header": b"GET /models HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "huge path": b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": b"GET /models HTTP/1.1\r\nHost: x\r\n"
    + b"".join(b"X%d: y\r\n" % n for n in range(20_000))
    + b"\r\n",
    "huge method": b"X" * 100_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a proxy's request": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a whole address": b"POST http://example.org/compare HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "an expectation": b"POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\nContent-Length: 0\r\n\r\n",
}


async def exchange(api: Api, raw: bytes, wait_s: float = WAIT_S, silence_s: float = SILENCE_S) -> list[int]:
    """Statuses of all answers to what was written, until the server closes or falls silent."""
    count()
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
    data = b""
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            while piece := await asyncio.wait_for(reader.read(65_536), wait_s if not data else silence_s):
                data += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


async def alive(api: Api) -> bool:
    return (await api.client.get("/livez")).status_code == 200


@pytest.mark.parametrize("name", FRAMING)
async def test_nothing_is_smuggled(api: Api, name: str) -> None:
    lines, data = FRAMING[name]
    for route in ROUTES if name in ("length, then chunks", "chunks, then length") else ROUTES[:1]:
        before = api.engine.calls
        statuses = await exchange(api, head(route, *lines) + b"\r\n\r\n" + data)
        assert len(statuses) <= 1, statuses
        assert all(400 <= status < 500 or status == 501 for status in statuses), statuses
        assert api.engine.calls == before, "the smuggled request was judged"
    assert await alive(api)


@pytest.mark.parametrize("line", [b"0" * 70_000 + b"2", b"2;" + b"x" * 70_000, b"2;a=b;c"])
async def test_long_chunk_lines_are_refused_or_read_as_what_they_are(api: Api, line: bytes) -> None:
    """However long a size or an extension is, no reader disagrees on where the body ends."""
    data = line + b"\r\n{}\r\n0\r\n\r\n" + SMUGGLED
    statuses = await exchange(api, head("/compare", TE) + b"\r\n\r\n" + data, 5, 2)
    assert statuses in ([], [400], [422, 200])
    assert await alive(api)


@pytest.mark.parametrize("name", LINES)
async def test_broken_heads_are_refused(api: Api, name: str) -> None:
    statuses = await exchange(api, LINES[name])
    assert all(400 <= status < 500 for status in statuses), statuses
    assert await alive(api)


async def test_a_request_behind_a_good_one_is_a_request(api: Api) -> None:
    """The control: two whole requests on one connection are two answers."""
    good = head("/compare", CL % len(BODY)) + b"\r\n\r\n" + BODY
    assert await exchange(api, good + SMUGGLED, 5, 2) == [200, 200]
    assert await exchange(api, head("/compare", TE) + b"\r\n\r\n" + chunked(BODY[:7], BODY[7:]), 5) == [200]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x" * 100])
async def test_a_compressed_body_is_not_unpacked(api: Api, route: str, coding: str) -> None:
    """No bomb: it is refused for its coding, and is no JSON where it does not tell."""
    data = gzip.compress(b" " * 10_000_000 + BODY)
    lines = (f"Content-Encoding: {coding}".encode(), CL % len(data))
    assert await exchange(api, head(route, *lines) + b"\r\n\r\n" + data, 5) == [415]
    assert await exchange(api, head(route, lines[1]) + b"\r\n\r\n" + data, 5) == [400]

"""Each weather does to a connection what its name says, and nothing to those before and after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.fault_proxy import CLEAR, WEATHERS, FaultProxy, Weather

PIECE = bytes(range(200))


@asynccontextmanager
async def echoing() -> AsyncIterator[FaultProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1000):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def said(proxy: FaultProxy, seconds: float = 5.0) -> bytes:
    """What comes back of a piece until the connection breaks, all of it is there, or time is up."""
    port = int(proxy.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    back = b""
    try:
        async with asyncio.timeout(seconds):
            writer.write(PIECE)
            while len(back) < len(PIECE) and (piece := await reader.read(1000)):
                back += piece
    except (TimeoutError, OSError):
        pass
    finally:
        writer.close()
    return back


async def test_clear_weather_changes_nothing() -> None:
    async with echoing() as proxy:
        assert await said(proxy) == PIECE
        assert proxy.struck == 0


@pytest.mark.parametrize(
    ("weather", "back", "at_least_s"),
    [
        (WEATHERS["latency 50 ms"], PIECE, 0.1),
        (Weather("jitter", jitter_s=0.05), PIECE, 0.0),
        (WEATHERS["cut in the request"], b"", 0.0),
        (WEATHERS["cut in the reply"], PIECE[:100], 0.0),
        (WEATHERS["blackhole"], b"", 0.3),
        (Weather("slow", bytes_per_s=1000.0), PIECE, 0.2),
    ],
    ids=lambda value: value.name if isinstance(value, Weather) else "",
)
async def test_weather(weather: Weather, back: bytes, at_least_s: float) -> None:
    async with echoing() as proxy:
        proxy.weather, started = weather, time.monotonic()
        found = await said(proxy, 0.3 if weather.blackhole else 5.0)
        assert time.monotonic() - started >= at_least_s
        assert found == back if not weather.cut else back.startswith(found)  # a reset may overtake what was sent
        assert len(found) < len(PIECE) or not weather.cut
        assert proxy.struck > 0
        proxy.weather = CLEAR
        assert await said(proxy) == PIECE


async def test_a_proxy_before_nothing_closes_the_connection() -> None:
    async with FaultProxy(1) as proxy:
        assert await said(proxy) == b""

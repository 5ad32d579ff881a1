"""A network that misbehaves: a TCP proxy in front of a server, whose weather can change while connections last."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to the bytes of a connection, in both directions unless one is named.

    ``latency_s`` and up to ``jitter_s`` more pass before each piece. ``cut``: half a piece of the request, or of the
    reply, goes through, then the connection is reset. ``bytes_per_s`` lets single bytes through. ``blackhole``: nothing
    arrives any more, and nobody says so.
    """

    name: str = "clear"
    latency_s: float = 0.0
    jitter_s: float = 0.0
    cut: str = ""
    bytes_per_s: float = 0.0
    blackhole: bool = False


CLEAR = Weather()
WEATHERS = {
    weather.name: weather
    for weather in (
        Weather("latency 50 ms", latency_s=0.05),
        Weather("latency 500 ms", latency_s=0.5),
        Weather("jitter", jitter_s=0.4),
        Weather("cut in the request", cut="request"),
        Weather("cut in the reply", cut="reply"),
        Weather("1 byte a second", bytes_per_s=1.0),
        Weather("blackhole", blackhole=True),
    )
}


class FaultProxy:
    """Listens on a loopback port of its own until the ``async with`` block ends. ``struck`` counts pieces that met
    anything but clear weather."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.weather = CLEAR
        self.struck = 0
        self._to = port
        self._draw = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            writers.append(back)
            reset = _resetting(writers)
            pumps = [
                asyncio.create_task(self._pump(reader, back, "request", reset)),
                asyncio.create_task(self._pump(there, writer, "reply", reset)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens there; the caller's connection is closed
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in writers:
                one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str, reset: Callable[[], None]
    ) -> None:
        """Until either side has closed, or the weather has cut them apart."""
        with suppress(OSError):
            while piece := await reader.read(CHUNK):
                weather = self.weather
                self.struck += weather is not CLEAR
                await asyncio.sleep(weather.latency_s + weather.jitter_s * self._draw.random())
                if weather.blackhole:
                    continue
                if weather.cut == direction:
                    writer.write(piece[: len(piece) // 2])
                    await writer.drain()
                    reset()
                    return
                if weather.bytes_per_s:
                    await _drip(writer, piece, weather.bytes_per_s)
                else:
                    writer.write(piece)
                    await writer.drain()


def _resetting(writers: list[asyncio.StreamWriter]) -> Callable[[], None]:
    """What breaks the connections off instead of closing them."""

    def reset() -> None:
        for writer in writers:
            writer.transport.abort()

    return reset


async def _drip(writer: asyncio.StreamWriter, piece: bytes, bytes_per_s: float) -> None:
    for byte in piece:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1 / bytes_per_s)

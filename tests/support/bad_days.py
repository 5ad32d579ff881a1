"""The service on its good and bad days, on a real port, for clients that must live through all of them.

The application with its fake engine runs in a thread of its own, so that trainers, process pools and event loops of the
test's own talk to it as to any server. What goes wrong is chosen by a `Day`, and may change while it runs.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, Fault, decode_bytes
from service.server import server_config
from tests.support.serving import options, started

UNJUDGEABLE = "[unjudgeable]"
"""The engine breaks every prompt that holds these words: one failed item among others that are judged."""

Weather = Literal["healthy", "slow", "overloaded", "failed item", "killed"]
WEATHERS: tuple[Weather, ...] = ("healthy", "slow", "overloaded", "failed item", "killed")
SLOW_S = 5.0
JUDGING = ("/score", "/compare", "/rank", "/rationale", "/get_reward", "/remote_rm", "/classify", "/rerank")


def patience_s(weather: Weather) -> float:
    """A client's deadline on such a day: short where it is to be seen passing, else more than enough."""
    return 1.5 if weather in ("overloaded", "killed") else 60.0


@dataclass
class Day:
    """What callers of judging routes meet.

    ``slow_s`` passes before each answer. The next ``refusals`` requests get 503 (a negative number: all of them). After
    ``lives`` requests more the service is gone, as by SIGKILL: the request in hand and all connections break, and
    nothing listens any more. ``served`` counts the requests that went through.
    """

    slow_s: float = 0.0
    refusals: int = 0
    lives: int | None = None
    served: int = 0
    refused: int = 0
    paths: list[str] = field(default_factory=list)


def day_of(weather: Weather) -> Day:
    """A failed item needs no weather: the caller sends a prompt with `UNJUDGEABLE` in it."""
    if weather == "slow":
        return Day(slow_s=SLOW_S)
    if weather == "overloaded":
        return Day(refusals=-1)
    return Day(lives=0) if weather == "killed" else Day()


@dataclass
class Served:
    """A service that runs, and its day."""

    url: str
    day: Day
    engine: FakeEngine


def _fault(request: EngineRequest) -> Fault | None:
    return "nan" if UNJUDGEABLE in decode_bytes(request.prompt_ids) else None


class _Bad:
    """The application, as the day lets it be."""

    def __init__(self, app: ASGIApp, day: Day) -> None:
        self.app, self.day = app, day
        self.server: uvicorn.Server | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in JUDGING:
            day = self.day
            day.paths.append(scope["path"])
            if day.lives is not None and day.lives <= 0:
                return self._die()
            if day.refusals != 0:
                day.refusals -= 1
                day.refused += 1
                return await _refuse(send)
            await asyncio.sleep(day.slow_s)
            day.served += 1
            day.lives = None if day.lives is None else day.lives - 1
        return await self.app(scope, receive, send)

    def _die(self) -> None:
        assert self.server is not None
        for listener in self.server.servers:
            listener.close()
        for connection in list(self.server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


async def _refuse(send: Send) -> None:
    """The service's own refusal."""
    body = b'{"error":{"code":"overloaded","message":"Too much at once.","request_id":"x","retryable":true}}'
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving_through(day: Day | None = None, overrides: dict[str, Any] | None = None) -> Iterator[Served]:
    """A service on a free loopback port, in a thread, until the block ends."""
    day = day or Day()
    engine = FakeEngine(options(fault=_fault))
    ready = threading.Event()
    told: dict[str, Any] = {}

    async def serve() -> None:
        async with started(overrides, engine) as (app, _):
            bad = _Bad(app, day)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                config = server_config(app, app.state.gate.settings)
                config.app = bad
                config.loop = "asyncio"
                config.load()
                server = bad.server = uvicorn.Server(config)
                told.update(port=listener.getsockname()[1], server=server, loop=asyncio.get_running_loop())
                ready.set()
                await server._serve([listener])

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            told["error"] = error
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="service", daemon=True)
    thread.start()
    assert ready.wait(30), "the service did not start"
    if "error" in told:
        raise told["error"]
    try:
        yield Served(f"http://127.0.0.1:{told['port']}", day, engine)
    finally:
        told["server"].should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the service did not stop"

"""The whole application on the fake engine: over ASGI for most tests, on a loopback port for what needs sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import httpx
import uvicorn
from fastapi import FastAPI

from service import startup
from service.admission import Admission
from service.app import build_app
from service.engines.fake import FakeEngine, FakeOptions
from service.server import server_config
from service.settings import Settings, load_settings
from service.stores.base import RewardStore

JUDGES = [{"name": family, "family": family} for family in ("gram", "gram_r2", "rm_r1", "scalar")]
PAIR = {"prompt": "What is 7 + 5?", "response_a": "12", "response_b": "13"}
ROUTES = ("/compare", "/rank", "/rationale", "/score")
BODIES: dict[str, dict[str, Any]] = {
    "/compare": PAIR,
    "/rank": {"prompt": "What is 7 + 5?", "responses": ["12", "13", "twelve"]},
    "/rationale": PAIR,
    "/score": {"items": [{"prompt": "What is 7 + 5?", "response": "12", "reference": "13"}]},
}
"""A good body for each judging route."""


@dataclass(slots=True)
class Api:
    """A running application and a client of it."""

    app: FastAPI
    engine: FakeEngine
    client: httpx.AsyncClient
    url: str = "http://service"

    @property
    def admission(self) -> Admission:
        admission: Admission = self.app.state.gate.admission
        return admission

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers=headers)

    async def send(self, path: str, body: bytes, content_type: str = "application/json") -> httpx.Response:
        return await self.client.post(path, content=body, headers={"Content-Type": content_type})


def options(**changes: Any) -> FakeOptions:
    """Room for the longest family's prompt at one token a byte."""
    return FakeOptions(max_model_len=32_768, **changes)


def settings_for(overrides: dict[str, Any] | None = None) -> Settings:
    """Tests count what the engine is asked and change its mind, so its answers are not kept unless a test wants it."""
    base: dict[str, Any] = {"engine": {"type": "fake"}, "store": {"type": "memory"}, "judges": JUDGES}
    base |= {"cache": {"entries": 0}}
    return load_settings(None, base | (overrides or {}))


@asynccontextmanager
async def started(
    overrides: dict[str, Any] | None = None, engine: FakeEngine | None = None, store: RewardStore | None = None
) -> AsyncIterator[tuple[FastAPI, FakeEngine]]:
    engine = engine or FakeEngine(options())
    app = build_app(settings_for(overrides), engine, store)
    with mock.patch.object(startup, "SELF_TEST_SAMPLES", 20):  # the tokenizer's own tests run all of them
        context = app.router.lifespan_context(app)
        await context.__aenter__()
    try:
        yield app, engine
    finally:
        await context.__aexit__(None, None, None)


@asynccontextmanager
async def serving(
    overrides: dict[str, Any] | None = None, engine: FakeEngine | None = None, store: RewardStore | None = None
) -> AsyncIterator[Api]:
    """In process, without sockets."""
    async with started(overrides, engine, store) as (app, fake):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield Api(app, fake, client)


@asynccontextmanager
async def listening(overrides: dict[str, Any] | None = None, engine: FakeEngine | None = None) -> AsyncIterator[Api]:
    """On a free loopback port, by uvicorn."""
    async with started(overrides, engine) as (app, fake):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(server_config(app, app.state.gate.settings))
            server.config.load()
            task = asyncio.create_task(server._serve([listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                yield Api(app, fake, client, url)
            server.should_exit = True
            await task


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)

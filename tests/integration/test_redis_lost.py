"""Redis stopped, frozen, restarted empty under the running service: what its callers see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.stores.redis import RedisStore
from tests.support.properties import count, scaled
from tests.support.redis_server import RedisServer
from tests.support.serving import Api, serving

pytestmark = pytest.mark.slow

DEADLINE_S = 5.0
RECOVERY_S = 5.0
CALLERS = 20
TICK_S = 0.05
BODY: dict[str, Any] = {
    "items": [{"prompt": f"q{i}", "response": "a", "reference": "b"} for i in range(4)],
    "normalize": {"queue": "q", "window": 100},
}


@asynccontextmanager
async def on_redis(folder: Path) -> AsyncIterator[tuple[Api, RedisServer]]:
    """The service on the fake engine and a Redis of its own that keeps nothing over a restart."""
    server = RedisServer(folder / "redis")
    server.start()
    try:
        async with serving(store=RedisStore(server.url)) as api:
            yield api, server
    finally:
        server.stop()


async def ask(api: Api, **headers: str) -> tuple[httpx.Response, float]:
    """A normalized request with its deadline, and the seconds it took."""
    started = time.monotonic()
    reply = await api.post("/score", BODY, **{"X-Deadline-Ms": str(int(1000 * DEADLINE_S)), **headers})
    return reply, time.monotonic() - started


class Stalls:
    """Seconds in which this process, service and callers in one, was not let run: no fault of either."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.seconds += max(0.0, time.monotonic() - before - 2 * TICK_S)


async def refused_in_time(api: Api) -> None:
    """Callers with and without keys all get an error, never a reward, before their deadline."""
    stalls = Stalls()
    watch = asyncio.create_task(stalls.watch())
    calls = [ask(api, **({"Idempotency-Key": f"key-{i}"} if i % 2 else {})) for i in range(CALLERS)]
    replies = await asyncio.gather(*calls)
    watch.cancel()
    for reply, seconds in replies:
        assert seconds - stalls.seconds < DEADLINE_S, (seconds, stalls.seconds)
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "store_unavailable"
        assert "results" not in reply.json()
        count()


async def recovered(api: Api) -> dict[str, Any]:
    """The queue part of the first reply, which must come within `RECOVERY_S` of the server's return."""
    back = time.monotonic()
    while True:
        reply, _ = await ask(api)
        if reply.status_code == 200:
            assert time.monotonic() - back < RECOVERY_S
            queue: dict[str, Any] = reply.json()["queue"]
            return queue
        assert time.monotonic() - back < RECOVERY_S, "the service did not find its store again"
        await asyncio.sleep(0.1)


async def accepted(api: Api) -> dict[str, Any]:
    reply, _ = await ask(api)
    assert reply.status_code == 200
    queue: dict[str, Any] = reply.json()["queue"]
    return queue


@pytest.mark.timeout(900)
async def test_every_request_is_answered_and_a_loss_is_visible(tmp_path: Path) -> None:
    """Round by round: stopped, restarted empty (a new epoch), frozen and let go (the same epoch)."""
    async with on_redis(tmp_path) as (api, server):
        before = await accepted(api)
        for _ in range(scaled(50, at_least=1)):
            server.stop()
            await refused_in_time(api)
            server.start()
            fresh = await recovered(api)
            assert fresh["epoch"] != before["epoch"]
            assert (fresh["seq_first"], fresh["count"]) == (1, 4)
            server.pause()
            await refused_in_time(api)
            server.resume()
            thawed = await recovered(api)
            assert thawed["epoch"] == fresh["epoch"]
            assert thawed["seq_first"] > fresh["seq_last"]
            server.restart(empty=True)
            before = await recovered(api)
            assert before["epoch"] != thawed["epoch"]
            assert before["seq_first"] == 1

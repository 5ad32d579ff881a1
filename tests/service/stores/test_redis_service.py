"""The whole service on a real Redis: replicas share a queue, and a Redis that fails is a 503 in time, never a guess."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import StartupError
from service.settings import RedisStoreSettings
from service.startup import pick_store
from service.stores.redis import RedisStore
from tests.support.redis_server import RedisServer, shared_server
from tests.support.serving import Api, serving, settings_for
from tests.support.stores import prefix_for

ITEMS = [{"prompt": "What is 7 + 5?", "response": str(n), "reference": "13"} for n in range(4)]
BODY = {"items": ITEMS, "normalize": {"queue": "run", "window": 100, "min_count": 1}}
DEADLINE_MS = 5_000


def store(url: str, prefix: str = "gram", **more: Any) -> dict[str, Any]:
    return {"store": {"type": "redis", "url": url, "prefix": prefix} | more}


async def score(api: Api, key: str) -> httpx.Response:
    headers = {"Idempotency-Key": key, "X-Deadline-Ms": str(DEADLINE_MS)}
    return await api.client.post("/score", json=BODY, headers=headers)


async def recovered(api: Api) -> None:
    """A caller that comes ten times a second is answered within five."""
    give_up_at = time.monotonic() + 5.0
    while (reply := await score(api, f"try-{time.monotonic()}")).status_code != 200:
        assert reply.status_code == 503
        assert time.monotonic() < give_up_at


def test_settings_choose_the_store(tmp_path: Path) -> None:
    settings = settings_for(store("redis://:hunter2@127.0.0.1:1/0", timeout_s=2))
    assert isinstance(settings.store, RedisStoreSettings)
    assert isinstance(pick_store(settings), RedisStore)
    assert "hunter2" not in repr(settings)
    for wrong in ({"prefix": "{x}"}, {"prefix": ""}, {"timeout_s": 0}, {"path": str(tmp_path)}):
        with pytest.raises(StartupError) as caught:
            settings_for(store("redis://:hunter2@127.0.0.1:1/0", **wrong))
        assert "hunter2" not in caught.value.message


async def test_replicas_share_queues_and_records(tmp_path: Path) -> None:
    overrides = store(shared_server().url, prefix_for(tmp_path))
    async with serving(overrides) as one, serving(overrides) as other:
        first, second = await score(one, "a"), await score(other, "b")
        assert [reply.status_code for reply in (first, second)] == [200, 200]
        assert (await score(other, "a")).content == first.content
        (queue,) = (await other.client.get("/queues/run")).json()["queues"]
        assert queue["seq_last"] == 2 * len(ITEMS)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_a_redis_that_fails_is_a_503_in_time(redis_server: RedisServer, how: str) -> None:
    async with serving(store(redis_server.url)) as api:
        assert (await score(api, "before")).status_code == 200
        redis_server.pause() if how == "frozen" else redis_server.stop()
        for number in range(8):
            began = time.monotonic()
            reply = await score(api, f"request-{number}")
            assert time.monotonic() - began < DEADLINE_MS / 1000
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
            assert int(reply.headers["Retry-After"]) == 1
        redis_server.resume() if how == "frozen" else redis_server.start()
        await recovered(api)
        assert (await score(api, "before")).status_code == 200

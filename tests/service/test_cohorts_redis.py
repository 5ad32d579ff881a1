"""Two replicas of the service on one Redis: members of a group arrive at either."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.stores.cohorts_base import Member, Snapshot, Terms
from service.stores.cohorts_redis import RedisCohorts
from service.stores.redis_link import LinkOptions
from tests.support.redis_server import RedisServer, shared_server
from tests.support.serving import JUDGES, Api, options, serving, until

PROMPT = "What is the capital of Ireland?"
NORMALIZE = {"queue": "run", "min_count": 2}
_numbers = itertools.count()


def store(prefix: str, url: str | None = None) -> dict[str, Any]:
    return {"type": "redis", "url": url or shared_server().url, "prefix": prefix, "timeout_s": 5.0}


@asynccontextmanager
async def replicas() -> AsyncIterator[tuple[Api, Api]]:
    settings = {"store": store(f"replicas-{os.getpid()}-{next(_numbers)}")}
    async with serving(settings) as one, serving(settings) as two:
        yield one, two


def body(index: int, size: int, group: str = "g") -> dict[str, Any]:
    cohort = {"group_id": group, "size": size, "index": index}
    item = {"prompt": PROMPT, "response": f"answer {index}", "cohort": cohort}
    return {"judge": "gram", "items": [item], "normalize": NORMALIZE}


def waiting(api: Api) -> int:
    return int(api.app.state.service.cohorts.waiting)


async def begun(api: Api, index: int, size: int) -> asyncio.Task[httpx.Response]:
    task = asyncio.create_task(api.post("/score", body(index, size)))
    await until(lambda: waiting(api) == 1)
    return task


async def test_members_at_different_replicas_are_one_group_counted_once() -> None:
    async with replicas() as both:
        sent = [both[index % 2].post("/score", body(index, 8)) for index in range(8)]
        replies = [reply.json() for reply in await asyncio.gather(*sent)]
        assert [reply["results"][0]["index"] for reply in replies] == list(range(8))
        assert sum(reply["results"][0]["score"] for reply in replies) == pytest.approx(4.0)
        assert sum(reply["usage"]["comparisons"] for reply in replies) == 28
        queues = [reply["queue"] for reply in replies]
        assert queues == [queues[0]] * 8
        assert (queues[0]["seq_first"], queues[0]["seq_last"]) == (1, 8)
        for api in both:
            again = await api.post("/score", body(3, 8))
            assert again.json()["results"] == replies[3]["results"]
            clashing = body(3, 8)
            clashing["items"][0]["response"] = "another"
            assert (await api.post("/score", clashing)).status_code == 409


async def test_a_cancelled_judge_leaves_the_group_to_the_other_replica() -> None:
    async with replicas() as (one, two):
        first = await begun(one, 0, 2)
        two.engine.options = options(delay_s=60)
        judge = await begun(two, 1, 2)
        await until(lambda: two.engine.in_flight == 2)
        judge.cancel()
        assert (await asyncio.wait_for(first, 10)).json()["queue"]["seq_last"] == 2
        assert one.engine.calls == 2


async def test_those_who_wait_for_a_group_share_its_looks() -> None:
    """Those who wait for a second, until the last member comes to another replica: Redis sees one of them looking."""

    class Counted(RedisCohorts):
        looks = 0

        async def look(self, key: str) -> Snapshot | None:
            self.looks += 1
            return await super().look(key)

    prefix, terms = f"looks-{os.getpid()}", Terms(64, "prompt", "rules")
    here, there = (Counted(shared_server().url, prefix=prefix, options=LinkOptions(timeout_s=5.0)) for _ in range(2))

    async def member(store: RedisCohorts, index: int) -> Snapshot:
        return await store.join("group", terms, Member(index, f"response {index}"), 60)

    try:
        for index in range(63):
            seen = await member(here, index)
        waits = [asyncio.create_task(here.wait("group", seen.version, 60)) for _ in range(100)]
        await asyncio.sleep(1.0)
        assert not any(wait.done() for wait in waits)
        last = await member(there, 63)
        released = await asyncio.wait_for(asyncio.gather(*waits), 10)
        assert all(one is not None and one.version == last.version and one.closed for one in released)
        assert here.looks < 25
        settled = here.looks
        await asyncio.sleep(0.7)
        assert here.looks <= settled + 1
    finally:
        await here.close()
        await there.close()


async def test_redis_emptied_under_those_who_wait_loses_nobody() -> None:
    async with replicas() as (one, two):
        first = await begun(one, 0, 2)
        prefix = one.app.state.gate.settings.store.prefix
        keys = shared_server().command("KEYS", f"{{{prefix}}}:cohort*")
        assert keys
        shared_server().command("DEL", *keys)
        last = await asyncio.wait_for(two.post("/score", body(1, 2)), 10)
        assert (await asyncio.wait_for(first, 10)).status_code == last.status_code == 200


async def test_redis_lost_under_those_who_wait_is_said_at_once(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        async with serving({"store": store("lost", server.url)}) as api:
            first = await begun(api, 0, 2)
            server.kill()
            reply = await asyncio.wait_for(first, 15)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
    finally:
        server.stop()


@pytest.mark.slow
async def test_kill_9_of_the_judging_replica(tmp_path: Path) -> None:
    """The other replica's waiter takes the group over when the lease has run out, and it is counted once."""
    shared = store(f"killed-{os.getpid()}")
    config = {"judges": JUDGES, "engine": {"type": "fake", "max_model_len": 32_768, "delay_s": 60.0}, "store": shared}
    environment = {f"GRAM_{name.upper()}": json.dumps(value) for name, value in config.items()}
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as doomed:  # noqa: ASYNC220
        try:
            assert doomed.stdout is not None
            url = (await asyncio.to_thread(doomed.stdout.readline)).split()[2]
            async with serving({"store": shared}) as api, httpx.AsyncClient(base_url=url, timeout=60) as client:
                first = await begun(api, 0, 2)
                judge = asyncio.create_task(client.post("/score", json=body(1, 2)))
                keys: list[bytes] = shared_server().command("KEYS", f"{{{shared['prefix']}}}:cohort:*")
                await asyncio.to_thread(_until_judged, keys[0])
                doomed.send_signal(signal.SIGKILL)
                with pytest.raises(httpx.TransportError):
                    await judge
                reply = (await asyncio.wait_for(first, 30)).json()
                assert reply["queue"]["seq_last"] == 2
                again = (await api.post("/score", body(1, 2))).json()
                assert again["queue"] == reply["queue"]
                assert api.engine.calls == 2
        finally:
            doomed.kill()


def _until_judged(key: bytes) -> None:
    """Wait until some replica holds the group."""
    for _ in range(1000):
        if shared_server().command("HGET", key, "token"):
            return
    raise AssertionError("nobody took the group")

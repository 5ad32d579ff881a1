"""The event loop keeps turning: whatever takes long is done elsewhere. First the watch itself, on planted offenders."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.blocking import LoopWatch, never_blocked
from tests.support.serving import listening

LIMIT_S = 0.25
"""Of the loop's processor time in one piece. The largest body takes about a tenth of that to be read and validated."""


def compute() -> None:
    """Half a second of this thread's processor."""
    until = time.thread_time() + 0.5
    while time.thread_time() < until:
        pass


def wait() -> None:
    time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("offence", "kind"), [(compute, "computing"), (wait, "waiting")])
async def test_a_planted_offender_is_named(offence: Callable[[], None], kind: str) -> None:
    with pytest.raises(AssertionError, match=rf"{kind} for .* in test_event_loop.py:\d+ {offence.__name__}"):
        async with never_blocked(LIMIT_S):
            await asyncio.sleep(0.02)
            offence()
            await asyncio.sleep(0.02)


async def test_idle_loops_worker_threads_and_many_short_steps_offend_nobody() -> None:
    watch = LoopWatch(0.1)
    watch.start()
    await asyncio.gather(asyncio.to_thread(compute), asyncio.sleep(0.3))
    for _ in range(300):
        sum(range(20_000))
        await asyncio.sleep(0)
    watch.stop()
    assert not watch.blocks


def test_the_blamed_frame_is_where_the_time_went() -> None:
    async def outer() -> LoopWatch:
        watch = LoopWatch(0.1)
        watch.start()
        await asyncio.sleep(0.02)
        compute()
        await asyncio.sleep(0.05)
        watch.stop()
        return watch

    (block,) = asyncio.run(outer()).blocks
    assert "compute" in block.where
    assert "outer" in block.stack


WORDS = "The quick brown fox jumps over the lazy dog and says so in plain words. "


def text(chars: int, number: int = 0) -> str:
    """So many characters; another number, another text."""
    return (f"{number} " + WORDS * (chars // len(WORDS) + 1))[:chars]


def body(path: str) -> dict[str, Any]:
    """A good body that gives each stage much to do at once. What the fake engine would take long to answer is asked as
    equal pairs, of which it is told nothing: those bodies come close to the limit of 4 MiB."""
    many = [text(6_000, number) for number in range(60)]
    most = [text(6_500, number) for number in range(300)]
    bodies: dict[str, dict[str, Any]] = {
        "/compare": {"items": [{"prompt": "q", "response_a": t, "response_b": t} for t in most]},
        "/rank": {"prompt": "q", "responses": [text(500, n) for n in range(40)], "method": "all_pairs"},
        "/score": {"items": [{"prompt": "q", "response": t, "reference": t} for t in most]},
        "/get_reward": {"query": [t + "!" for t in many], "prompts": many, "labels": ["!"] * len(many)},
        "/rerank": {"query": "q", "documents": [text(500, n) for n in range(64)], "model": "gram"},
    }
    return bodies[path]


ROUTES = ("/compare", "/rank", "/score", "/get_reward", "/rerank")


def post(url: str, path: str) -> int:
    """From a thread of its own: writing the body and reading the reply are not the service's work."""
    content = json.dumps(body(path)).encode()
    headers = {"Content-Type": "application/json", "X-Deadline-Ms": "300000"}
    return httpx.post(url + path, content=content, headers=headers, timeout=300, trust_env=False).status_code


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
async def test_the_largest_bodies_do_not_block_the_loop(path: str) -> None:
    async with listening() as api, never_blocked(LIMIT_S):
        assert await asyncio.to_thread(post, api.url, path) == 200


@pytest.mark.slow
async def test_tokenization_on_the_loop_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect that the watch is there for: the work of worker threads, done in place."""

    async def in_place(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    async with listening() as api:
        with pytest.raises(AssertionError, match="was blocked"):
            async with never_blocked(LIMIT_S):
                sending = asyncio.create_task(asyncio.to_thread(post, api.url, "/rank"))
                monkeypatch.setattr("service.scoring.asyncio.to_thread", in_place)
                await sending

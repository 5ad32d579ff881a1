"""Redis stopped, killed, frozen, restarted: calls are answered in time, the breaker opens and closes, nothing lies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from service.errors import StartupError, StoreUnavailable
from service.stores.base import IdempotencyRecord, QueueKey
from service.stores.redis import RedisStore
from service.stores.redis_link import LinkOptions
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.slow

KEY = QueueKey("shared", "demo", "v1", "t1", "group")
HASTY = LinkOptions(connect_timeout_s=0.5, timeout_s=0.5)
BOUND_S = 1.0
BUSY_S = 10.0
"""What a busy machine may add to a bound."""
RECOVERY_S = 5.0


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    opened = RedisStore(redis_server.url, options=HASTY)
    await opened.start()
    yield opened
    await opened.close()


def calls(store: RedisStore) -> list[Callable[[], Awaitable[object]]]:
    """One of each."""
    return [
        lambda: store.commit(KEY, [0.5], 10),
        lambda: store.commit(KEY, [0.5], 10, IdempotencyRecord("key", "body")),
        lambda: store.peek(KEY),
        lambda: store.list_queues(),
        lambda: store.delete(KEY),
        lambda: store.begin("key", "body"),
        lambda: store.finish("key", "body", b"reply"),
        lambda: store.ping(),
    ]


async def fails_in_time(call: Callable[[], Awaitable[object]], bound_s: float) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await call()
    assert time.monotonic() - began < bound_s
    assert caught.value.details["retry_after_s"] == 1


async def recovers_in_time(store: RedisStore, recovered_at: float) -> None:
    """Callers come ten times a second."""
    while True:
        try:
            await store.ping()
            break
        except StoreUnavailable:
            assert time.monotonic() - recovered_at < RECOVERY_S
            await asyncio.sleep(0.1)
    assert time.monotonic() - recovered_at < RECOVERY_S


async def test_a_redis_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    store = RedisStore(RedisServer(tmp_path).url, options=HASTY)
    with pytest.raises(StartupError, match="start it or correct"):
        await store.start()
    await store.close()


async def test_a_frozen_redis_stops_the_start_in_time(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, options=HASTY)
    redis_server.pause()
    began = time.monotonic()
    with pytest.raises(StartupError, match="in time"):
        await store.start()
    assert time.monotonic() - began < BOUND_S + BUSY_S
    await store.close()


async def test_a_stopped_redis_is_an_error_at_once_and_loses_nothing(
    redis_server: RedisServer, store: RedisStore
) -> None:
    record = IdempotencyRecord("kept", "body")
    first = await store.commit(KEY, [0.1, 0.2], 10, record)
    saved = await store.export(KEY)
    redis_server.stop()
    for call in calls(store):
        await fails_in_time(call, BOUND_S + BUSY_S)
    redis_server.start()
    await recovers_in_time(store, time.monotonic())
    assert await store.export(KEY) == saved
    again = await store.commit(KEY, [0.9], 10, record)
    assert (again.replayed, again.epoch, again.stats) == (True, first.epoch, first.stats)
    assert (await store.commit(KEY, [0.3], 10)).seq_first == 3


async def test_a_frozen_redis_costs_five_callers_their_timeout_and_nobody_else(
    redis_server: RedisServer, store: RedisStore
) -> None:
    await store.commit(KEY, [0.5], 10)
    redis_server.pause()
    for call in calls(store)[:5]:
        await fails_in_time(call, BOUND_S + BUSY_S)
    began = time.monotonic()
    many = await asyncio.gather(*(call() for call in calls(store) * 50), return_exceptions=True)
    assert time.monotonic() - began < BOUND_S + BUSY_S  # one of them may have been a probe
    assert {type(error) for error in many} == {StoreUnavailable}
    redis_server.resume()
    await recovers_in_time(store, time.monotonic())
    await store.commit(KEY, [0.5], 10)


async def test_many_at_once_on_a_frozen_redis_are_all_answered_in_time(
    redis_server: RedisServer, store: RedisStore
) -> None:
    """More than there are connections."""
    redis_server.pause()
    began = time.monotonic()
    many = await asyncio.gather(*(store.peek(KEY) for _ in range(300)), return_exceptions=True)
    assert time.monotonic() - began < BOUND_S + BUSY_S
    assert {type(error) for error in many} == {StoreUnavailable}
    redis_server.resume()
    await recovers_in_time(store, time.monotonic())


async def test_a_commit_whose_answer_was_lost_counts_once(redis_server: RedisServer, store: RedisStore) -> None:
    """The frozen server has read, or not, what was sent; the retry with the same key finds out."""
    await store.commit(KEY, [0.5], 10)
    record = IdempotencyRecord("key", "body", b"what was judged")
    redis_server.pause()
    with pytest.raises(StoreUnavailable, match="same Idempotency-Key"):
        await store.commit(KEY, [0.1, 0.9], 10, record)
    redis_server.resume()
    await recovers_in_time(store, time.monotonic())
    result = await store.commit(KEY, [0.1, 0.9], 10, record)
    assert (result.seq_first, result.seq_last) == (2, 3)
    state = await store.peek(KEY)
    assert state is not None
    assert (state.seq_last, state.stats) == (3, result.stats)


async def test_a_redis_that_comes_back_empty_shows_a_new_epoch(redis_server: RedisServer, store: RedisStore) -> None:
    old = await store.commit(KEY, [0.1, 0.2], 10)
    redis_server.restart(empty=True)
    await recovers_in_time(store, time.monotonic())
    assert await store.peek(KEY) is None
    new = await store.commit(KEY, [0.3], 10)
    assert new.epoch != old.epoch
    assert (new.seq_first, new.stats.count) == (1, 1)


async def test_a_killed_redis_has_every_acknowledged_commit(redis_server: RedisServer, store: RedisStore) -> None:
    """kill -9 while commits run: what was acknowledged is there, what was not is there whole or not at all."""
    for _ in range(3):
        before = await store.peek(KEY)
        acked = before.seq_last if before else 0
        writing = asyncio.create_task(write_until_it_fails(store))
        await asyncio.sleep(0.2)
        redis_server.kill()
        acked = max(acked, await writing)
        redis_server.start()
        await recovers_in_time(store, time.monotonic())
        queue = await store.get(KEY)
        assert queue is not None
        assert queue.seq_last in (acked, acked + 3)
        assert queue.scores == tuple(float(n % 3) for n in range(queue.seq_last))[-10:]


async def write_until_it_fails(store: RedisStore) -> int:
    """The last seq that was acknowledged, at least one commit of three."""
    acked = 0
    while True:
        try:
            acked = (await store.commit(KEY, [0.0, 1.0, 2.0], 10)).seq_last
        except StoreUnavailable:
            return acked

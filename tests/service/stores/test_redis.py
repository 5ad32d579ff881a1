"""What only a store on Redis can meet: other programs' keys, other clocks, replicas, a server that refuses."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import math
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.errors import StartupError, StoreUnavailable
from service.stores.base import CommitResult, IdempotencyRecord, QueueKey, StoreLimits
from service.stores.cohorts_redis import RedisCohorts
from service.stores.redis import RedisStore
from tests.support.properties import scaled
from tests.support.redis_server import RedisServer, find_server, shared_server
from tests.support.reference import check_replay
from tests.support.stores import PATIENT, prefix_for

KEY = QueueKey("shared", "demo", "v1", "t1", "group")
RECORD = IdempotencyRecord("key", "body", b"draft")


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return prefix_for(tmp_path)


@pytest.fixture
async def store(prefix: str) -> AsyncIterator[RedisStore]:
    opened = await open_store(prefix)
    yield opened
    await opened.close()


async def open_store(prefix: str, limits: StoreLimits | None = None) -> RedisStore:
    store = RedisStore(shared_server().url, limits, prefix=prefix, options=PATIENT)
    await store.start()
    return store


async def test_two_stores_interleave_without_gap_or_double(store: RedisStore, prefix: str) -> None:
    other = await open_store(prefix)
    done: list[CommitResult] = []

    async def writer(number: int) -> None:
        for i in range(scaled(10_000)):
            scores = [math.sin(1000 * number + i + j) for j in range(1 + (i + number) % 5)]
            chosen = (store, other)[(number + i) % 2]
            done.append(await chosen.commit(KEY, scores, 37))

    await asyncio.gather(*(writer(number) for number in range(4)))
    check_replay(done, 37)
    assert await store.export(KEY) == await other.export(KEY)
    await other.close()


async def test_prefixes_keep_services_apart(store: RedisStore, prefix: str) -> None:
    other = await open_store(f"{prefix}.")
    await store.commit(KEY, [0.5], 10, RECORD)
    assert await other.list_queues() == []
    assert not (await other.commit(KEY, [0.7], 10, RECORD)).replayed
    assert await store.delete(KEY)
    assert await other.peek(KEY) is not None
    await other.close()


async def test_every_key_has_the_hash_tag(store: RedisStore, prefix: str) -> None:
    """In a slot of its own, and deletable with one pattern."""
    await store.commit(KEY, [0.5], 10, RECORD)
    await store.finish("other", "body", b"reply")
    await store.ping()
    keys = [key.decode() for key in shared_server().command("KEYS", f"*{prefix}*")]
    kinds = sorted(key.split(":")[1] for key in keys)
    assert kinds == sorted(["ages", "bytes", "costs", "ping", "queue", "queues", "record", "record", "version"])
    assert all(key.startswith(f"{{{prefix}}}:") for key in keys)


async def test_a_flushed_script_cache_is_filled_again(store: RedisStore) -> None:
    for number in range(1, 4):
        shared_server().command("SCRIPT", "FLUSH")
        assert (await store.commit(KEY, [0.5], 10)).seq_last == number


async def test_records_expire_by_themselves_and_make_room(prefix: str) -> None:
    """By the server's clock, since the store was given none."""
    store = await open_store(prefix, StoreLimits(max_record_bytes=600, record_ttl_s=0.5))
    await store.commit(KEY, [0.5], 10, RECORD)
    await store.finish("other", "body", b"x" * 100)
    await asyncio.sleep(0.6)
    assert shared_server().command("EXISTS", *record_keys(prefix)) == 0
    assert await store.begin(RECORD.key, "another body") is None
    assert not (await store.commit(KEY, [0.5], 10, RECORD)).replayed
    (kept,) = record_keys(prefix)
    assert int(shared_server().command("GET", f"{{{prefix}}}:bytes")) == 512 + len(b"draft") + 8
    assert shared_server().command("ZCARD", f"{{{prefix}}}:ages") == 1
    assert 0 < int(shared_server().command("PTTL", kept)) <= 500
    await store.close()


def record_keys(prefix: str) -> list[str]:
    ages = shared_server().command("ZRANGE", f"{{{prefix}}}:ages", 0, -1)
    return [f"{{{prefix}}}:record:{digest.decode()}" for digest in ages]


async def test_a_crash_before_the_statistics_were_entered_changes_no_answer(
    store: RedisStore, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record holds the window itself until then."""

    async def crash(*_: object) -> None:
        pass

    monkeypatch.setattr(RedisStore, "_settle", crash)
    await store.commit(KEY, [0.1, 0.2, 0.7], 3)
    first = await store.commit(KEY, [0.4], 3, RECORD)
    await store.commit(KEY, [0.9], 3)
    again = await store.commit(KEY, [0.0], 3, RECORD)
    assert (again.stats, again.scores, again.replayed) == (first.stats, (0.4,), True)
    assert int(shared_server().command("GET", f"{{{prefix}}}:bytes")) == 512 + len(b"draft") + 8 + 3 * 8
    await store.finish(RECORD.key, RECORD.body_hash, b"reply")
    known = await store.begin(RECORD.key, RECORD.body_hash)
    assert known is not None
    assert known.commit is not None
    assert known.commit.stats == first.stats


@pytest.mark.parametrize("part", ["queues", "ages", "costs"])
async def test_another_programs_keys_are_an_error_before_anything_is_written(
    store: RedisStore, prefix: str, part: str
) -> None:
    shared_server().command("DEL", f"{{{prefix}}}:{part}")
    shared_server().command("SET", f"{{{prefix}}}:{part}", "theirs")
    with pytest.raises(StoreUnavailable, match=r"store\.prefix"):
        await store.commit(KEY, [0.5], 10, RECORD)
    assert await store.get(KEY) is None
    with pytest.raises(StoreUnavailable, match=r"store\.prefix"):
        await store.finish("key", "body", b"reply") if part != "queues" else await store.list_queues()
    assert shared_server().command("KEYS", f"{{{prefix}}}:record:*") == []


@pytest.mark.parametrize("change", [("scores", b"1234567"), ("seq", b"1"), ("window", b"x"), ("reference", b"")])
async def test_a_damaged_queue_is_an_error_and_can_be_deleted(
    store: RedisStore, prefix: str, change: tuple[str, bytes]
) -> None:
    await store.commit(KEY, [0.5, 0.7], 2)
    (queue,) = shared_server().command("KEYS", f"{{{prefix}}}:queue:*")
    shared_server().command("HSET", queue, *change)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.get(KEY)
    if change[0] != "window":
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.commit(KEY, [0.5], 2)
    assert await store.delete(KEY)
    assert (await store.commit(KEY, [0.5], 2)).seq_first == 1


async def test_a_queue_of_another_layout_stops_the_start(prefix: str) -> None:
    shared_server().command("SET", f"{{{prefix}}}:version", "2")
    store = RedisStore(shared_server().url, prefix=prefix, options=PATIENT)
    with pytest.raises(StartupError, match=r"store\.prefix"):
        await store.start()
    await store.close()


async def test_a_redis_that_evicts_stops_the_start(redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis_server.command("CONFIG", "SET", "maxmemory", "100mb")
    store = RedisStore(redis_server.url, options=PATIENT)
    with pytest.raises(StartupError, match="noeviction"):
        await store.start()
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await store.start()
    await store.close()


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:1", "redis://:secret@host:port/0", "127.0.0.1:6379"])
def test_what_is_no_address_is_an_error_without_the_address(url: str) -> None:
    with pytest.raises(StartupError, match=r"store\.url") as caught:
        RedisStore(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


async def test_a_wrong_password_is_an_error_that_does_not_show_it(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    redis_server.command("CONFIG", "SET", "requirepass", "right")
    address = f"127.0.0.1:{redis_server.port}/0"
    for url in (f"redis://:hunter2@{address}", f"redis://{address}"):
        store = RedisStore(url, options=PATIENT)
        with pytest.raises(StartupError, match="password") as caught:
            await store.start()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + caplog.text + repr(store)
        await store.close()
    store = RedisStore(f"redis://:right@{address}", options=PATIENT)
    await store.start()
    await store.commit(KEY, [0.5], 10)
    await store.close()


@pytest.mark.parametrize("kind", [RedisStore, RedisCohorts])
async def test_a_user_without_the_right_to_scripts_stops_the_start(
    redis_server: RedisServer, kind: type[RedisStore] | type[RedisCohorts]
) -> None:
    redis_server.command("ACL", "SETUSER", "trainer", "on", ">hunter2", "~*", "&*", "+@all", "-@scripting")
    store = kind(f"redis://trainer:hunter2@127.0.0.1:{redis_server.port}/0", options=PATIENT)
    with pytest.raises(StartupError, match="rights of that user") as caught:
        await store.start()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    redis_server.command("ACL", "SETUSER", "trainer", "+@scripting")
    await store.start()
    await store.close()


async def test_a_right_to_scripts_that_is_withdrawn_is_an_error_and_changes_nothing(redis_server: RedisServer) -> None:
    redis_server.command("ACL", "SETUSER", "trainer", "on", ">hunter2", "~*", "&*", "+@all")
    store = RedisStore(f"redis://trainer:hunter2@127.0.0.1:{redis_server.port}/0", options=PATIENT)
    await store.start()
    await store.commit(KEY, [0.5], 10)
    redis_server.command("ACL", "SETUSER", "trainer", "-@scripting")
    for _ in range(7):  # an answer, however unwelcome, does not open the breaker
        with pytest.raises(StoreUnavailable, match="rights of that user"):
            await store.commit(KEY, [0.7], 10, RECORD)
    redis_server.command("ACL", "SETUSER", "trainer", "+@scripting")
    assert (await store.commit(KEY, [0.7], 10, RECORD)).seq_first == 2
    await store.close()


async def test_a_full_redis_refuses_whole_commits_and_can_be_read(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, options=PATIENT)
    await store.start()
    await store.commit(KEY, [0.5], 10)
    before = await store.export(KEY)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    for _ in range(7):  # answers, however unwelcome, do not open the breaker
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.commit(KEY, [0.7], 10, RECORD)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.finish("other", "body", b"reply")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.ping()
    assert await store.export(KEY) == before
    assert await store.begin(RECORD.key, RECORD.body_hash) is None
    redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert (await store.commit(KEY, [0.7], 10, RECORD)).seq_first == 2
    await store.close()


async def test_a_replica_refuses_writes_until_it_is_a_primary_again(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, options=PATIENT)
    await store.start()
    await store.commit(KEY, [0.5], 10)
    before = await store.export(KEY)
    redis_server.command("REPLICAOF", "127.0.0.1", "1")
    for _ in range(7):
        with pytest.raises(StoreUnavailable, match="primary"):
            await store.commit(KEY, [0.7], 10, RECORD)
        with pytest.raises(StoreUnavailable, match="primary"):
            await store.ping()
    assert await store.export(KEY) == before
    assert await store.begin(RECORD.key, RECORD.body_hash) is None
    redis_server.command("REPLICAOF", "NO", "ONE")
    assert (await store.commit(KEY, [0.7], 10, RECORD)).seq_first == 2
    await store.close()


def test_tests_without_a_server_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="make install"):
        find_server()

"""Reward queues and idempotency records on one Redis: shared by the replicas of a service, as durable as that Redis.

Every change is one Lua script (`scripts/`), which Redis runs alone: window, seq, epoch and record of a commit change
together or not at all. Scripts move scores as packed doubles and never calculate with them; the window after the
commit comes back, and its statistics are computed here, exactly as for the other stores. The record keeps that window
until its statistics are entered in a second step, which a crash may lose without changing an answer.

Needs one Redis (6.2 or later) or Valkey, no cluster, and ``maxmemory-policy noeviction``: an evicted queue is a lost
one. A Redis that comes back empty shows as a new epoch. With an append-only file flushed every second (``appendfsync
everysec``) a kill of Redis loses nothing that was acknowledged, a power cut at most a second.

A queue and the record of its commit must change in one script, and so must the limits that both count against; a
script reaches one hash slot. Hence one hash tag for all keys of a prefix, not one for each queue.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from service.errors import StartupError, StoreUnavailable
from service.normalization import WindowStats, window_stats
from service.stores.base import (
    RECORD_OVERHEAD_BYTES,
    CommitResult,
    IdempotencyRecord,
    Queue,
    QueueKey,
    QueueState,
    Replay,
    StoreLimits,
    already_answered,
    check_commit,
    check_queue_room,
    check_record_room,
    dump_queue,
    load_queue,
    new_epoch,
    other_body,
    other_window,
    queue_exists,
    reference_size,
    used_up,
)
from service.stores.redis_link import Argument, LinkOptions, RedisLink, Script

log = logging.getLogger("gram.store")

LAYOUT_VERSION = "1"
LIST_BATCH = 50
"""Queues read together: of the usual window of 1000 this is a reply of a megabyte."""

_QUEUE_FIELDS = ("epoch", "window", "seq", "scores", "reference")
_STATS = struct.Struct("<q2d")
_SCRIPTS = {name: Script(name) for name in ("open", "commit", "settle", "begin", "finish", "delete", "import")}


class RedisStore:
    """A `RewardStore` on the Redis at `url` (redis://, rediss:// or unix://), whose keys all begin with ``{prefix}``.

    `clock` gives seconds by which records age; None is the server's own clock, the same for all replicas.
    """

    def __init__(
        self,
        url: str,
        limits: StoreLimits | None = None,
        clock: Callable[[], float] | None = None,
        prefix: str = "gram",
        options: LinkOptions | None = None,
    ) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock
        self._prefix = f"{{{prefix}}}"
        self._link = RedisLink(url, options)

    async def start(self) -> None:
        """Connect, and claim the prefix. Raises `StartupError` when Redis cannot be used."""
        try:
            (version,) = await self._run("open", [f"{self._prefix}:version"], [LAYOUT_VERSION])
            memory = await self._link.command("INFO", "memory")
        except StoreUnavailable as error:
            raise StartupError(f"The reward store does not start. {error.message}") from error
        if version.decode() != LAYOUT_VERSION:
            raise StartupError("Redis holds queues of another version under this prefix; set another store.prefix.")
        if int(memory["maxmemory"]) > 0 and memory["maxmemory_policy"] != "noeviction":
            raise StartupError("Redis may evict reward queues; set its maxmemory-policy to noeviction.")

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        """See `RewardStore.commit`."""
        checked = check_commit(scores, window)
        digest = _digest(*astuple(key))
        packed = _pack(checked)
        arguments: list[Argument] = [digest, _dump_key(key), window, packed, new_epoch(), self._limits.max_queues]
        keys = [self._queue(digest), self._queues]
        if idempotency is not None:
            record = _digest(idempotency.key)
            keys.append(self._record(record))
            arguments += [self._prefix, record, idempotency.body_hash, idempotency.draft, *self._record_limits()]
        status, *reply = await self._run("commit", keys, arguments)
        if status == b"replayed":
            return _replayed(reply[0])
        epoch, last, after = reply
        stats = window_stats(_unpack(after))
        if idempotency is not None:
            await self._settle(record, epoch, last, stats)
        return CommitResult(epoch.decode(), int(last) - len(checked) + 1, int(last), stats, checked)

    async def peek(self, key: QueueKey) -> QueueState | None:
        """See `RewardStore.peek`."""
        queue = await self.get(key)
        return None if queue is None else queue.state()

    async def list_queues(self, name: str | None = None) -> list[QueueState]:
        """See `RewardStore.list_queues`. Each queue is read whole; a queue made or deleted meanwhile may be missing."""
        index = await self._link.command("HGETALL", self._queues)
        keys = sorted(key for key in map(_load_key, index.values()) if name in (None, key.name))
        states = []
        for at in range(0, len(keys), LIST_BATCH):
            some = keys[at : at + LIST_BATCH]
            rows = await self._link.commands([self._reading(key) for key in some])
            queues = [_queue_of(key, row) for key, row in zip(some, rows, strict=True)]
            states += [queue.state() for queue in queues if queue is not None]
        return states

    async def get(self, key: QueueKey) -> Queue | None:
        """See `RewardStore.get`."""
        return _queue_of(key, await self._link.command(*self._reading(key)))

    async def delete(self, key: QueueKey) -> bool:
        """See `RewardStore.delete`."""
        digest = _digest(*astuple(key))
        (existed,) = await self._run("delete", [self._queue(digest), self._queues], [digest])
        return bool(existed)

    async def export(self, key: QueueKey) -> bytes | None:
        """See `RewardStore.export`."""
        queue = await self.get(key)
        return None if queue is None else dump_queue(queue)

    async def import_(self, data: bytes) -> QueueState:
        """See `RewardStore.import_`."""
        queue = load_queue(data)
        digest = _digest(*astuple(queue.key))
        arguments: list[Argument] = [digest, _dump_key(queue.key), self._limits.max_queues]
        arguments += ["epoch", queue.epoch, "window", queue.window, "seq", queue.seq_last]
        arguments += ["scores", _pack(queue.scores), "reference", _pack(queue.reference)]
        await self._run("import", [self._queue(digest), self._queues], arguments)
        return queue.state()

    async def begin(self, idem_key: str, body_hash: str) -> Replay | None:
        """See `RewardStore.begin`."""
        record = _digest(idem_key)
        arguments: list[Argument] = [self._prefix, body_hash, self._now(), self._limits.max_record_bytes]
        status, *known = await self._run("begin", [self._record(record)], arguments)
        if status == b"new":
            return None
        reply, fields = known
        return Replay(reply, None if fields[0] is None else _replayed(fields))

    async def finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        """See `RewardStore.finish`."""
        record = _digest(idem_key)
        arguments: list[Argument] = [self._prefix, record, body_hash, reply, *self._record_limits()]
        status, *known = await self._run("finish", [self._record(record)], arguments)
        return bytes(known[0]) if status == b"known" else reply

    async def ping(self) -> None:
        """See `RewardStore.ping`: writes a key that is gone after a minute."""
        await self._link.command("SET", f"{self._prefix}:ping", "1", "EX", 60)

    async def close(self) -> None:
        """See `RewardStore.close`."""
        await self._link.close()

    async def _settle(self, record: str, epoch: bytes, last: bytes, stats: WindowStats) -> None:
        """Keep a commit's statistics in place of its window. Without this step the same is computed at each replay."""
        packed = _STATS.pack(stats.count, stats.mean, stats.std)
        arguments: list[Argument] = [self._prefix, record, epoch, last, packed, self._now()]
        with contextlib.suppress(StoreUnavailable):
            await self._run("settle", [self._record(record)], arguments)

    async def _run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        """What a script answers; its refusals become the errors they are on every store."""
        reply = await self._link.run(_SCRIPTS[name], keys, arguments)
        match reply[0]:
            case b"other body":
                raise other_body()
            case b"other window":
                raise other_window(int(reply[1]))
            case b"exists":
                raise queue_exists()
            case b"used up":
                raise used_up()
            case b"queues full":
                check_queue_room(self._limits.max_queues, self._limits)
            case b"records full":
                check_record_room(self._limits.max_record_bytes, self._limits)
            case b"damaged":
                raise _damaged()
        return reply

    def _reading(self, key: QueueKey) -> list[Argument]:
        return ["HMGET", self._queue(_digest(*astuple(key))), *_QUEUE_FIELDS]

    def _record_limits(self) -> list[Argument]:
        ttl_ms = round(self._limits.record_ttl_s * 1000)
        return [self._now(), ttl_ms, self._limits.max_record_bytes, RECORD_OVERHEAD_BYTES]

    def _now(self) -> str:
        """Milliseconds for the scripts; empty for the server's clock."""
        return "" if self._clock is None else str(round(self._clock() * 1000))

    @property
    def _queues(self) -> str:
        return f"{self._prefix}:queues"

    def _queue(self, digest: str) -> str:
        return f"{self._prefix}:queue:{digest}"

    def _record(self, digest: str) -> str:
        return f"{self._prefix}:record:{digest}"


def _queue_of(key: QueueKey, row: list[bytes | None]) -> Queue | None:
    """Raises `StoreUnavailable` for fields that no commit left there."""
    if all(field is None for field in row):
        return None
    epoch, digits, more_digits, scores, reference = (field or b"" for field in row)
    if not (digits.isdigit() and more_digits.isdigit()):
        raise _damaged()
    window, seq_last = int(digits), int(more_digits)
    if (len(scores), len(reference)) != (8 * min(seq_last, window), 8 * reference_size(seq_last, window)):
        raise _damaged()
    return Queue(key, epoch.decode(), window, seq_last, _unpack(scores), _unpack(reference))


def _replayed(fields: list[bytes | None]) -> CommitResult:
    """The first result under a key. Raises `Conflict` when that request was answered without a commit."""
    epoch, first, last, scores, draft, stats, window = fields
    if epoch is None:
        raise already_answered()
    if first is None or last is None or scores is None or (stats is None and window is None):
        raise StoreUnavailable("An idempotency record in Redis is damaged; send the request with a new key.")
    if stats is not None:
        count, mean, std = _STATS.unpack(stats)
        kept = WindowStats(count, mean, std)
    else:
        kept = window_stats(_unpack(window or b""))
    return CommitResult(epoch.decode(), int(first), int(last), kept, _unpack(scores), True, draft)


def _damaged() -> StoreUnavailable:
    return StoreUnavailable("A reward queue in Redis is damaged; delete it, or restore the data of Redis.")


def _digest(*parts: str) -> str:
    """A key of fixed length and harmless characters for any texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _dump_key(key: QueueKey) -> str:
    return json.dumps(astuple(key))


def _load_key(text: bytes) -> QueueKey:
    return QueueKey(*json.loads(text))


def _pack(scores: Sequence[float]) -> bytes:
    """Little-endian doubles, 8 bytes each."""
    return struct.pack(f"<{len(scores)}d", *scores)


def _unpack(blob: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(blob) // 8}d", blob)

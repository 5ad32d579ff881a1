"""Reward queues and idempotency records in this process's memory: for one replica whose windows may die with it.

A restart starts new epochs, which clients see. No method awaits anything between its first read and its last write, so
each is atomic on its event loop without a lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from service.errors import StoreUnavailable
from service.stores.base import (
    CommitResult,
    IdempotencyRecord,
    Queue,
    QueueKey,
    QueueState,
    Replay,
    StoreLimits,
    advance,
    already_answered,
    check_commit,
    check_queue_room,
    check_record_room,
    check_same_body,
    dump_queue,
    load_queue,
    queue_exists,
    record_cost,
    result_of,
)


@dataclass(frozen=True, slots=True)
class _Record:
    body_hash: str
    expires_at: float
    commit: CommitResult | None
    reply: bytes | None

    @property
    def cost(self) -> int:
        draft = self.commit.draft if self.commit is not None else None
        return record_cost(draft or b"", self.reply or b"", len(self.commit.scores) if self.commit is not None else 0)


class MemoryStore:
    """A `RewardStore` in memory. `clock` gives seconds that never run backwards; records age by it."""

    def __init__(self, limits: StoreLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock
        self._queues: dict[QueueKey, Queue] = {}
        self._records: OrderedDict[str, _Record] = OrderedDict()  # oldest first, since all live equally long
        self._record_bytes = 0
        self._closed = False

    async def start(self) -> None:
        """Nothing to open."""

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        """See `RewardStore.commit`."""
        self._check_open()
        checked = check_commit(scores, window)
        if idempotency is not None and (replayed := self._committed(idempotency)) is not None:
            return replayed
        if key not in self._queues:
            check_queue_room(len(self._queues), self._limits)
        after = advance(self._queues.get(key), key, checked, window)
        result = result_of(after, checked)
        if idempotency is None:
            self._queues[key] = after
            return result
        check_record_room(self._record_bytes, self._limits)
        self._enter(after, idempotency, replace(result, draft=idempotency.draft))
        return result

    async def peek(self, key: QueueKey) -> QueueState | None:
        """See `RewardStore.peek`."""
        queue = await self.get(key)
        return None if queue is None else queue.state()

    async def list_queues(self, name: str | None = None) -> list[QueueState]:
        """See `RewardStore.list_queues`."""
        self._check_open()
        return [self._queues[key].state() for key in sorted(self._queues) if name in (None, key.name)]

    async def get(self, key: QueueKey) -> Queue | None:
        """See `RewardStore.get`."""
        self._check_open()
        return self._queues.get(key)

    async def delete(self, key: QueueKey) -> bool:
        """See `RewardStore.delete`."""
        self._check_open()
        return self._queues.pop(key, None) is not None

    async def export(self, key: QueueKey) -> bytes | None:
        """See `RewardStore.export`."""
        queue = await self.get(key)
        return None if queue is None else dump_queue(queue)

    async def import_(self, data: bytes) -> QueueState:
        """See `RewardStore.import_`."""
        self._check_open()
        queue = load_queue(data)
        if queue.key in self._queues:
            raise queue_exists()
        check_queue_room(len(self._queues), self._limits)
        self._queues[queue.key] = queue
        return queue.state()

    async def begin(self, idem_key: str, body_hash: str) -> Replay | None:
        """See `RewardStore.begin`."""
        self._check_open()
        record = self._record(idem_key, body_hash)
        if record is None:
            check_record_room(self._record_bytes, self._limits)
            return None
        commit = None if record.commit is None else replace(record.commit, replayed=True)
        return Replay(record.reply, commit)

    async def finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        """See `RewardStore.finish`."""
        self._check_open()
        record = self._record(idem_key, body_hash)
        if record is None:
            check_record_room(self._record_bytes, self._limits)
            record = _Record(body_hash, self._clock() + self._limits.record_ttl_s, None, None)
        if record.reply is not None:
            return record.reply
        commit = None if record.commit is None else replace(record.commit, draft=None)
        self._keep(idem_key, replace(record, reply=reply, commit=commit))
        return reply

    async def ping(self) -> None:
        """See `RewardStore.ping`."""
        self._check_open()

    async def close(self) -> None:
        """See `RewardStore.close`."""
        self._closed = True

    def _enter(self, after: Queue, idempotency: IdempotencyRecord, result: CommitResult) -> None:
        """Put queue and record in together: an interrupt between the two takes the record out again."""
        expires_at = self._clock() + self._limits.record_ttl_s
        record = _Record(idempotency.body_hash, expires_at, result, None)
        try:
            self._keep(idempotency.key, record)
            self._queues[after.key] = after
        except BaseException:
            if self._queues.get(after.key) is not after:
                self._drop(idempotency.key)
            raise

    def _committed(self, idempotency: IdempotencyRecord) -> CommitResult | None:
        record = self._record(idempotency.key, idempotency.body_hash)
        if record is None:
            return None
        if record.commit is None:
            raise already_answered()
        return replace(record.commit, replayed=True)

    def _record(self, idem_key: str, body_hash: str) -> _Record | None:
        """The living record under this key; the dead ones are dropped first."""
        now = self._clock()
        while self._records and next(iter(self._records.values())).expires_at <= now:
            self._drop(next(iter(self._records)))
        record = self._records.get(idem_key)
        if record is not None:
            check_same_body(record.body_hash, body_hash)
        return record

    def _keep(self, idem_key: str, record: _Record) -> None:
        before = self._records.get(idem_key)
        self._record_bytes += record.cost - (0 if before is None else before.cost)
        self._records[idem_key] = record

    def _drop(self, idem_key: str) -> None:
        record = self._records.pop(idem_key, None)
        self._record_bytes -= 0 if record is None else record.cost

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("The reward store is closed; the service is shutting down.")

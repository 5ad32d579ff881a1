"""Stores and services that are wrong on purpose: the mistakes that reward queues are known for, each to be switched on.

`tests/contract/test_defects.py` runs the suite's own checks on them, so that a check which stopped checking is seen.
A store's defect is written against `RewardStore` alone and so stands on every kind of store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from service.errors import Conflict, ServiceError
from service.normalization import WindowStats, check_scores
from service.rewards import Normalization, RewardDesk, Rewarded, rewarded
from service.scoring import Score, Scorer
from service.stores.base import (
    CommitResult,
    IdempotencyRecord,
    Queue,
    QueueKey,
    QueueState,
    Replay,
    RewardStore,
    StoreLimits,
    advance,
    check_commit,
    dump_queue,
    result_of,
)
from service.types import Usage
from tests.support.stores import Backend


class Wrapped:
    """A store that passes everything on to another one."""

    def __init__(self, inner: RewardStore) -> None:
        self.inner = inner

    async def start(self) -> None:
        await self.inner.start()

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        return await self.inner.commit(key, scores, window, idempotency)

    async def peek(self, key: QueueKey) -> QueueState | None:
        return await self.inner.peek(key)

    async def list_queues(self, name: str | None = None) -> list[QueueState]:
        return await self.inner.list_queues(name)

    async def get(self, key: QueueKey) -> Queue | None:
        return await self.inner.get(key)

    async def delete(self, key: QueueKey) -> bool:
        return await self.inner.delete(key)

    async def export(self, key: QueueKey) -> bytes | None:
        return await self.inner.export(key)

    async def import_(self, data: bytes) -> QueueState:
        return await self.inner.import_(data)

    async def begin(self, idem_key: str, body_hash: str) -> Replay | None:
        return await self.inner.begin(idem_key, body_hash)

    async def finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        return await self.inner.finish(idem_key, body_hash, reply)

    async def ping(self) -> None:
        await self.inner.ping()

    async def close(self) -> None:
        await self.inner.close()


class ReadModifyWrite(Wrapped):
    """Reads the queue, appends in this process and writes it back, instead of one atomic commit."""

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        if idempotency is not None:
            return await self.inner.commit(key, scores, window, idempotency)
        checked = check_commit(scores, window)
        after = advance(await self.inner.get(key), key, checked, window)
        await asyncio.sleep(0)  # as any network does
        while True:
            await self.inner.delete(key)
            try:
                await self.inner.import_(dump_queue(after))
                return result_of(after, checked)
            except Conflict:  # another writer was between the two: ours wins, as an overwrite would
                continue


class NoDeduplication(Wrapped):
    """Forgets idempotency keys."""

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        return await self.inner.commit(key, scores, window, None)

    async def begin(self, idem_key: str, body_hash: str) -> Replay | None:
        return None

    async def finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        return reply


class WrongStatistics(Wrapped):
    """Keeps the right window and reports other statistics of it."""

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        before = await self.inner.peek(key)
        result = await self.inner.commit(key, scores, window, idempotency)
        return replace(result, stats=self.wrong(key, before, result, window))

    def wrong(self, key: QueueKey, before: QueueState | None, result: CommitResult, window: int) -> WindowStats:
        raise NotImplementedError


class RunningSums(WrongStatistics):
    """Welford's update, one score in and one out: O(1), and wrong for good after one large score."""

    def __init__(self, inner: RewardStore) -> None:
        super().__init__(inner)
        self._states: dict[tuple[QueueKey, str], tuple[list[float], float, float]] = {}

    def wrong(self, key: QueueKey, before: QueueState | None, result: CommitResult, window: int) -> WindowStats:
        kept, mean, squares = self._states.get((key, result.epoch), ([], 0.0, 0.0))
        for score in result.scores:
            kept = [*kept, score]
            delta = score - mean
            mean += delta / len(kept)
            squares += delta * (score - mean)
            if len(kept) > window:
                delta = kept[0] - mean
                mean -= delta / (len(kept) - 1)
                squares -= delta * (kept[0] - mean)
                kept = kept[1:]
        self._states[key, result.epoch] = kept, mean, squares
        return WindowStats(len(kept), mean, math.sqrt(max(squares, 0.0) / len(kept)))


class WindowBeforeTheCommit(WrongStatistics):
    """Statistics of the window as it was before these scores entered."""

    def wrong(self, key: QueueKey, before: QueueState | None, result: CommitResult, window: int) -> WindowStats:
        return before.stats if before is not None else WindowStats(0, 0.0, 0.0)


class SampleDeviation(WrongStatistics):
    """The divisor N - 1."""

    def wrong(self, key: QueueKey, before: QueueState | None, result: CommitResult, window: int) -> WindowStats:
        count = result.stats.count
        return replace(result.stats, std=result.stats.std * math.sqrt(count / max(count - 1, 1)))


class SharedKey(Wrapped):
    """Every queue is the same one, whatever its key says."""

    part = "name"

    def shared(self, key: QueueKey) -> QueueKey:
        return replace(key, **{self.part: "shared"})

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        return await self.inner.commit(self.shared(key), scores, window, idempotency)

    async def export(self, key: QueueKey) -> bytes | None:
        return await self.inner.export(self.shared(key))

    async def delete(self, key: QueueKey) -> bool:
        return await self.inner.delete(self.shared(key))


class SharedWeights(SharedKey):
    """Scores of two weight versions enter one window."""

    part = "weight_version"


@dataclass(frozen=True)
class DefectiveBackend(Backend):
    """The stores of another backend, each inside `wrap`."""

    inner: Backend
    wrap: Callable[[RewardStore], Wrapped]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"defective {self.inner.name}"

    @property
    def durable(self) -> bool:  # type: ignore[override]
        return self.inner.durable

    def make(self, folder: Path, limits: StoreLimits, clock: Callable[[], float]) -> RewardStore:
        return self.wrap(self.inner.make(folder, limits, clock))

    def replicas(self, folder: Path, count: int) -> list[RewardStore]:
        return [self.wrap(store) for store in self.inner.replicas(folder, count)]

    @contextmanager
    def fault(self, store: RewardStore, step: int) -> Iterator[None]:
        assert isinstance(store, Wrapped)
        with self.inner.fault(store.inner, step):
            yield


def no_check_of_finiteness() -> AbstractContextManager[object]:
    """NaN and infinities may enter a window; everything else is checked as it should be."""

    def check(scores: Sequence[float]) -> tuple[float, ...]:
        check_scores([0.0 if isinstance(score, float) and not math.isfinite(score) else score for score in scores])
        return tuple(scores)

    return mock.patch("service.stores.base.check_scores", check)


def evaluations_update() -> AbstractContextManager[object]:
    """``update: false`` commits like any other request."""

    async def commit(self: RewardDesk, scores: Sequence[float], asked: Normalization) -> Rewarded:
        return rewarded(await self._store.commit(asked.key, scores, asked.window, None), asked)

    return mock.patch.object(RewardDesk, "_read", commit)


def zero_on_failure() -> AbstractContextManager[object]:
    """What could not be judged gets the score 0.0."""
    references = Scorer.score_references

    async def score(self: Scorer, *args: Any, **named: Any) -> list[Score | ServiceError]:
        outcomes = await references(self, *args, **named)
        return [Score(0.0, None, None, (), Usage()) if isinstance(o, ServiceError) else o for o in outcomes]

    return mock.patch.object(Scorer, "score_references", score)


@dataclass(frozen=True)
class Defect:
    """A mistake to switch on: ``wrap`` changes a store, ``switch`` the code around it. ``caught_by`` names checks of
    `tests.support.queue_properties` and `queue_histories`, each of which must fail."""

    name: str
    caught_by: tuple[str, ...]
    wrap: Callable[[RewardStore], Wrapped] = Wrapped
    switch: Callable[[], AbstractContextManager[object]] = nullcontext


STORE_DEFECTS = (
    Defect("read-modify-write", ("q11_replicas_see_one_history",), ReadModifyWrite),
    Defect("no deduplication", ("q4_a_repeated_request_counts_once",), NoDeduplication),
    Defect("running sums", ("q1_statistics_are_exact", "q13_an_outlier_leaves_no_trace"), RunningSums),
    Defect("no isfinite", ("q3_any_input_is_refused_or_counted_finitely",), switch=no_check_of_finiteness),
    Defect(
        "evaluations update",
        ("q6_reading_writes_nothing", "q6_keyed_evaluations_write_no_score"),
        switch=evaluations_update,
    ),
    Defect("one queue for all", ("q5_queues_do_not_touch_each_other",), SharedKey),
    Defect("one queue for all weights", ("q5_any_change_of_the_key_is_another_queue",), SharedWeights),
    Defect(
        "window before the commit",
        ("q1_statistics_are_exact", "q7_cold_start_ends_exactly_at_min_count", "q11_replicas_see_one_history"),
        WindowBeforeTheCommit,
    ),
    Defect("divisor N - 1", ("q1_statistics_are_exact", "q7_cold_start_ends_exactly_at_min_count"), SampleDeviation),
)

"""An open store, asked from plain functions through one event loop, so that hypothesis may run many examples on it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from service.rewards import Keyed, Normalization, RewardDesk, Rewarded
from service.stores.base import CommitResult, IdempotencyRecord, QueueKey, QueueState, RewardStore, StoreLimits
from tests.support.stores import Backend, FakeClock

T = TypeVar("T")


@dataclass
class Bench:
    """A store with the loop it lives on. Each example takes a queue of its own."""

    backend: Backend
    folder: Path
    runner: asyncio.Runner
    store: RewardStore
    clock: FakeClock
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def key(self, **changes: str) -> QueueKey:
        """A queue nobody has used."""
        return replace(QueueKey(f"queue {next(self.numbers)}", "demo", "v1", "t1", "group"), **changes)

    def record(self, body: str = "body", draft: bytes = b"draft") -> IdempotencyRecord:
        return IdempotencyRecord(f"key {next(self.numbers)}", body, draft)

    def digest(self, *keys: QueueKey) -> bytes:
        """Every byte of the state of these queues."""
        return b"\n".join(self.run(self.store.export(key)) or b"none" for key in keys)

    def commit(self, key: QueueKey, scores: Sequence[float], window: int = 100) -> CommitResult:
        return self.run(self.store.commit(key, scores, window))

    def commit_keyed(self, key: QueueKey, scores: list[float], record: IdempotencyRecord | None) -> CommitResult:
        return self.run(self.store.commit(key, scores, 100, record))

    def peek(self, key: QueueKey) -> QueueState:
        """The queue's state; it must be there."""
        state = self.run(self.store.peek(key))
        assert state is not None
        return state

    def reward(self, key: QueueKey, scores: Sequence[float], window: int = 100, **asked: Any) -> Rewarded:
        """What a request gets for its scores; `asked` differs from the usual `Normalization`."""
        usual = Normalization(key, window, scale=1.0, update=True, min_count=1, clip=10.0)
        rewarded, _ = self.run(RewardDesk(self.store).reward(scores, replace(usual, **asked), None, b"draft"))
        return rewarded

    def reward_keyed(self, key: QueueKey, scores: Sequence[float], keyed: Keyed, update: bool) -> Rewarded:
        asked = Normalization(key, 100, scale=1.0, update=update, min_count=1, clip=10.0)
        rewarded, _ = self.run(RewardDesk(self.store).reward(scores, asked, keyed, b"draft"))
        return rewarded


@contextmanager
def opened(backend: Backend, folder: Path) -> Iterator[Bench]:
    """A store at `folder` for as long as the block lasts."""
    clock = FakeClock()
    limits = StoreLimits(max_queues=1_000_000)
    with asyncio.Runner() as runner:
        store = backend.make(folder, limits, clock)
        runner.run(store.start())
        try:
            yield Bench(backend, folder, runner, store, clock)
        finally:
            runner.run(store.close())


def small_bench(bench: Bench, limits: StoreLimits) -> Bench:
    """A second store with other limits, elsewhere, for the test to close."""
    folder = bench.folder / f"small {next(bench.numbers)}"
    folder.mkdir()
    store = bench.backend.make(folder, limits, bench.clock)
    bench.run(store.start())
    return replace(bench, store=store, folder=folder)

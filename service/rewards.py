"""Scores to rewards: one atomic commit a request, and keyed requests that count once however often they are sent.

The order of things is what makes a retry safe: look the key up, judge, commit scores together with a draft of the
reply, then store the reply. Cut off in between, the retry finds the draft and answers from it without judging or
counting again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from service.commit_log import CommitLog
from service.errors import Conflict
from service.normalization import Normalized, WindowStats, normalize
from service.stores.base import CommitResult, IdempotencyRecord, QueueKey, RewardStore

Watched = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Normalization:
    """What the caller asked for; see `service.normalization.normalize`. ``update`` false reads the window only."""

    key: QueueKey
    window: int
    scale: float
    update: bool
    min_count: int
    clip: float


@dataclass(frozen=True, slots=True)
class Rewarded:
    """Rewards of the scores, in order, and the queue as they saw it. The ``seq``s are None without a commit."""

    normalized: Normalized
    stats: WindowStats
    epoch: str | None
    seq_first: int | None
    seq_last: int | None


@dataclass(frozen=True, slots=True)
class Keyed:
    """An idempotency key with its tenant and route, and a digest of the request it came with."""

    key: str
    body_hash: str


class RewardDesk:
    """The store's reward windows and idempotency records, behind the two questions the routes ask.

    ``watched`` stands around each call of the store and is told its name.
    """

    def __init__(self, store: RewardStore, log: CommitLog | None = None, watched: Watched = nullcontext) -> None:
        self._store = store
        self._watched = watched
        self._log = log
        self._inside: dict[str, asyncio.Future[None]] = {}

    async def reward(
        self, scores: Sequence[float], asked: Normalization, keyed: Keyed | None, draft: bytes
    ) -> tuple[Rewarded, bytes]:
        """Enter the scores and normalize them; returns the draft that counts (another one if this was a retry).

        Raises `Conflict` (another window, another body under the key), `StoreUnavailable`, `Overloaded`.
        """
        if not (asked.update and scores):
            return await self._read(scores, asked), draft
        record = IdempotencyRecord(keyed.key, keyed.body_hash, draft) if keyed else None
        with self._watched("commit"):
            commit = await self._store.commit(asked.key, scores, asked.window, record)
        if self._log is not None:
            self._log.append(asked.key, asked.window, commit)
        return rewarded(commit, asked), commit.draft if commit.draft is not None else draft

    async def once(
        self,
        keyed: Keyed | None,
        work: Callable[[], Awaitable[bytes]],
        resume: Callable[[CommitResult], bytes],
    ) -> bytes:
        """The reply of a keyed request: the stored one, one resumed from its commit, or that of `work`.

        Concurrent duplicates wait for the first; if it fails, the next one works. Unkeyed requests just work.
        """
        if keyed is None:
            return await work()
        while (other := self._inside.get(keyed.key)) is not None:
            await asyncio.shield(other)
        done = self._inside[keyed.key] = asyncio.get_running_loop().create_future()
        try:
            return await self._replay_or_work(keyed, work, resume)
        finally:
            del self._inside[keyed.key]
            done.set_result(None)

    async def _replay_or_work(
        self, keyed: Keyed, work: Callable[[], Awaitable[bytes]], resume: Callable[[CommitResult], bytes]
    ) -> bytes:
        with self._watched("begin"):
            known = await self._store.begin(keyed.key, keyed.body_hash)
        if known is not None and known.reply is not None:
            return known.reply
        reply = resume(known.commit) if known is not None and known.commit is not None else await work()
        with self._watched("finish"):
            return await self._store.finish(keyed.key, keyed.body_hash, reply)

    async def _read(self, scores: Sequence[float], asked: Normalization) -> Rewarded:
        with self._watched("peek"):
            state = await self._store.peek(asked.key)
        if state is not None and state.window != asked.window:
            raise Conflict(
                f"This queue's window is {state.window}; send that window, or delete the queue to start another.",
                window=state.window,
            )
        stats = state.stats if state else WindowStats(0, 0.0, 0.0)
        normalized = normalize(scores, stats, asked.scale, asked.min_count, asked.clip)
        return Rewarded(normalized, stats, state.epoch if state else None, None, None)


def rewarded(commit: CommitResult, asked: Normalization) -> Rewarded:
    """What a commit, new or remembered, means for its scores."""
    normalized = normalize(commit.scores, commit.stats, asked.scale, asked.min_count, asked.clip)
    return Rewarded(normalized, commit.stats, commit.epoch, commit.seq_first, commit.seq_last)

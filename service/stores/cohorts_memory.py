"""Cohorts in this process's memory: for one replica. A restart forgets them; trainers send their rollouts again.

No method awaits anything between its first read and its last write, so each is atomic on its event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from service.errors import StoreUnavailable
from service.stores.cohorts_base import (
    Cohort,
    CohortLimits,
    Expired,
    Gathered,
    Member,
    Policy,
    Snapshot,
    Terms,
    check_index,
    check_room,
    claimed,
    expired,
    failed,
    finished,
    joined,
)


class MemoryCohorts:
    """A `CohortStore` in memory. `clock` gives seconds that never run backwards."""

    def __init__(self, limits: CohortLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or CohortLimits()
        self._clock = clock
        self._cohorts: dict[str, Cohort] = {}
        self._keep_until: dict[str, float] = {}
        self._oldest: list[tuple[float, str]] = []  # a heap; an entry that came too early is put back
        self._bytes = 0
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """What all cohorts take, by estimate."""
        return self._bytes

    async def start(self) -> None:
        """Nothing to open."""

    async def join(self, key: str, terms: Terms, member: Member, wait_s: float) -> Snapshot:
        """See `CohortStore.join`."""
        self._check_open()
        check_index(terms, member)
        self._forget()
        now, before = self._clock(), self._cohorts.get(key)
        after = joined(before, terms, member, wait_s, now)
        added = after.cost - (before.cost if before else 0)
        if added:
            check_room(len(self._cohorts) + (before is None), self._bytes + added, self._limits)
        self._put(key, after)
        return after.seen(now)

    async def look(self, key: str) -> Snapshot | None:
        """See `CohortStore.look`."""
        self._check_open()
        cohort = self._cohorts.get(key)
        return cohort.seen(self._clock()) if cohort else None

    async def wait(self, key: str, version: int, seconds: float) -> Snapshot | None:
        """See `CohortStore.wait`."""
        seen = await self.look(key)
        if seen is None or seen.version != version:
            return seen
        woken = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(woken)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await woken
        finally:
            waiting.discard(woken)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]
        return await self.look(key)

    async def expire(self, key: str, policy: Policy, failure: bytes) -> Expired | None:
        """See `CohortStore.expire`."""
        self._check_open()
        cohort = self._cohorts.get(key)
        if cohort is None:
            return None
        after = expired(cohort, policy, failure, self._clock())
        if after is not cohort:
            self._put(key, after)
        return Expired(after.seen(self._clock()), after.round > cohort.round, after.assembly_s)

    async def claim(self, key: str, token: str, lease_s: float) -> Gathered | None:
        """See `CohortStore.claim`."""
        self._check_open()
        cohort = self._cohorts.get(key)
        after = claimed(cohort, token, lease_s, self._clock()) if cohort else None
        if after is None:
            return None
        self._put(key, after)
        return Gathered(after.terms.size, dict(sorted(after.responses.items())), after.assembly_s)

    async def renew(self, key: str, token: str, lease_s: float) -> bool:
        """See `CohortStore.renew`."""
        cohort = self._held(key, token)
        if cohort is not None:
            self._cohorts[key] = replace(cohort, lease_until=self._clock() + lease_s)
        return cohort is not None

    async def release(self, key: str, token: str) -> None:
        """See `CohortStore.release`."""
        cohort = self._held(key, token)
        if cohort is not None:
            self._put(key, replace(cohort, token=None, version=cohort.version + 1))

    async def fail(self, key: str, token: str, failure: bytes) -> bool:
        """See `CohortStore.fail`."""
        cohort = self._held(key, token)
        if cohort is not None:
            self._put(key, failed(cohort, failure))
        return cohort is not None

    async def finish(self, key: str, token: str, result: bytes) -> tuple[bytes, bool]:
        """See `CohortStore.finish`."""
        self._check_open()
        cohort = self._cohorts.get(key)
        if cohort is None:
            return result, True
        if cohort.result is not None:
            return cohort.result, False
        self._put(key, finished(cohort, result))
        return result, True

    async def close(self) -> None:
        """See `CohortStore.close`."""
        self._closed = True
        for key in list(self._waiting):
            self._wake(key)

    def _held(self, key: str, token: str) -> Cohort | None:
        """The cohort if `token` still has it."""
        self._check_open()
        cohort = self._cohorts.get(key)
        return cohort if cohort is not None and cohort.token == token and cohort.result is None else None

    def _put(self, key: str, after: Cohort) -> None:
        """Keep the new state, and wake those who wait for it."""
        before, now = self._cohorts.get(key), self._clock()
        self._bytes += after.cost - (before.cost if before else 0)
        self._cohorts[key] = after
        open_until = now if after.closed or after.deadline_at == math.inf else max(now, after.deadline_at)
        until, earlier = open_until + self._limits.keep_s, self._keep_until.get(key, math.inf)
        self._keep_until[key] = until
        if until < earlier:
            heapq.heappush(self._oldest, (until, key))
        self._wake(key)

    def _wake(self, key: str) -> None:
        for woken in self._waiting.pop(key, ()):
            if not woken.done():
                woken.set_result(None)

    def _forget(self) -> None:
        """Drop the cohorts whose time is over."""
        now = self._clock()
        while self._oldest and self._oldest[0][0] <= now:
            _, key = heapq.heappop(self._oldest)
            until = self._keep_until.get(key)
            if until is None:  # forgotten by an earlier entry
                continue
            if until > now:
                heapq.heappush(self._oldest, (until, key))
                continue
            self._bytes -= self._cohorts.pop(key).cost
            del self._keep_until[key]
            self._wake(key)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("The cohort store is closed; the service is shutting down.")

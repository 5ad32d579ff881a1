"""Cohorts on one Redis: members may come to any replica, and a replica that dies leaves its groups to the others.

Every transition is one run of one Lua script (`scripts/cohort.lua`), by the server's clock. Who waits is woken at once
by a change made on its own replica; a change of another one is found by looking again, at most `POLL_MAX_S` later. One
look serves all who wait for a group on a replica, so that Redis sees groups waiting, not members.
Redis lost or restarted empty: waiters get `StoreUnavailable`, or bring their members again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from service.errors import StartupError, StoreUnavailable
from service.stores.cohorts_base import (
    CLASHES,
    COHORT_OVERHEAD_BYTES,
    MEMBER_OVERHEAD_BYTES,
    CohortLimits,
    Expired,
    Gathered,
    Member,
    Policy,
    Snapshot,
    Terms,
    check_index,
    check_room,
    clash,
)
from service.stores.redis_link import Argument, LinkOptions, RedisLink, Script

POLL_MIN_S = 0.02
POLL_MAX_S = 0.5
"""Between two looks at a group: the first, and the longest after growing by half each time."""

_SCRIPT = Script("cohort")


@dataclass(slots=True)
class _Watch:
    """One group that members wait for here. ``upcoming`` is the outcome of the next look to begin."""

    upcoming: asyncio.Future[Snapshot | None]
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: int = 0
    looking: asyncio.Task[None] | None = None


class RedisCohorts:
    """A `CohortStore` on the Redis at `url`, whose keys all begin with ``{prefix}:cohort``.

    `clock` gives the seconds of leases and deadlines; None is the server's own clock, the same for all replicas.
    """

    def __init__(
        self,
        url: str,
        limits: CohortLimits | None = None,
        clock: Callable[[], float] | None = None,
        prefix: str = "gram",
        options: LinkOptions | None = None,
    ) -> None:
        self._limits = limits or CohortLimits()
        self._clock = clock
        self._prefix = f"{{{prefix}}}"
        self._link = RedisLink(url, options)
        self._watches: dict[str, _Watch] = {}

    async def start(self) -> None:
        """Raises `StartupError` when Redis cannot be used."""
        try:
            await self._run("look", "start", [])
        except StoreUnavailable as error:
            raise StartupError(f"The cohort store does not start. {error.message}") from error

    async def join(self, key: str, terms: Terms, member: Member, wait_s: float) -> Snapshot:
        """See `CohortStore.join`."""
        check_index(terms, member)
        arguments: list[Argument] = [terms.size, terms.prompt, terms.rules, member.index, member.digest]
        arguments += [member.response.encode(), _ms(wait_s), member.cost, COHORT_OVERHEAD_BYTES]
        arguments += [self._limits.max_cohorts, self._limits.max_bytes]
        status, *reply = await self._run("join", key, arguments)
        for kind in CLASHES:
            if status == kind.encode():
                raise clash(kind)
        if status == b"full":
            check_room(self._limits.max_cohorts + 1, 0, self._limits)
        self._wake(key)
        return _snapshot(reply)

    async def look(self, key: str) -> Snapshot | None:
        """See `CohortStore.look`."""
        status, *reply = await self._run("look", key, [])
        return None if status == b"none" else _snapshot(reply)

    async def wait(self, key: str, version: int, seconds: float) -> Snapshot | None:
        """See `CohortStore.wait`."""
        now = asyncio.get_running_loop().time
        ends = now() + seconds
        watch = self._watched(key)
        watch.waiters += 1
        watch.woken.set()
        try:
            while (left := ends - now()) > 0:
                upcoming = watch.upcoming
                await asyncio.wait([upcoming], timeout=None if math.isinf(left) else left)
                if not upcoming.done():
                    break
                seen = upcoming.result()
                if seen is None or seen.version != version:
                    return seen
            return await self.look(key)
        finally:
            watch.waiters -= 1
            if not watch.waiters:
                self._watches.pop(key)
                watch.woken.set()

    def _watched(self, key: str) -> _Watch:
        if key not in self._watches:
            self._watches[key] = watch = _Watch(asyncio.get_running_loop().create_future())
            watch.looking = asyncio.create_task(self._look_while_waited(key, watch))
        return self._watches[key]

    async def _look_while_waited(self, key: str, watch: _Watch) -> None:
        """One look after another, each told to those who began to wait before it was sent."""
        poll_s = POLL_MIN_S
        while watch.waiters:
            watch.woken.clear()
            told, watch.upcoming = watch.upcoming, asyncio.get_running_loop().create_future()
            try:
                told.set_result(await self.look(key))
            except Exception as error:
                told.set_exception(error)
                told.exception()  # read, should nobody be left to hear it
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await watch.woken.wait()
            poll_s = min(POLL_MAX_S, 1.5 * poll_s)

    async def expire(self, key: str, policy: Policy, failure: bytes) -> Expired | None:
        """See `CohortStore.expire`."""
        status, *reply = await self._run("expire", key, [policy.least, failure])
        if status == b"none":
            return None
        self._wake(key)
        return Expired(_snapshot(reply[:-2]), reply[-2] == b"1", int(reply[-1]) / 1000)

    async def claim(self, key: str, token: str, lease_s: float) -> Gathered | None:
        """See `CohortStore.claim`."""
        status, *reply = await self._run("claim", key, [token, _ms(lease_s)])
        if status == b"no":
            return None
        size, assembly_ms, *members = reply
        responses = {int(index): text.decode() for index, text in zip(members[::2], members[1::2], strict=True)}
        return Gathered(int(size), dict(sorted(responses.items())), int(assembly_ms) / 1000)

    async def renew(self, key: str, token: str, lease_s: float) -> bool:
        """See `CohortStore.renew`."""
        (status,) = await self._run("renew", key, [token, _ms(lease_s)])
        return bool(status == b"yes")

    async def release(self, key: str, token: str) -> None:
        """See `CohortStore.release`."""
        await self._run("release", key, [token])
        self._wake(key)

    async def fail(self, key: str, token: str, failure: bytes) -> bool:
        """See `CohortStore.fail`."""
        (status,) = await self._run("fail", key, [token, failure])
        self._wake(key)
        return bool(status == b"yes")

    async def finish(self, key: str, token: str, result: bytes) -> tuple[bytes, bool]:
        """See `CohortStore.finish`."""
        status, kept = await self._run("finish", key, [result, COHORT_OVERHEAD_BYTES, MEMBER_OVERHEAD_BYTES])
        self._wake(key)
        return bytes(kept), status == b"kept"

    async def close(self) -> None:
        """See `CohortStore.close`."""
        await self._link.close()
        for key in self._watches:
            self._wake(key)

    def _wake(self, key: str) -> None:
        """Let this replica's waiters look again."""
        if key in self._watches:
            self._watches[key].woken.set()

    async def _run(self, transition: str, key: str, arguments: list[Argument]) -> list[Any]:
        keys = [f"{self._prefix}:{name}" for name in (f"cohort:{key}", "cohort-ages", "cohort-costs", "cohort-bytes")]
        now = "" if self._clock is None else str(round(self._clock() * 1000))
        common: list[Argument] = [transition, self._prefix, key, now, _ms(self._limits.keep_s)]
        return await self._link.run(_SCRIPT, keys, [*common, *arguments])


def _ms(seconds: float) -> int:
    """Whole milliseconds, rounded up so that nothing ends early."""
    return math.ceil(seconds * 1000)


def _snapshot(reply: list[Any]) -> Snapshot:
    version, round_, size, present, closed, deadline_ms, lease_ms, result, failure = reply
    return Snapshot(
        int(version),
        int(round_),
        int(size),
        tuple(sorted(map(int, present.split()))),
        closed == b"1",
        int(deadline_ms) / 1000 if deadline_ms else math.inf,
        int(lease_ms) / 1000,
        result,
        failure,
    )

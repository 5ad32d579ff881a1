"""Group assembly for trainers that post one rollout at a time: wait for the others, judge once, answer everybody.

Whoever waits also works: the first waiter that finds the group closed judges it in its own task, the others wait for
the result. So there is no background worker, and nothing is judged that nobody waits for. A judge that is cancelled, or
whose replica dies, loses its lease and the next waiter takes over. Nothing here knows HTTP, prompts or rewards: a group
is a key, a member a text, a result bytes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from service.errors import CohortIncomplete, Draining, InternalError, ServiceError, Unavailable, WeightsChanged
from service.stores.cohorts_base import CohortStore, Gathered, Member, Policy, Snapshot, Terms

LEASE_S = 5.0
"""How long a dead judge keeps a group from the next one."""

Outcome = Literal["complete", "partial", "failed"]
Judging = Callable[[Gathered], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Place:
    """One member's place: ``group`` identifies the group and attempt (see `cohorts_base.digest`)."""

    group: str
    terms: Terms
    member: Member


@dataclass(frozen=True, slots=True)
class Answer:
    """The group's result, the same bytes for all its members. ``judged``: by this very call."""

    result: bytes
    judged: bool


class Assembler:
    """Assembles groups in `store`. `seen` is told the outcome of each group and its assembly time in seconds, once."""

    def __init__(
        self,
        store: CohortStore,
        policy: Policy,
        seen: Callable[[Outcome, float], None] = lambda outcome, seconds: None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._policy = policy
        self._seen = seen
        self._lease_s = lease_s
        self._waits: set[asyncio.Timeout] = set()
        self._waiting = 0
        self._draining = False
        self._generation = 0

    @property
    def waiting(self) -> int:
        """Members inside that wait for others or for their judge."""
        return self._waiting

    async def answer(self, place: Place, wait_s: float, judge: Judging) -> Answer:
        """The result of the member's group, judged by `judge` here or by another member's.

        The group waits for its members until the earliest of their `wait_s` has passed. Cancelling leaves the member's
        response in the group. `judge` must count the same group once only, however often it is called.

        Raises `Conflict` for a member that does not fit, `CohortIncomplete` when too few came, what judging raised,
        `Draining`, `WeightsChanged`, `Overloaded`, `StoreUnavailable`.
        """
        self._waiting += 1
        try:
            return await self._answer(place, wait_s, judge)
        finally:
            self._waiting -= 1

    def drain(self) -> None:
        """Release those who wait for members that will not come here any more; judging goes on."""
        self._draining = True
        self._wake()

    def renew(self) -> None:
        """Send those who wait for members away with `WeightsChanged`: the members that come now are of other groups."""
        self._generation += 1
        self._wake()

    def _wake(self) -> None:
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def _answer(self, place: Place, wait_s: float, judge: Judging) -> Answer:
        now = asyncio.get_running_loop().time
        ends, generation = now() + wait_s, self._generation
        state = await self._join(place, wait_s)
        mine = state.round
        while True:
            if state.result is not None:
                return Answer(state.result, judged=False)
            if state.round != mine:
                raise revived(state.failure)
            if state.is_ready and state.lease_in_s <= 0:
                if (result := await self._judge(place.group, judge)) is not None:
                    return Answer(result, judged=True)
                changed = await self._store.look(place.group)
            elif not state.closed and state.deadline_in_s <= 0:
                changed = await self._expire(place.group, state)
            else:
                if not state.closed and generation != self._generation:
                    raise WeightsChanged("The judge's weights were changed meanwhile; send the group again.")
                changed = await self._changed(place.group, state)
            if changed is None or place.member.index not in changed.present:
                # The store lost the group, and others may have begun it again: come again with the time that is left.
                state = await self._join(place, max(0.0, ends - now()))
                mine = state.round
            else:
                state = changed

    async def _join(self, place: Place, wait_s: float) -> Snapshot:
        return await self._store.join(place.group, place.terms, place.member, wait_s)

    async def _changed(self, group: str, state: Snapshot) -> Snapshot | None:
        """The next state, or the same one when its deadline or its judge's lease has passed."""
        if self._draining and not state.closed:
            raise Draining("The service is shutting down; send this to another replica.", retry_after_s=1)
        seconds = state.lease_in_s if state.closed else state.deadline_in_s
        with self._released() as wait, suppress(TimeoutError):
            async with wait:
                return await self._store.wait(group, state.version, seconds)
        return await self._store.look(group)

    @contextmanager
    def _released(self) -> Iterator[asyncio.Timeout]:
        """A wait that `drain` ends."""
        wait = asyncio.timeout(None)
        self._waits.add(wait)
        try:
            yield wait
        finally:
            self._waits.discard(wait)

    async def _expire(self, group: str, state: Snapshot) -> Snapshot | None:
        """Apply the policy to a group whose deadline has passed; only one of those who wait finds it undone."""
        failure = incomplete([index for index in range(state.size) if index not in state.present], state.size)
        after = await self._store.expire(group, self._policy, stored(failure))
        if after is not None and after.failed:
            self._seen("failed", after.assembly_s)
        return after.snapshot if after is not None else None

    async def _judge(self, group: str, judge: Judging) -> bytes | None:
        """Take the group and judge it; None where another one has it.

        A failure that concerns this request or replica only leaves the group to the next waiter; any other is
        everybody's.
        """
        token = secrets.token_hex(16)
        gathered = await self._store.claim(group, token, self._lease_s)
        if gathered is None:
            return None
        try:
            async with self._renewed(group, token):
                result = await judge(gathered)
        except ServiceError as error:
            if isinstance(error, Unavailable):
                await self._release(group, token)
            elif await self._store.fail(group, token, stored(error)):
                self._seen("failed", gathered.assembly_s)
            raise
        except BaseException:
            await self._release(group, token)
            raise
        result, first = await self._store.finish(group, token, result)
        if first:
            self._seen("complete" if len(gathered.responses) == gathered.size else "partial", gathered.assembly_s)
        return result

    @asynccontextmanager
    async def _renewed(self, group: str, token: str) -> AsyncIterator[None]:
        """Keep the lease meanwhile. A lost lease stops nothing: the first result counts, whoever brings it."""

        async def renew() -> None:
            held = True
            while held:
                await asyncio.sleep(self._lease_s / 3)
                with suppress(Unavailable):
                    held = await self._store.renew(group, token, self._lease_s)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _release(self, group: str, token: str) -> None:
        """Best effort, also in a cancelled task: what cannot be released runs out by itself."""
        with suppress(Unavailable):
            await asyncio.shield(self._store.release(group, token))


def incomplete(missing: Sequence[int], size: int) -> CohortIncomplete:
    """The error of a group that too few members came to; it names the places that stayed empty, counted from 0."""
    places = ", ".join(map(str, missing))
    return CohortIncomplete(
        f"Members {places} of {size} never came; send the whole group again, or allow it a later deadline.",
        missing=places,
        size=size,
    )


def stored(error: ServiceError) -> bytes:
    """An error as those who wait elsewhere will read it."""
    return json.dumps({"code": error.code, "message": error.message, "details": error.details}).encode()


def revived(failure: bytes | None) -> ServiceError:
    """The error that `stored` wrote."""
    if failure is None:
        return InternalError("The group failed without a reason; report this with the request id.")
    found = json.loads(failure)
    return _BY_CODE.get(found["code"], InternalError)(found["message"], **found["details"])


def _tree(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _tree(kind)


_BY_CODE = {error.code: error for error in _tree(ServiceError)}

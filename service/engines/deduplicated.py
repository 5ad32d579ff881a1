"""An engine that is never asked twice what it has just answered: a wrapper around any other.

Trainers repeat themselves: a retry after a lost connection, the same rollout drawn twice, one reference for a thousand
responses. Requests for the same thing at the same time are asked once and share the answer; later ones get it from a
bounded memory of the last answers. Only what would be answered the same way again is shared: label reads, scalar reads
likelihoods and greedy generations, never sampled texts. A stream is passed through.

What is the same is decided by the token ids (template, judge and texts are in them), the labels, the sampling, the
weight version, the adapter and the tenant's salt; tenants share nothing. A failure, and an answer that is no finite
number, is shared with those who wait for it and then forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Literal

from service.engines.base import Engine, EngineInfo, EngineRequest, Progress, TextDelta, adaptable, is_sound, reloadable
from service.types import Completion

Outcome = Literal["hit", "joined", "miss"]
"""How a repeatable request was answered: from memory, by waiting for another's answer, by the engine."""


class DeduplicatedEngine:
    """See the module. Cancelling a request aborts the engine's work when nobody else waits for it."""

    def __init__(
        self, engine: Engine, entries: int, max_bytes: int, saw: Callable[[Outcome], None] = lambda outcome: None
    ) -> None:
        self.engine = engine
        self.answers = Answers(entries, max_bytes)
        self._flights: dict[bytes, _Flight] = {}
        self._saw = saw

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    @property
    def progress(self) -> Progress:
        return self.engine.progress

    async def start(self) -> None:
        await self.engine.start()

    async def check(self) -> None:
        await self.engine.check()

    async def close(self) -> None:
        await self.engine.close()
        self.clear()

    async def reload(self, model: str | None, version: str | None) -> None:
        """The engine's own; nothing that was computed before is answered after."""
        try:
            await reloadable(self.engine).reload(model, version)
        finally:
            self.clear()

    async def add_adapter(self, name: str, path: str) -> None:
        await adaptable(self.engine).add_adapter(name, path)

    async def remove_adapter(self, name: str) -> None:
        await adaptable(self.engine).remove_adapter(name)
        self.clear()

    def clear(self) -> None:
        """Forget everything: from now on no answer is given that was computed, or asked for, before."""
        self.answers.clear()
        self._flights = {}

    def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        return self.engine.stream(request)

    async def complete(self, request: EngineRequest) -> Completion:
        """As the engine's own; an answer that was not computed for this request has cached prompt tokens only."""
        await self.check()  # no memory may hide a dead engine
        key = request_key(request, self.info)
        if key is None:
            return await self.engine.complete(request)
        while True:
            if (known := self.answers.get(key)) is not None:
                self._saw("hit")
                return _as_cached(known)
            flight = self._flights.get(key)
            if flight is None or flight.task.done():
                self._saw("miss")
                return await self._launch(key, request).wait()
            if flight.waiters:
                self._saw("joined")
                return _as_cached(await flight.wait())
            await asyncio.wait((flight.task,))  # everybody left it: it is being aborted

    def _launch(self, key: bytes, request: EngineRequest) -> _Flight:
        flights = self._flights  # another dict after `clear`: then this answer is nobody else's

        async def ask() -> Completion:
            completion = await self.engine.complete(request)
            if flights is self._flights and is_sound(completion):
                self.answers.put(key, completion)
            return completion

        def landed(task: asyncio.Task[Completion]) -> None:
            if flights.get(key) is flight:
                del flights[key]
            if not task.cancelled():
                task.exception()  # an error nobody waits for any more is no news

        flight = flights[key] = _Flight(asyncio.get_running_loop().create_task(ask()))
        flight.task.add_done_callback(landed)
        return flight


@dataclass(slots=True, eq=False)
class _Flight:
    """A request inside the engine and how many wait for its answer."""

    task: asyncio.Task[Completion]
    waiters: int = 0

    async def wait(self) -> Completion:
        """The answer or its error. The last one to be cancelled ends the work, and waits until it has ended."""
        self.waiters += 1
        try:
            await asyncio.wait((self.task,))
        finally:
            self.waiters -= 1
            if not self.waiters and not self.task.done():
                self.task.cancel()
                await asyncio.wait((self.task,))
        return self.task.result()


class Answers:
    """The last answers, bounded in number and in bytes; the one that was not asked for the longest goes first."""

    def __init__(self, entries: int, max_bytes: int) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, tuple[Completion, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Completion | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def put(self, key: bytes, completion: Completion) -> None:
        """Keep it, unless it alone is beyond the bound."""
        self._drop(key)
        size = _size(key, completion)
        if size > self._max_bytes or self._entries < 1:
            return
        self._kept[key] = (completion, size)
        self.bytes += size
        while len(self._kept) > self._entries or self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self.bytes -= kept[1]


def request_key(request: EngineRequest, info: EngineInfo) -> bytes | None:
    """32 bytes that are equal for requests with one answer; None for those that may be answered differently each time,
    and for an adapter nobody knows (the engine refuses it)."""
    if request.temperature > 0 or (request.adapter is not None and request.adapter not in info.adapter_versions):
        return None
    written = (request.max_tokens, request.top_p, request.stop, request.repetition)
    asked = (request.task, request.label_ids, request.scored_from, *written)
    head = repr((info.version_of(request.adapter), request.adapter, request.cache_salt, *asked)).encode()
    ids = array("I", request.prompt_ids).tobytes()
    return hashlib.blake2b(len(head).to_bytes(8, "big") + head + ids, digest_size=32).digest()


def _as_cached(completion: Completion) -> Completion:
    return replace(completion, cached_tokens=completion.prompt_tokens)


_ENTRY_BYTES, _ALIGNMENT = 160, 16
"""What a place in the ordered dictionary takes beside key and completion, and what Python rounds every object up to."""


def _size(key: bytes, completion: Completion) -> int:
    """Bytes of memory one answer takes."""
    parts = (key, completion, completion.text, completion.token_ids, *completion.token_ids)
    numbers = (completion.label_logprobs, *completion.label_logprobs)
    return _ENTRY_BYTES + sum(-sys.getsizeof(part) // _ALIGNMENT * -_ALIGNMENT for part in parts + numbers)

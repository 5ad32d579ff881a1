"""The engine without a model: answers are a function of the prompt ids, so a service on it is quick, free and repeatable.

It is a product feature (try the API, test a trainer's client) and the double of the test suite: faults, delays and a
prefix cache can be asked for. Nothing depends on the clock or on Python's hash seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.engines.base import (
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    Task,
    TextDelta,
    check_request,
    room_for,
)
from service.errors import EngineDead, JudgmentFailed
from service.types import Completion

Fault = Literal["hang", "die", "nan", "abort"]
Answer = Literal["gram_r2", "rm_r1"]
TASKS: tuple[Task, ...] = ("label", "generate", "scalar")
CACHE_BLOCK = 32


def decode_bytes(ids: Sequence[int]) -> str:
    """The default vocabulary: id = byte of UTF-8; ids above 255 (control tokens) have no text."""
    return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def encode_bytes(text: str) -> list[int]:
    return list(text.encode())


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """How the fake behaves.

    ``script`` writes the text of a generation and ``label_logits`` the logits of the labels (both default to a hash of
    the prompt); ``fault`` is a fault for every request, or a function that names one request's. ``delay_s`` passes before
    each answer, ``token_delay_s`` between streamed pieces. ``keep_requests`` collects requests in `FakeEngine.requests`.
    """

    model: str = "fake"
    max_model_len: int = 8192
    weight_version: str = "fake-1"
    adapters: Mapping[str, str] = field(default_factory=dict)
    answer: Answer = "gram_r2"
    script: Callable[[EngineRequest], str] | None = None
    label_logits: Callable[[EngineRequest], Sequence[float]] | None = None
    score: Callable[[EngineRequest], float] | None = None
    encode: Callable[[str], Sequence[int]] = encode_bytes
    decode: Callable[[Sequence[int]], str] = decode_bytes
    delay_s: float = 0.0
    token_delay_s: float = 0.0
    fault: Fault | Callable[[EngineRequest], Fault | None] | None = None
    cache_blocks: int = 65536
    keep_requests: bool = False


class FakeEngine:
    """See the module. ``calls``, ``aborted`` and ``requests`` are for tests; `die` is what a killed engine process looks like."""

    def __init__(self, options: FakeOptions | None = None) -> None:
        self.options = options or FakeOptions()
        self.calls = 0
        self.aborted = 0
        self.requests: list[EngineRequest] = []
        self._meter = ProgressMeter()
        self._cache = _PrefixCache(self.options.cache_blocks)
        self._sampled: Counter[tuple[int, ...]] = Counter()
        self._started = False
        self._dead = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        o = self.options
        return EngineInfo("fake", o.model, o.max_model_len, o.weight_version, "none")

    @property
    def progress(self) -> Progress:
        return self._meter.progress

    @property
    def in_flight(self) -> int:
        return self._meter.progress.unfinished

    async def start(self) -> None:
        self._started = True

    async def check(self) -> None:
        if not self._started or self._dead.is_set():
            raise EngineDead("The engine is not running; restart the service.")

    def die(self) -> None:
        """From now on every request, in flight or new, raises `EngineDead`."""
        self._dead.set()

    async def close(self) -> None:
        self._dead.set()

    async def complete(self, request: EngineRequest) -> Completion:
        with self._meter.request():
            return await self._answer(request)

    async def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        with self._meter.request():
            completion = await self._answer(request)
            for piece in re.findall(r"\S*\s*", completion.text):
                if piece:
                    await self._pause(self.options.token_delay_s)
                    self._meter.moved()
                    yield TextDelta(piece)
            yield completion

    async def _answer(self, request: EngineRequest) -> Completion:
        await self.check()
        check_request(request, self.info, TASKS, self.options.adapters)
        self.calls += 1
        if self.options.keep_requests:
            self.requests.append(request)
        fault = self.options.fault(request) if callable(self.options.fault) else self.options.fault
        cached = self._cache.lookup(request)
        try:
            await self._suffer(fault)
            await self._pause(self.options.delay_s)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        completion = self._compute(request, cached, fault)
        self._cache.insert(request, completion.token_ids)
        self._meter.moved()
        return completion

    async def _suffer(self, fault: Fault | None) -> None:
        if fault == "hang":
            await self._dead.wait()
        if fault == "die":
            self.die()
        if fault == "abort":
            raise JudgmentFailed("The engine aborted the request; try it again.")
        await self._pause(0.0)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the engine dies meanwhile. Always lets other tasks run once, as an engine would."""
        if not self._dead.is_set():
            if seconds > 0:
                await asyncio.wait([asyncio.ensure_future(asyncio.sleep(seconds)), self._death()], return_when="FIRST_COMPLETED")
            else:
                await asyncio.sleep(0)
        await self.check()

    def _compute(self, request: EngineRequest, cached: int, fault: Fault | None) -> Completion:
        tokens = len(request.prompt_ids)
        if request.task == "label":
            return Completion("length", tokens, cached, label_logprobs=self._label_logprobs(request, fault))
        if request.task == "scalar":
            score = self.options.score(request) if self.options.score else 6.0 * _uniform("score", request) - 3.0
            return Completion("stop", tokens, cached, score=math.nan if fault == "nan" else score)
        return self._generation(request, cached)

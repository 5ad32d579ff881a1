"""The engine without a model: answers are a function of the prompt ids, so a service on it is quick and repeatable.

It is a product feature (try the API, test a trainer's client) and the double of the test suite: faults, delays and a
prefix cache can be asked for. No answer depends on the clock or on Python's hash seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from array import array
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from service.engines.base import (
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    Repetition,
    Task,
    TextDelta,
    check_request,
    fingerprint_weights,
    goes_round,
    room_for,
)
from service.engines.fake_faults import CallFault, FaultPlan
from service.errors import EngineDead, JudgmentFailed, StartupError
from service.types import Completion, FinishReason

Fault = CallFault
Answer = Literal["gram_r2", "rm_r1"]
TASKS: tuple[Task, ...] = ("label", "generate", "scalar", "likelihood")
CACHE_BLOCK = 32

GRAM_R2_ANSWER = """<think>
Feedback:
The two responses were read and compared with the request.

Comparision:
Response {verdict} follows the request more closely and makes fewer mistakes.

Conclusion:
Response {verdict} is better.
</think>
<answer>
{verdict}
</answer>"""

RM_R1_ANSWER = """<type>Chat</type>
<rubric>
Accuracy (60%), helpfulness (40%)
<justify>A wrong answer cannot help.</justify>
</rubric>
<eval>
<summary_A>The first response.</summary_A>
<summary_B>The second response.</summary_B>
Chatbot {verdict} meets the rubric better.
</eval>
<answer>[[{verdict}]]</answer>"""


def decode_bytes(ids: Sequence[int]) -> str:
    """The default vocabulary: id = byte of UTF-8; ids above 255 (control tokens) have no text."""
    return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def encode_bytes(text: str) -> list[int]:
    return list(text.encode())


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """How the fake behaves.

    ``script`` writes the text of a generation, ``label_logits`` the logits of the labels and ``score`` a scalar read
    (all default to a hash of the prompt); ``fault`` is a fault for every request, or a function that names one
    request's, and ``faults`` a plan that is shared with the engines which take over. ``delay_s`` passes before each
    answer, ``token_delay_s`` before each streamed piece.
    ``adapters`` maps names to versions. ``keep_requests`` collects what was asked in `FakeEngine.requests`, in order.
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
    faults: FaultPlan = field(default_factory=FaultPlan)
    cache_blocks: int = 65536
    keep_requests: bool = False


class FakeEngine:
    """See the module. ``calls``, ``aborted`` and ``requests`` are for tests; `die` acts as a killed engine would."""

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
        self._first, self._weights = self.options.weight_version, ""

    @property
    def info(self) -> EngineInfo:
        o = self.options
        return EngineInfo("fake", o.model, o.max_model_len, o.weight_version, "none", dict(o.adapters))

    @property
    def progress(self) -> Progress:
        return self._meter.progress

    @property
    def in_flight(self) -> int:
        return self._meter.progress.unfinished

    async def start(self) -> None:
        slow_s, fails = self.options.faults.start()
        await asyncio.sleep(slow_s)
        if fails:
            raise StartupError("The fake engine was told to fail this start; see engine.faults.")
        self._started = True

    async def check(self) -> None:
        if self.options.faults.is_due("die"):
            self.die()
        if not self._started or self._dead.is_set():
            raise EngineDead("The engine is not running; restart the service.")

    def die(self) -> None:
        """From now on every request, in flight or new, raises `EngineDead`."""
        self._dead.set()

    async def close(self) -> None:
        self._dead.set()

    async def reload(self, model: str | None, version: str | None) -> None:
        """Another name, and other answers."""
        model = model or self.options.model
        self.options = replace(self.options, model=model, weight_version=version or fingerprint_weights(model))
        self._cache = _PrefixCache(self.options.cache_blocks)
        self._weights = "" if self.options.weight_version == self._first else self.options.weight_version

    def another(self) -> FakeEngine:
        return FakeEngine(self.options)

    async def add_adapter(self, name: str, path: str) -> None:
        adapters = dict(self.options.adapters) | {name: fingerprint_weights(path)}
        self.options = replace(self.options, adapters=adapters)

    async def remove_adapter(self, name: str) -> None:
        left = {other: version for other, version in self.options.adapters.items() if other != name}
        self.options = replace(self.options, adapters=left)

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
        faults = self._faults_of(request)
        keys = list(_block_keys(_domain(request), request.prompt_ids))
        cached = self._cache.lookup(keys, len(request.prompt_ids))
        try:
            await self._suffer(faults)
            await self._pause(self.options.delay_s)
            await self._hang()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        completion = self._compute(request, cached, "nan" if "nan" in faults else None)
        self._cache.insert([*keys, *_next_keys(request, keys, completion.token_ids)])
        self._meter.moved()
        return completion

    def _faults_of(self, request: EngineRequest) -> set[Fault]:
        asked = self.options.fault(request) if callable(self.options.fault) else self.options.fault
        return self.options.faults.call() | ({asked} if asked else set())

    async def _suffer(self, faults: set[Fault]) -> None:
        if "hang" in faults and self.options.faults.hang_s() == 0:  # asked for by the request, not by the plan
            await self._dead.wait()
        if "die" in faults:
            self.die()
        if "abort" in faults:
            raise JudgmentFailed("The engine aborted the request; try it again.")
        if "error" in faults:
            raise JudgmentFailed("The engine failed on this request; its log says why.")

    async def _hang(self) -> None:
        """Give no output while the plan has the engine hang; a stopped process that goes on has lost nothing."""
        while (left_s := self.options.faults.hang_s()) != 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), left_s)
            await self.check()

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the engine dies meanwhile. Lets other tasks run at least once, as an engine would."""
        await asyncio.sleep(0)
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), seconds)
        await self.check()

    def _compute(self, request: EngineRequest, cached: int, fault: Fault | None) -> Completion:
        tokens = len(request.prompt_ids)
        if request.task == "label":
            return Completion("length", tokens, cached, label_logprobs=self._label_logprobs(request, fault))
        if request.task == "scalar":
            score = self.options.score(request) if self.options.score else 6.0 * self._draw(request, "score") - 3.0
            return Completion("stop", tokens, cached, score=math.nan if fault == "nan" else score)
        if request.task == "likelihood":
            total = math.nan if fault == "nan" else math.fsum(_token_logprobs(request)[request.scored_from - 1 :])
            scored = tokens - request.scored_from
            return Completion("length", tokens, cached, log_likelihood=total, scored_tokens=scored)
        return self._generation(request, cached)

    def _label_logprobs(self, request: EngineRequest, fault: Fault | None) -> tuple[float, ...]:
        """A softmax over the labels, scaled to a label mass in (0.9, 1) as a trained judge has."""
        if fault == "nan":
            return (math.nan,) * len(request.label_ids)
        hook = self.options.label_logits
        logits = hook(request) if hook else [4.0 * self._draw(request, f"label {i}") - 2.0 for i in request.label_ids]
        log_mass = math.log(0.91 + 0.08 * self._draw(request, "mass"))
        log_norm = math.log(math.fsum(math.exp(x) for x in logits))
        return tuple(x - log_norm + log_mass for x in logits)

    def _draw(self, request: EngineRequest, purpose: str) -> float:
        return _uniform(request, self._weights + purpose)

    def _generation(self, request: EngineRequest, cached: int) -> Completion:
        text = self.options.script(request) if self.options.script else self._default_text(request)
        ends = [text.find(stop) + len(stop) for stop in request.stop if stop in text]
        text = text[: min(ends)] if ends else text
        ids, room = tuple(self.options.encode(text)), room_for(request, self.info)
        end, reason = _end_of(ids, room, request.repetition)
        text = self.options.decode(ids[:end]) if end < len(ids) else text
        return Completion(reason, len(request.prompt_ids), cached, ids[:end], text)

    def _default_text(self, request: EngineRequest) -> str:
        """A well-formed judgment; another seed, or the n-th sample of one prompt, may decide otherwise, as votes do."""
        nth: int | str = 0
        if request.is_seeded:
            nth = f"seed {request.seed}"
        elif request.temperature > 0:
            nth = self._sampled[request.prompt_ids]
            self._sampled[request.prompt_ids] += 1
        verdict = "A" if self._draw(request, f"verdict {nth}") < 0.5 else "B"
        return (GRAM_R2_ANSWER if self.options.answer == "gram_r2" else RM_R1_ANSWER).format(verdict=verdict)


class _PrefixCache:
    """Which blocks of token ids a real engine would have at hand: whole ones only, keyed by all that precedes them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def lookup(self, keys: Sequence[bytes], tokens: int) -> int:
        """Tokens cached of a prompt of so many, given its blocks' keys; its last one is always computed."""
        cached = 0
        for key in keys[: (tokens - 1) // CACHE_BLOCK]:
            if key not in self._blocks:
                break
            self._blocks.move_to_end(key)
            cached += CACHE_BLOCK
        return cached

    def insert(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)


def _end_of(ids: tuple[int, ...], room: int, rule: Repetition | None) -> tuple[int, FinishReason]:
    """Where a text of these tokens ends and why, as an engine that writes one token at a time finds it."""
    first = len(ids) + 1 if rule is None else rule.shortest * rule.times
    for end in range(first, min(len(ids), room - 1) + 1):
        if goes_round(ids[:end], rule):
            return end, "repetition"
    return (room, "length") if len(ids) > room else (len(ids), "stop")


def _domain(request: EngineRequest) -> bytes:
    """What a prompt's blocks are shared within: one tenant and adapter."""
    return repr((request.adapter, request.cache_salt)).encode()


def _block_keys(key: bytes, ids: Sequence[int]) -> Iterator[bytes]:
    """One key for each whole block, chained to the key before, so that equal keys mean equal prefixes."""
    packed, width = _packed(ids), CACHE_BLOCK * 8
    for start in range(0, len(packed) - width + 1, width):
        key = hashlib.blake2b(key + packed[start : start + width], digest_size=16).digest()
        yield key


def _next_keys(request: EngineRequest, keys: Sequence[bytes], generated: tuple[int, ...]) -> Iterator[bytes]:
    """The keys of the blocks that a text fills, after those of its prompt."""
    rest = request.prompt_ids[len(keys) * CACHE_BLOCK :] + generated
    return _block_keys(keys[-1] if keys else _domain(request), rest)


def _packed(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()


def _token_logprobs(request: EngineRequest) -> list[float]:
    """Natural-log probabilities of the prompt's second to last tokens, each a function of what stands up to it."""
    digest = hashlib.blake2b(repr(request.adapter).encode(), digest_size=6)
    found = []
    for token in request.prompt_ids:
        digest.update(token.to_bytes(8, "big"))
        found.append(math.log(0.05 + 0.9 * int.from_bytes(digest.copy().digest(), "big") / 2**48))
    return found[1:]


def _uniform(request: EngineRequest, purpose: str) -> float:
    """A number in [0, 1) from the prompt ids, the adapter and what it is for."""
    digest = hashlib.blake2b(repr((purpose, request.adapter)).encode(), digest_size=6)
    digest.update(_packed(request.prompt_ids))
    return int.from_bytes(digest.digest(), "big") / 2**48

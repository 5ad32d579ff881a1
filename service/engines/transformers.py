"""The reference: plain transformers in float32, one prompt at a time. Slow and simple; the others are compared with it.

It runs where vLLM cannot, and shares no code with it below the weights. Generation is an own loop of forward passes
because the library's `generate` mixes in sampling defaults of the checkpoint, which vLLM requests do not use either.
Offline work may write several texts together (``rows``): see `service.engines.transformers_rows`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from service.engines.base import (
    TASKS_OF,
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    TextDelta,
    check_request,
    fingerprint_weights,
    goes_round,
    require_model,
    room_for,
)
from service.engines.transformers_prefixes import PrefixReader
from service.engines.transformers_rows import enable, end_ids, step
from service.errors import EngineDead, JudgmentFailed, NotApplied, StartupError
from service.types import Completion, FinishReason

DEAD = "The engine is not running; restart the service."
_LOADING = threading.Lock()
Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """``model`` is a directory or a hub id; ``adapters`` maps names to LoRA directories (needs the peft package).

    ``runner`` "pooling" loads a sequence-classification head with one output (scalar judges). ``rows`` texts are
    written together; another number may change the last bits of a text's probabilities. ``reuse_prefixes``: what label
    reads begin with is read once (`service.engines.transformers_prefixes`); it, too, may change their last bits.
    """

    model: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: int | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    runner: Literal["generate", "pooling"] = "generate"
    rows: int = 1
    reuse_prefixes: bool = False
    weight_version: str | None = None
    trust_remote_code: bool = False


@dataclass(slots=True, eq=False)
class _Work:
    """A request on its way through the worker thread."""

    request: EngineRequest
    emit: Emit | None
    answer: Future[Completion] = field(default_factory=Future)
    left: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True, eq=False)
class _Row:
    """A text being written: its cache holds the prompt and all of ``ids`` but the last."""

    work: _Work
    cache: Any
    draw: Any
    ids: list[int] = field(default_factory=list)
    sent: str = ""


class TransformersEngine:
    """See the module. All model work happens in one thread, which takes requests in order of arrival."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options
        self._tasks = TASKS_OF[options.runner]
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._next: _Work | None = None
        self._rows: list[_Row] = []
        self._adapter: str | None = None
        self._latest: tuple[Any, Any, Any] | None = None
        self._prefixes: PrefixReader | None = None
        self._thread: threading.Thread | None = None
        self._meter = ProgressMeter()
        self._model: Any = None
        self._tokenizer: Any = None
        self._eos: frozenset[int] = frozenset()
        self._info: EngineInfo | None = None
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineDead(DEAD)
        return self._info

    @property
    def progress(self) -> Progress:
        return self._meter.progress

    async def start(self) -> None:
        require_model(self.options.model)
        try:
            self._info = await asyncio.to_thread(self._load)
        except StartupError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StartupError(
                f"Could not load {self.options.model}; correct the model or the engine settings ({reason})."
            ) from error
        self._thread = threading.Thread(target=self._serve, name="transformers-engine", daemon=True)
        self._thread.start()

    def _load(self) -> EngineInfo:
        o = self.options
        device = o.device if o.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        loader = AutoModelForSequenceClassification if o.runner == "pooling" else AutoModelForCausalLM
        with _LOADING:  # from_pretrained patches its library for the time; two at once leave it patched
            model = loader.from_pretrained(
                o.model, dtype=getattr(torch, o.dtype), trust_remote_code=o.trust_remote_code, use_safetensors=True
            )
        if o.runner == "pooling" and model.config.num_labels != 1:
            raise StartupError(f"{o.model} has several outputs; a scalar judge needs a head with one.")
        for name, adapter in o.adapters.items():
            model.load_adapter(adapter, adapter_name=name)
        if o.adapters:
            model.disable_adapters()
        if o.rows > 1:
            enable(model)
        tokenizer = AutoTokenizer.from_pretrained(o.model, trust_remote_code=o.trust_remote_code)
        self._model, self._tokenizer = model.to(device).eval(), tokenizer
        if o.reuse_prefixes:
            self._prefixes = PrefixReader(self._model)
        self._eos = end_ids(model, tokenizer)
        return EngineInfo(
            engine="transformers",
            model=o.model,
            max_model_len=o.max_model_len or model.config.max_position_embeddings,
            weight_version=o.weight_version or fingerprint_weights(o.model),
            dtype=o.dtype,
            adapter_versions={name: fingerprint_weights(adapter) for name, adapter in o.adapters.items()},
        )

    async def reload(self, model: str | None, version: str | None) -> None:
        """Load the new model beside the old one, then switch: there is memory for both, or nothing is changed."""
        before = self.options
        self.options = replace(before, model=model or before.model, weight_version=version)
        try:
            self._info = await asyncio.to_thread(self._load)
        except Exception as error:
            self.options = before
            name = (model or before.model).rpartition("/")[2]
            raise NotApplied(f"transformers cannot load the checkpoint {name}; the present one stays.") from error
        self._adapter = self._latest = None

    def another(self) -> TransformersEngine:
        return TransformersEngine(self.options)

    async def check(self) -> None:
        if self._closed or self._info is None:
            raise EngineDead(DEAD)

    async def complete(self, request: EngineRequest) -> Completion:
        return await self._run(request, None)

    async def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def emit(text: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        work = asyncio.ensure_future(self._run(request, emit))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield TextDelta(piece)
            yield await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._waiting.put(None)
            await asyncio.to_thread(self._thread.join)
        self._model = self._latest = self._prefixes = None

    async def _run(self, request: EngineRequest, emit: Emit | None) -> Completion:
        await self.check()
        check_request(request, self.info, self._tasks, self.options.adapters)
        work = _Work(request, emit)
        with self._meter.request():
            self._waiting.put(work)
            try:
                return await asyncio.wrap_future(work.answer)
            except asyncio.CancelledError:
                work.left.set()
                raise
            except EngineDead:
                raise
            except Exception as error:
                raise JudgmentFailed("The engine failed on this request; its log says why.") from error

    def _serve(self) -> None:
        """The worker thread: begin what waits, write one token of every text, and again."""
        with torch.inference_mode():
            while not self._closed:
                while len(self._rows) < self.options.rows and (work := self._take()) is not None:
                    self._begin(work)
                if self._rows:
                    self._write_on()
        for row in self._rows:
            row.work.answer.set_exception(EngineDead(DEAD))
        self._rows = []
        while (left := self._take()) is not None:
            left.answer.set_exception(EngineDead(DEAD))

    def _take(self) -> _Work | None:
        """The next request that can be begun now; waits for one while no text is being written."""
        while self._next is None:
            try:
                work = self._waiting.get(block=not self._rows and not self._closed)
            except queue.Empty:
                return None
            if work is None:
                return None
            if work.answer.set_running_or_notify_cancel():
                self._next = work
        if self._rows and self._next.request.adapter != self._adapter:
            return None  # texts that are written together are of one adapter
        work, self._next = self._next, None
        return work

    def _begin(self, work: _Work) -> None:
        """Answer a read; read a text's prompt and write its first token."""
        request = work.request
        try:
            self._use(request.adapter)
            if request.task == "generate":
                logits, cache = self._prompt(request)
                self._rows.append(_Row(work, cache, _generator(request, logits.device)))
                self._add(self._rows[-1], logits)
            else:
                work.answer.set_result(self._read(request))
                self._meter.moved()
        except Exception as error:
            self._rows = [row for row in self._rows if row.work is not work]
            work.answer.set_exception(error)

    def _prompt(self, request: EngineRequest) -> tuple[Any, Any]:
        """The model's output after a text's prompt, and a cache to write on.

        Votes of one prompt come one after another, so it is read once for all of them.
        """
        key = (request.adapter, request.prompt_ids)
        if self._latest is None or self._latest[0] != key:
            self._latest = None
            self._latest = (key, *self._logits(request.prompt_ids, None))
        _, logits, cache = self._latest
        return logits, deepcopy(cache)

    def _use(self, adapter: str | None) -> None:
        if adapter == self._adapter:
            return
        if adapter is None:
            self._model.disable_adapters()
        else:
            self._model.enable_adapters()
            self._model.set_adapter(adapter)
        self._adapter = adapter

    def _read(self, request: EngineRequest) -> Completion:
        tokens = len(request.prompt_ids)
        if request.task == "likelihood":
            total = self._log_likelihood(request)
            return Completion("length", tokens, log_likelihood=total, scored_tokens=tokens - request.scored_from)
        known = 0
        if request.task == "label" and self._prefixes is not None:
            logits, known = self._prefixes.read(request.prompt_ids, request.adapter, request.cache_salt)
        else:
            logits = self._logits(request.prompt_ids, None)[0]
        if request.task == "scalar":
            return Completion("stop", tokens, score=logits.item())
        logprobs = torch.log_softmax(logits, dim=-1)[list(request.label_ids)]
        return Completion("length", tokens, known, label_logprobs=tuple(logprobs.tolist()))

    def _log_likelihood(self, request: EngineRequest) -> float:
        """Sum of the log-probabilities (nats) of the tokens from ``scored_from`` on."""
        inputs = torch.tensor([request.prompt_ids], device=self._model.device)
        scored = inputs[0, request.scored_from :]
        # The rows before the scored tokens predict them; the last token predicts what nobody asked for.
        result = self._model(input_ids=inputs, use_cache=False, logits_to_keep=len(scored) + 1)
        logprobs = torch.log_softmax(result.logits[0, :-1].float(), dim=-1)
        return float(logprobs.gather(1, scored[:, None]).double().sum())

    def _logits(self, ids: Sequence[int], past: Any) -> tuple[Any, Any]:
        """The model's output after the last of ``ids`` in float32, [vocab] or [1], and the cache for the next token."""
        inputs = torch.tensor([ids], device=self._model.device)
        if self.options.runner == "pooling":
            return self._model(input_ids=inputs).logits[0].float(), None
        result = self._model(input_ids=inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
        return result.logits[0, -1].float(), result.past_key_values

    def _write_on(self) -> None:
        """One more token of every text that somebody still waits for."""
        self._rows = [row for row in self._rows if not row.work.left.is_set()]
        rows = list(self._rows)
        try:
            for row, logits in zip(rows, self._next_logits(rows), strict=True):
                self._add(row, logits)
        except Exception as error:
            for row in self._rows:
                row.work.answer.set_exception(error)
            self._rows = []

    def _next_logits(self, rows: Sequence[_Row]) -> Sequence[Any]:
        if self.options.rows == 1:
            return [self._logits(row.ids[-1:], row.cache)[0] for row in rows]
        if not rows:
            return []
        positions = [len(row.work.request.prompt_ids) + len(row.ids) - 1 for row in rows]
        caches = [row.cache for row in rows]
        found: Sequence[Any] = step(self._model, [row.ids[-1] for row in rows], positions, caches, self.options.rows)
        return found

    def _add(self, row: _Row, logits: Any) -> None:
        """Choose the row's next token, tell what it adds to the text, and see whether that was the last."""
        request, emit = row.work.request, row.work.emit
        row.ids.append(_choose(logits, request, row.draw))
        self._meter.moved()
        ended = row.ids[-1] in self._eos
        full = len(row.ids) >= room_for(request, self.info)
        loops = not (ended or full) and goes_round(row.ids, request.repetition)
        if emit is None and not request.stop and not (ended or full or loops):
            return  # nobody needs the text yet
        written, found = _cut_at_stop(self._tokenizer.decode(row.ids, skip_special_tokens=True), request.stop)
        done = ended or full or loops or found
        # A character of several tokens shows as U+FFFD until its last one.
        if emit is not None and (done or not written.endswith("\ufffd")):
            row.sent = _emit_rest(row.sent, written, emit)
        if done:
            self._rows.remove(row)
            reason: FinishReason = "stop" if ended or found else "repetition" if loops else "length"
            row.work.answer.set_result(Completion(reason, len(request.prompt_ids), 0, tuple(row.ids), written))


def _emit_rest(sent: str, written: str, emit: Emit) -> str:
    """Send what is not sent yet; returns all that is sent."""
    if len(written) > len(sent):
        emit(written[len(sent) :])
    return written


def _cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text up to and including the stop string that ends first, and whether there is one."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return (text[: min(ends)], True) if ends else (text, False)


def _generator(request: EngineRequest, device: Any) -> Any:
    """A source of random numbers of the request's own, so that nobody else's draws move it; None: the common one."""
    if not request.is_seeded:
        return None
    return torch.Generator(device).manual_seed(request.seed)


def _choose(logits: Any, request: EngineRequest, draw: Any) -> int:
    """The next token: the likeliest, or a draw from the tempered nucleus."""
    if request.temperature == 0:
        return int(logits.argmax())
    warpers = LogitsProcessorList([TemperatureLogitsWarper(request.temperature)])
    if request.top_p < 1:
        warpers.append(TopPLogitsWarper(request.top_p))
    probabilities = torch.softmax(warpers(torch.empty(0), logits[None])[0], dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=draw))

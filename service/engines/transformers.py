"""The reference: plain transformers in float32, one prompt at a time. Slow and simple; the others are compared with it.

It runs where vLLM cannot, and shares no code with it below the weights. Generation is an own loop of forward passes
because the library's `generate` mixes in sampling defaults of the checkpoint, which vLLM requests do not use either.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    Task,
    TextDelta,
    check_request,
    fingerprint_weights,
    require_model,
    room_for,
)
from service.errors import EngineDead, JudgmentFailed, StartupError
from service.types import Completion

DEAD = "The engine is not running; restart the service."
Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """``model`` is a directory or a hub id; ``adapters`` maps names to LoRA directories (needs the peft package).

    ``runner`` "pooling" loads a sequence-classification head with one output (scalar judges).
    """

    model: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: int | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    runner: Literal["generate", "pooling"] = "generate"
    weight_version: str | None = None


class _StoppedError(Exception):
    """Inside the worker thread: the caller left or the engine closed."""


class TransformersEngine:
    """See the module. All model work happens in one worker thread, so requests are answered in order of arrival."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options
        self._tasks: tuple[Task, ...] = ("scalar",) if options.runner == "pooling" else ("label", "generate")
        self._worker = ThreadPoolExecutor(1, "transformers-engine")
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
            self._info = await asyncio.get_running_loop().run_in_executor(self._worker, self._load)
        except StartupError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StartupError(
                f"Could not load {self.options.model}; correct the model or the engine settings ({reason})."
            ) from error

    def _load(self) -> EngineInfo:
        o = self.options
        device = o.device if o.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        loader = AutoModelForSequenceClassification if o.runner == "pooling" else AutoModelForCausalLM
        model = loader.from_pretrained(
            o.model, dtype=getattr(torch, o.dtype), trust_remote_code=False, use_safetensors=True
        )
        if o.runner == "pooling" and model.config.num_labels != 1:
            raise StartupError(f"{o.model} has several outputs; a scalar judge needs a head with one.")
        for name, adapter in o.adapters.items():
            model.load_adapter(adapter, adapter_name=name)
        self._model = model.to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(o.model, trust_remote_code=False)
        self._eos = _end_ids(model, self._tokenizer)
        return EngineInfo(
            engine="transformers",
            model=o.model,
            max_model_len=o.max_model_len or model.config.max_position_embeddings,
            weight_version=o.weight_version or fingerprint_weights(o.model),
            dtype=o.dtype,
            adapter_versions={name: fingerprint_weights(adapter) for name, adapter in o.adapters.items()},
        )

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
        await asyncio.to_thread(self._worker.shutdown)
        self._model = None

    async def _run(self, request: EngineRequest, emit: Emit | None) -> Completion:
        await self.check()
        check_request(request, self.info, self._tasks, self.options.adapters)
        left = threading.Event()
        with self._meter.request():
            try:
                return await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, request, left, emit)
            except asyncio.CancelledError:
                left.set()
                raise
            except _StoppedError as error:
                raise EngineDead(DEAD) from error
            except Exception as error:
                raise JudgmentFailed("The engine failed on this request; its log says why.") from error

    def _answer(self, request: EngineRequest, left: threading.Event, emit: Emit | None) -> Completion:
        """In the worker thread."""
        self._go_on(left)
        if self.options.adapters:
            if request.adapter is None:
                self._model.disable_adapters()
            else:
                self._model.enable_adapters()
                self._model.set_adapter(request.adapter)
        with torch.inference_mode():
            if request.task == "generate":
                return self._generate(request, left, emit)
            logits = self._logits(request.prompt_ids, None)[0]
        self._meter.moved()
        if request.task == "scalar":
            return Completion("stop", len(request.prompt_ids), score=logits.item())
        logprobs = torch.log_softmax(logits, dim=-1)[list(request.label_ids)]
        return Completion("length", len(request.prompt_ids), label_logprobs=tuple(logprobs.tolist()))

    def _logits(self, ids: Sequence[int], past: Any) -> tuple[Any, Any]:
        """The model's output after the last of ``ids`` in float32, [vocab] or [1], and the cache for the next token."""
        inputs = torch.tensor([ids], device=self._model.device)
        if self.options.runner == "pooling":
            return self._model(input_ids=inputs).logits[0].float(), None
        result = self._model(input_ids=inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
        return result.logits[0, -1].float(), result.past_key_values

    def _generate(self, request: EngineRequest, left: threading.Event, emit: Emit | None) -> Completion:
        ids, text, past = list[int](), "", None
        step: Sequence[int] = request.prompt_ids
        reason: Literal["stop", "length"] = "length"
        while reason == "length" and len(ids) < room_for(request, self.info):
            self._go_on(left)
            logits, past = self._logits(step, past)
            ids.append(_choose(logits, request))
            step = ids[-1:]
            self._meter.moved()
            written, found = _cut_at_stop(self._tokenizer.decode(ids, skip_special_tokens=True), request.stop)
            if found or ids[-1] in self._eos:
                reason = "stop"
            # A character of several tokens shows as U+FFFD until its last one.
            if emit is not None and not (written.endswith("\ufffd") and reason == "length"):
                text = _emit_rest(text, written, emit)
        if emit is not None:
            _emit_rest(text, written, emit)
        return Completion(reason, len(request.prompt_ids), 0, tuple(ids), written)

    def _go_on(self, left: threading.Event) -> None:
        if self._closed or left.is_set():
            raise _StoppedError


def _emit_rest(sent: str, written: str, emit: Emit) -> str:
    """Send what is not sent yet; returns all that is sent."""
    if len(written) > len(sent):
        emit(written[len(sent) :])
    return written


def _cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text up to and including the stop string that ends first, and whether there is one."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return (text[: min(ends)], True) if ends else (text, False)


def _choose(logits: Any, request: EngineRequest) -> int:
    """The next token: the likeliest, or a draw from the tempered nucleus."""
    if request.temperature == 0:
        return int(logits.argmax())
    warpers = LogitsProcessorList([TemperatureLogitsWarper(request.temperature), TopPLogitsWarper(request.top_p)])
    probabilities = torch.softmax(warpers(torch.empty(0), logits[None])[0], dim=-1)
    return int(torch.multinomial(probabilities, 1))


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a text: the tokenizer's, and those of the generation config where there is one."""
    config = getattr(model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None) or []
    ids = [configured] if isinstance(configured, int) else list(configured)
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)

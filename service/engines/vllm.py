"""vLLM in this process: `AsyncLLM`, whose engine core runs in a child process that does all the computing.

Measured facts behind the choices (vLLM 0.32): a label read is a one-token greedy generation with ``logprob_token_ids``,
which returns the full-vocabulary log-probabilities of exactly the labels; ``logprobs=k`` never shares an engine with
it, because the top-k rows come back as -inf. A seeded request whose prefill is split kills the engine on CPU, so seeds
are refused there unless prefills are never split. Batch limits are explicit because an embedded engine otherwise falls
to server-unfriendly defaults.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import psutil
from prometheus_client import CollectorRegistry
from vllm import SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMError
from vllm.inputs import TokensInput, tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from service.engines.affinity import Ranks
from service.engines.base import (
    FINISHED,
    NO_SCORING,
    TASKS_OF,
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    TextDelta,
    check_request,
    fingerprint_weights,
    require_model,
)
from service.engines.cpu import choose_cpu_plan, environment, read_cpu
from service.engines.vllm_metrics import EngineMetrics
from service.engines.vllm_sampling import SCALAR_PARAMS, generation_params, params_of
from service.errors import EngineDead, InvalidInput, JudgmentFailed, Overloaded, ServiceError, StartupError
from service.types import Completion

Output = TypeVar("Output")

DEAD = "The engine is not running; restart the service."
ABORTED = "The engine stopped this request before it was done; try it again."

# Larger blocks share less: with blocks of 128 a common prefix of 223 tokens gave 127 cached ones.
CPU_BLOCK_SIZE = 32
CPU_KV_CACHE_BYTES = 512 * 2**20
# At close nothing is left to finish; a process that does not end by then is killed.
CLOSE_S = 10.0


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How to run a model. None means the measured default for the device.

    ``model`` is a directory or a hub id; ``adapters`` maps adapter names to LoRA directories. ``runner`` "pooling"
    serves a sequence-classification head (scalar judges). ``chunked_prefill`` off never splits a prompt over steps, so
    that a CPU engine takes seeds; then a step must hold the longest prompt. ``extra`` goes to vLLM's engine arguments
    as it is.
    """

    model: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    kv_cache_bytes: int | None = None
    enforce_eager: bool | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    adapters: Mapping[str, str] = field(default_factory=dict)
    runner: Literal["generate", "pooling"] = "generate"
    shutdown_timeout_s: int = 30
    chunked_prefill: bool = True
    weight_version: str | None = None
    trust_remote_code: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def engine_arguments(options: VllmOptions) -> dict[str, Any]:
    """The keyword arguments for vLLM's `EngineArgs`. On CPU also sets vLLM's environment variables."""
    arguments: dict[str, Any] = {
        "model": options.model,
        "runner": options.runner,
        "dtype": options.dtype,
        "load_format": "safetensors",
        "trust_remote_code": options.trust_remote_code,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens or 8192,
        "block_size": options.block_size,
        "kv_cache_memory_bytes": options.kv_cache_bytes,
        "enforce_eager": bool(options.enforce_eager),
        "enable_prefix_caching": True,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "shutdown_timeout": options.shutdown_timeout_s,
    }
    if current_platform.is_cpu():
        arguments |= _cpu_arguments(options)
    if options.adapters:
        arguments |= _adapter_arguments(options.adapters)
    if not options.chunked_prefill:
        arguments["enable_chunked_prefill"] = False
    return arguments | dict(options.extra)


def _cpu_arguments(options: VllmOptions) -> dict[str, Any]:
    ranks = options.tensor_parallel_size * options.pipeline_parallel_size * options.data_parallel_size
    plan = choose_cpu_plan(*read_cpu(), options.dtype, ranks)
    eager = options.enforce_eager is not False
    os.environ.update(environment(plan, eager))
    return {
        "dtype": plan.dtype,
        "max_num_batched_tokens": options.max_num_batched_tokens or 4096,
        "block_size": options.block_size or CPU_BLOCK_SIZE,
        "kv_cache_memory_bytes": options.kv_cache_bytes or CPU_KV_CACHE_BYTES,
        "enforce_eager": eager,
        "worker_extension_cls": "service.engines.cpu_kernels.Extension" if eager else "",
    }


def _adapter_arguments(adapters: Mapping[str, str]) -> dict[str, Any]:
    ranks = []
    for name, path in adapters.items():
        try:
            ranks.append(int(json.loads((Path(path) / "adapter_config.json").read_text())["r"]))
        except (OSError, ValueError, KeyError) as error:
            raise StartupError(f"The adapter {name!r} has no readable adapter_config.json in {path}.") from error
    fitting = [rank for rank in get_args(MaxLoRARanks) if rank >= max(ranks)]
    if not fitting:
        raise StartupError(f"An adapter has rank {max(ranks)}, above vLLM's limit; merge it into its base model.")
    return {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": min(fitting)}


class VllmEngine:
    """See the module. ``registry`` receives vLLM's own metrics (without it they are not collected)."""

    def __init__(self, options: VllmOptions, registry: CollectorRegistry | None = None) -> None:
        self.options = options
        self._metrics = EngineMetrics(registry) if registry is not None else None
        self._tasks = TASKS_OF[options.runner]
        self._loras = {name: LoRARequest(name, i, path) for i, (name, path) in enumerate(options.adapters.items(), 1)}
        self._llm: AsyncLLM | None = None
        self._info: EngineInfo | None = None
        self._workers: list[psutil.Process] = []
        self._closed = False
        self._meter = ProgressMeter()
        self._ids = itertools.count()
        self._ranks = Ranks(options.data_parallel_size)

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineDead(DEAD)
        return self._info

    @property
    def progress(self) -> Progress:
        return self._meter.progress

    async def start(self) -> None:
        """Takes 15 to 40 s on two cores, in a thread, and ends with a first answer, so that no caller waits for one.

        Freezes what the garbage collector sees: full collections over vLLM's objects stall requests by 100 ms and more.
        """
        require_model(self.options.model)
        _require_device(self.options.device)
        try:
            llm = await asyncio.to_thread(self._build)
            self._llm, self._workers = llm, _workers_of(llm)
            for lora in self._loras.values():
                await llm.add_lora(lora)
            self._info = self._describe(llm)
            await self._warm_up()
        except Exception as error:
            await self.close()
            if isinstance(error, StartupError):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StartupError(f"vLLM could not load {self.options.model}: {reason}; correct the settings.") from error
        gc.collect()
        gc.freeze()

    async def _warm_up(self) -> None:
        for task in self._tasks:
            if task == "likelihood":
                continue  # nobody waits for one
            warm = EngineRequest((0, 1), task, label_ids=(0, 1), max_tokens=2, temperature=1.0)
            await self.complete(warm)

    def _build(self) -> AsyncLLM:
        # A fork of a process with threads can deadlock. Usage statistics stay at home.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        arguments = engine_arguments(self.options)
        args = AsyncEngineArgs(disable_log_stats=self._metrics is None, **arguments)
        return AsyncLLM.from_engine_args(args, stat_loggers=[self._metrics.logger] if self._metrics else None)

    def _describe(self, llm: AsyncLLM) -> EngineInfo:
        config = llm.model_config
        if "scalar" in self._tasks and config.hf_config.num_labels != 1:
            raise StartupError(f"{self.options.model} has several outputs; a scalar judge needs a head with one.")
        version = self.options.weight_version or fingerprint_weights(self.options.model)
        adapters = {name: fingerprint_weights(path) for name, path in self.options.adapters.items()}
        dtype = str(config.dtype).removeprefix("torch.")
        return EngineInfo("vllm", self.options.model, config.max_model_len, version, dtype, adapters)

    async def check(self) -> None:
        self._running()

    def _running(self) -> AsyncLLM:
        if self._closed or self._llm is None or self._llm.errored:
            raise EngineDead(DEAD)
        return self._llm

    def _admit(self, request: EngineRequest) -> AsyncLLM:
        """The engine, for a request that cannot harm it."""
        llm = self._running()
        check_request(request, self.info, self._tasks, self._loras)
        if request.is_seeded and self.options.chunked_prefill and current_platform.is_cpu():
            raise InvalidInput("A seeded request can kill this engine; start it with chunked_prefill off.")
        if request.task == "likelihood" and self._loras:
            raise InvalidInput(NO_SCORING)
        return llm

    async def complete(self, request: EngineRequest) -> Completion:
        llm = self._admit(request)
        with self._meter.request(), self._translated(), self._ranks.choose(request.affinity) as rank:
            if request.task == "scalar":
                return await self._scalar(llm, request)
            final = await _last(self._generate(llm, request, params_of(request), rank))
            self._meter.moved()
            return self._completion(request, final)

    async def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        llm = self._admit(request)
        params, ids, text = generation_params(request, streaming=True), list[int](), ""
        with self._meter.request(), self._translated(), self._ranks.choose(request.affinity) as rank:
            async with aclosing(self._generate(llm, request, params, rank)) as outputs:
                async for output in outputs:
                    self._meter.moved()
                    piece = output.outputs[0]
                    ids.extend(piece.token_ids)
                    text += piece.text
                    if piece.text:
                        yield TextDelta(piece.text)
            yield replace(self._completion(request, output), token_ids=tuple(ids), text=text)

    async def close(self) -> None:
        self._closed = True
        if (llm := self._llm) is None:
            return
        self._llm = None
        # vLLM leaves requests that are in flight at shutdown hanging or cut; an abort ends each one, as an error.
        with suppress(EngineDeadError):
            await llm.abort(list(llm.output_processor.request_states), internal=True)
        if llm.output_handler is not None:
            llm.output_handler.cancel()  # else it reports the end of its engine as a crash
        await asyncio.to_thread(self._shut_down, llm)
        gc.unfreeze()
        if self._metrics is not None:
            self._metrics.unregister()

    def _shut_down(self, llm: AsyncLLM) -> None:
        llm.shutdown(CLOSE_S)
        for worker in psutil.wait_procs(self._workers, CLOSE_S / 2)[1]:  # those of a killed core may linger
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def _generate(
        self, llm: AsyncLLM, request: EngineRequest, params: SamplingParams, rank: int | None
    ) -> AsyncGenerator[RequestOutput, None]:
        outputs: AsyncGenerator[RequestOutput, None] = llm.generate(
            _prompt(request),
            params,
            str(next(self._ids)),
            lora_request=self._lora(request),
            data_parallel_rank=rank,
        )
        return outputs

    def _lora(self, request: EngineRequest) -> LoRARequest | None:
        return None if request.adapter is None else self._loras[request.adapter]

    async def _scalar(self, llm: AsyncLLM, request: EngineRequest) -> Completion:
        outputs = llm.encode(_prompt(request), SCALAR_PARAMS, str(next(self._ids)), lora_request=self._lora(request))
        output = await _last(outputs)
        self._meter.moved()
        values = output.outputs.data.flatten().tolist()
        if not values:  # how vLLM ends an aborted pooling request
            raise self._aborted()
        return Completion("stop", len(request.prompt_ids), output.num_cached_tokens, score=values[0])

    def _aborted(self) -> ServiceError:
        return EngineDead(DEAD) if self._closed else JudgmentFailed(ABORTED)

    def _completion(self, request: EngineRequest, output: RequestOutput) -> Completion:
        answer, cached = output.outputs[0], output.num_cached_tokens or 0
        reason = answer.finish_reason
        if reason not in FINISHED:
            raise self._aborted()
        if request.task == "generate":
            return Completion(FINISHED[reason], len(request.prompt_ids), cached, tuple(answer.token_ids), answer.text)
        if request.task == "likelihood":
            return Completion("length", len(request.prompt_ids), cached, **_likelihood(request, output))
        assert answer.logprobs is not None
        row = answer.logprobs[0]
        logprobs = tuple(row[label].logprob for label in request.label_ids)
        return Completion("length", len(request.prompt_ids), cached, label_logprobs=logprobs)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """vLLM's errors in this project's words. Cancellation passes through; vLLM then aborts the request."""
        try:
            yield
        except EngineDeadError as error:
            raise EngineDead(DEAD) from error
        except GracefulHTTPError as error:
            raise Overloaded("The engine's own queue is full; try again later.") from error
        except VLLMClientError as error:
            raise InvalidInput("The model cannot take this prompt; is the tokenizer its own?") from error
        except VLLMError as error:
            raise JudgmentFailed("The engine failed on this request; its log says why.") from error


def _workers_of(llm: AsyncLLM) -> list[psutil.Process]:
    """The processes below the engine cores, where those run on this machine."""
    cores = getattr(llm.engine_core.resources.engine_manager, "processes", ())
    return [worker for core in cores for worker in psutil.Process(core.pid).children(recursive=True)]


def _likelihood(request: EngineRequest, output: RequestOutput) -> dict[str, Any]:
    """Sum over the prompt's tokens from ``scored_from`` on."""
    assert output.prompt_logprobs is not None
    scored = list(zip(request.prompt_ids, output.prompt_logprobs, strict=True))[request.scored_from :]
    total = math.fsum(row[token].logprob for token, row in scored)
    return {"log_likelihood": total, "scored_tokens": len(scored)}


async def _last(outputs: AsyncIterator[Output]) -> Output:
    """The only output of a request that asked for the final one only."""
    async for output in outputs:  # noqa: B007 - the last one is the answer
        pass
    return output


def _prompt(request: EngineRequest) -> TokensInput:
    return tokens_input(list(request.prompt_ids), cache_salt=request.cache_salt)


def _require_device(device: str) -> None:
    """Raise `StartupError` for what vLLM would only report deep in its log."""
    if device != "auto" and (device == "cpu") != current_platform.is_cpu():
        raise StartupError(f"The installed vLLM cannot use device {device!r}; install its other extra.")
    if current_platform.is_unspecified():
        raise StartupError("The installed vLLM finds no usable device; install the CPU extra or check the GPU driver.")

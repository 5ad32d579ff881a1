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
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
from prometheus_client import CollectorRegistry
from vllm import SamplingParams
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
    TRACE_HEADERS,
    EngineInfo,
    EngineRequest,
    Progress,
    ProgressMeter,
    TextDelta,
    check_request,
    fingerprint_weights,
    require_model,
)
from service.engines.checkpoints import Checkpoint
from service.engines.vllm_metrics import EngineMetrics, pulse
from service.engines.vllm_options import VllmOptions as VllmOptions
from service.engines.vllm_options import engine_arguments, rank_of, require_device
from service.engines.vllm_sampling import SCALAR_PARAMS, generation_params, params_of
from service.errors import EngineDead, InvalidInput, JudgmentFailed, NotApplied, Overloaded, ServiceError, StartupError
from service.types import Completion

Output = TypeVar("Output")

DEAD = "The engine is not running; restart the service."
ABORTED = "The engine stopped this request before it was done; try it again."

# At close nothing is left to finish; a process that does not end by then is killed.
CLOSE_S = 10.0


class VllmEngine:
    """See the module. ``registry`` receives vLLM's own metrics (without it they are not collected)."""

    def __init__(self, options: VllmOptions, registry: CollectorRegistry | None = None) -> None:
        self.options = options
        self._registry = registry
        self._metrics = EngineMetrics(registry) if registry is not None else None
        self._tasks = TASKS_OF[options.runner]
        self._lora_ids = itertools.count(1)
        self._loras = {name: self._named(name, path) for name, path in options.adapters.items()}
        self._places = len(self._loras) + options.max_adapters
        self._checkpoint: Checkpoint | None = None
        self._llm: AsyncLLM | None = None
        self._info: EngineInfo | None = None
        self._workers: list[psutil.Process] = []
        self._building: set[int] | None = None
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
        require_device(self.options.device)
        try:
            llm = await asyncio.to_thread(self._build)
            self._llm, self._workers = llm, _workers_of(llm)
            for lora in self._loras.values():
                await llm.add_lora(lora)
            self._info = self._describe(llm)
            self._checkpoint = await asyncio.to_thread(self._look_at, llm)
            await self._warm_up()
        except BaseException as error:
            await self.close()
            if isinstance(error, StartupError) or not isinstance(error, Exception):
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
        self._building = {child.pid for child in psutil.Process().children(recursive=True)}
        # A fork of a process with threads can deadlock. Usage statistics stay at home.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        arguments = engine_arguments(self.options)
        args = AsyncEngineArgs(disable_log_stats=self._metrics is None, **arguments)
        loggers = [self._metrics.logger, pulse(self._meter.moved)] if self._metrics else None
        return AsyncLLM.from_engine_args(args, stat_loggers=loggers)

    def _describe(self, llm: AsyncLLM) -> EngineInfo:
        config = llm.model_config
        if "scalar" in self._tasks and config.hf_config.num_labels != 1:
            raise StartupError(f"{self.options.model} has several outputs; a scalar judge needs a head with one.")
        version = self.options.weight_version or fingerprint_weights(self.options.model)
        adapters = {name: fingerprint_weights(path) for name, path in self.options.adapters.items()}
        dtype = str(config.dtype).removeprefix("torch.")
        return EngineInfo("vllm", self.options.model, config.max_model_len, version, dtype, adapters)

    def _look_at(self, llm: AsyncLLM) -> Checkpoint:
        """What is served now, for comparison with what may take its place."""
        model = self.options.model
        return Checkpoint.read(model) if Path(model).is_dir() else Checkpoint(llm.model_config.hf_config.to_dict())

    def _check_fits(self, directory: str) -> None:
        """What is no directory is the hub id that was served before. Raises `NotApplied`."""
        if Path(directory).is_dir():
            assert self._checkpoint is not None
            self._checkpoint.check_replaceable(directory)

    async def reload(self, model: str | None, version: str | None) -> None:
        """In place: vLLM pauses, copies the new weights over the old ones, forgets its caches and goes on."""
        llm, directory = self._running(), model or self.options.model
        await asyncio.to_thread(self._check_fits, directory)
        with self._translated():
            await llm.pause_generation(mode="wait", clear_cache=True)
            try:
                await llm.collective_rpc("reload_weights", kwargs={"weights_path": directory})
                for lora in self._loras.values():  # vLLM drops them with the old weights
                    await llm.add_lora(lora)
            finally:
                await llm.resume_generation()
        named = await asyncio.to_thread(fingerprint_weights, directory) if version is None else version
        self.options = replace(self.options, model=directory, weight_version=named)
        self._info = replace(self.info, model=directory, weight_version=named)

    def another(self) -> VllmEngine:
        return VllmEngine(self.options, self._registry)

    async def add_adapter(self, name: str, path: str) -> None:
        """vLLM's name of an adapter is never used twice: its prefix cache tells adapters apart by name alone."""
        llm, fresh = self._running(), self._named(name, path)
        if name not in self._loras and len(self._loras) >= self._places:
            raise NotApplied("The engine has no room for another adapter; remove one, or raise engine.max_adapters.")
        try:
            rank = rank_of(name, path)
        except StartupError as error:
            raise NotApplied(f"The adapter {name} has no readable adapter_config.json; write it again.") from error
        if rank > llm.vllm_config.lora_config.max_lora_rank:
            raise NotApplied(f"The adapter {name} has rank {rank}; raise engine.max_adapter_rank.")
        try:
            with self._translated():
                await llm.add_lora(fresh)
        except EngineDead:
            raise
        except Exception as error:
            raise NotApplied(f"vLLM cannot load the adapter {name}; does it belong to this model?") from error
        self._loras[name] = fresh
        self._adapters_are(dict(self.options.adapters) | {name: path})

    async def remove_adapter(self, name: str) -> None:
        llm, lora = self._running(), self._loras.pop(name)
        with self._translated():
            await llm.remove_lora(lora.lora_int_id)
        self._adapters_are({other: path for other, path in self.options.adapters.items() if other != name})

    def _named(self, name: str, path: str) -> LoRARequest:
        number = next(self._lora_ids)
        return LoRARequest(f"{name}.{number}", number, path)

    def _adapters_are(self, adapters: dict[str, str]) -> None:
        self.options = replace(self.options, adapters=adapters)
        versions = {name: fingerprint_weights(path) for name, path in adapters.items()}
        self._info = replace(self.info, adapter_versions=versions)

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
        if request.task == "likelihood" and (self._loras or self.options.max_adapters):
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
            _end(self._building)
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
            trace_headers=self._trace_headers(),
        )
        return outputs

    def _trace_headers(self) -> Mapping[str, str] | None:
        """The span that vLLM's own span of this request belongs to."""
        return TRACE_HEADERS.get() if self.options.traces_endpoint else None

    def _lora(self, request: EngineRequest) -> LoRARequest | None:
        return None if request.adapter is None else self._loras[request.adapter]

    async def _scalar(self, llm: AsyncLLM, request: EngineRequest) -> Completion:
        outputs = llm.encode(
            _prompt(request),
            SCALAR_PARAMS,
            str(next(self._ids)),
            lora_request=self._lora(request),
            trace_headers=self._trace_headers(),
        )
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


def _end(others: set[int] | None) -> None:
    """Kill the processes of an engine that is being built: descendants of this one that are not ``others``.

    The thread that builds it cannot be stopped, but gives up when they are gone. None: none is being built.
    """
    for child in psutil.Process().children(recursive=True) if others is not None else ():
        with suppress(psutil.NoSuchProcess):
            is_engines = child.name().startswith("VLLM") or "spawn_main" in " ".join(child.cmdline())
            if is_engines and child.pid not in (others or ()):
                child.kill()


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

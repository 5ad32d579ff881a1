"""How vLLM is started: this project's options, and the engine arguments they become on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vllm.config.logging import LoggingConfig
from vllm.config.lora import MaxLoRARanks
from vllm.platforms import current_platform

from service.engines.cpu import choose_cpu_plan, environment, read_cpu
from service.errors import StartupError

# Larger blocks share less: with blocks of 128 a common prefix of 223 tokens gave 127 cached ones.
CPU_BLOCK_SIZE = 32
CPU_KV_CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How to run a model. None means the measured default for the device.

    ``model`` is a directory or a hub id; ``adapters`` maps adapter names to LoRA directories. ``runner`` "pooling"
    serves a sequence-classification head (scalar judges). ``chunked_prefill`` off never splits a prompt over steps, so
    that a CPU engine takes seeds; then a step must hold the longest prompt. ``max_adapters`` of up to
    ``max_adapter_rank`` may be added later. ``traces_endpoint``: where vLLM sends its spans (OTLP over HTTP).
    ``json_logs``: its log is an object a line, as ours then is.
    ``extra`` goes to vLLM's engine arguments as it is.
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
    max_adapters: int = 0
    max_adapter_rank: int = 16
    traces_endpoint: str | None = None
    json_logs: bool = False
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
    if options.adapters or options.max_adapters:
        arguments |= _adapter_arguments(options)
    if options.traces_endpoint:
        os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"  # as ours; vLLM's default is gRPC
        arguments["otlp_traces_endpoint"] = options.traces_endpoint
    if options.json_logs:
        arguments["logging_config"] = LoggingConfig(formatter="json")
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


def _adapter_arguments(options: VllmOptions) -> dict[str, Any]:
    ranks = [rank_of(name, path) for name, path in options.adapters.items()]
    if options.max_adapters:
        ranks.append(options.max_adapter_rank)
    fitting = [rank for rank in get_args(MaxLoRARanks) if rank >= max(ranks)]
    if not fitting:
        raise StartupError(f"An adapter has rank {max(ranks)}, above vLLM's limit; merge it into its base model.")
    places = len(options.adapters) + options.max_adapters
    return {"enable_lora": True, "max_loras": places, "max_lora_rank": min(fitting)}


def rank_of(name: str, path: str) -> int:
    try:
        return int(json.loads((Path(path) / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError) as error:
        raise StartupError(f"The adapter {name!r} has no readable adapter_config.json in {path}.") from error


def require_device(device: str) -> None:
    """Raise `StartupError` for what vLLM would only report deep in its log."""
    if device != "auto" and (device == "cpu") != current_platform.is_cpu():
        raise StartupError(f"The installed vLLM cannot use device {device!r}; install its other extra.")
    if current_platform.is_unspecified():
        raise StartupError("The installed vLLM finds no usable device; install the CPU extra or check the GPU driver.")

"""The settings of engines, and of what happens when one fails. `service.settings` puts all sections together."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from service.sections import Section


def demo_model() -> str:
    """The checkpoint that comes with the service."""
    return str(files("service") / "demo")


class FaultSettings(Section):
    """A fault that the fake engine is to have, at one of three moments: its ``at_call``-th call, ``after_s`` seconds
    after its first start, or its ``at_start``-th start (1 is the first).

    ``times``: so many calls or starts in a row. ``for_s``: how long a hang, or what began ``after_s``, goes on; None:
    until the engine is replaced, which ends everything but faults of starts. A slow start takes 1 s longer, or so long.
    """

    kind: Literal["hang", "die", "nan", "abort", "error", "slow_start", "start_failure"]
    at_call: int | None = Field(None, ge=1)
    after_s: float | None = Field(None, ge=0)
    at_start: int | None = Field(None, ge=1)
    times: int = Field(1, ge=1)
    for_s: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_moment(self) -> FaultSettings:
        given = [name for name in ("at_call", "after_s", "at_start") if getattr(self, name) is not None]
        starts = self.kind in ("slow_start", "start_failure")
        if len(given) != 1 or starts != (given == ["at_start"]):
            raise ValueError("a fault of a start needs at_start, any other at_call or after_s")
        return self


class FakeSettings(Section):
    """The engine without a model: answers are a hash of the prompt. For trying the API and for tests.

    ``faults`` is how it fails: to see what a trainer makes of a judge that hangs, dies or answers nonsense.
    """

    type: Literal["fake"] = "fake"
    model: str = "fake"
    max_model_len: int = Field(8192, ge=64)
    delay_s: float = Field(0.0, ge=0)
    token_delay_s: float = Field(0.0, ge=0)
    faults: tuple[FaultSettings, ...] = ()


class _CheckpointSettings(Section):
    """``trust_remote_code`` runs Python files of the checkpoint; without it a checkpoint that names any is refused."""

    model: str = Field(default_factory=demo_model)
    weight_version: str | None = None
    trust_remote_code: bool = False


class VllmSettings(_CheckpointSettings):
    """vLLM in this process. None means the measured default for the device; ``extra`` goes to its engine arguments."""

    type: Literal["vllm"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, ge=64)
    max_num_seqs: int = Field(256, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=1)
    block_size: int | None = Field(None, ge=1)
    kv_cache_bytes: int | None = Field(None, ge=1)
    enforce_eager: bool | None = None
    tensor_parallel_size: int = Field(1, ge=1)
    pipeline_parallel_size: int = Field(1, ge=1)
    data_parallel_size: int = Field(1, ge=1)
    adapters: dict[str, str] = Field(default_factory=dict)
    max_adapters: int = Field(0, ge=0, le=1024)
    max_adapter_rank: int = Field(16, ge=1)
    extra: dict[str, Any] = Field(default_factory=dict)


class RemoteSettings(_CheckpointSettings):
    """OpenAI-compatible vLLM servers, which hold the weights. ``model`` is where tokenizer and manifest lie."""

    type: Literal["remote"] = "remote"
    urls: tuple[str, ...] = Field(min_length=1)
    served_model: str | None = None
    api_key: SecretStr | None = None
    connect_timeout_s: float = Field(5.0, gt=0)
    read_timeout_s: float = Field(600.0, gt=0)
    check_interval_s: float = Field(2.0, gt=0)
    max_connections: int = Field(512, ge=1)


class TransformersSettings(_CheckpointSettings):
    """The reference engine: slow, runs where vLLM does not."""

    type: Literal["transformers"] = "transformers"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: int | None = Field(None, ge=64)
    adapters: dict[str, str] = Field(default_factory=dict)
    reuse_prefixes: bool = False


class RecoverySettings(Section):
    """What is done about an engine that died, hangs (``limits.fatal_stall_s``) or answers with broken numbers.

    ``restart``: start another one, the first at once, the next after ``backoff_s``, then twice that and so on up to
    ``max_backoff_s``; ``max_restarts`` tries within ``window_s`` seconds have the process exit. ``exit``: the process
    exits with status 3. ``stay``: it stays, not ready and not alive, until somebody ends it or the engine comes back.
    None: ``stay`` for remote servers, which come back by themselves, ``restart`` for all others. A start that takes
    longer than ``start_timeout_s`` has failed.
    """

    on_failure: Literal["restart", "exit", "stay"] | None = None
    max_restarts: int = Field(5, ge=1)
    window_s: float = Field(3600.0, gt=0)
    backoff_s: float = Field(1.0, ge=0)
    max_backoff_s: float = Field(60.0, ge=0)
    start_timeout_s: float = Field(1800.0, gt=0)


EngineSettings = Annotated[
    VllmSettings | RemoteSettings | TransformersSettings | FakeSettings, Field(discriminator="type")
]

"""What a run will need before it is started: memory on each GPU, hours, money. Arithmetic only, no torch.

Memory is mixed-precision Adam's 16 bytes a parameter (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054), cut as the kind
of sharding cuts it, and what a step adds: activations (`Architecture.layer_activation_bytes`), logits, gathered
weights, and an allowance for everything else. Time is floating-point operations over the part of the peak that training
reaches in practice. GB are 10^9 bytes; a card "of 80 GB" has 80 GiB, and these 7 % are left as a margin on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from training.architectures import Architecture

Sharding = Literal["none", "zero1", "zero2", "zero3", "fsdp2"]
Logits = Literal["labels", "chunked", "full"]

GB = 1e9
CHUNK_TOKENS = 1024
"""Tokens whose logits exist at a time when the head is applied in chunks."""
FIXED_BYTES = 2.0 * GB
"""CUDA context, cuBLAS workspace, NCCL's buffers. An allowance."""
FRAGMENTED = 0.05
"""Share of what comes and goes in a step that the allocator cannot reuse. An allowance."""
BANDWIDTH_REACHED = 0.5
"""Part of a card's memory bandwidth that writing texts reaches. An assumption."""
BUCKET_BYTES = 2.0 * GB
"""DeepSpeed's communication buckets at their defaults: two of 5e8 bfloat16 numbers."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card: dense bfloat16 peak in FLOP/s, memory in bytes, its bandwidth in bytes/s: the vendor's data sheet."""

    name: str
    peak_flops: float
    memory: float
    bandwidth: float


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("A800-80GB", 312e12, 80 * GB, 2039e9),
        Gpu("A100-80GB", 312e12, 80 * GB, 2039e9),
        Gpu("A100-40GB", 312e12, 40 * GB, 1555e9),
        Gpu("H800-80GB", 989e12, 80 * GB, 3350e9),
        Gpu("H100-80GB", 989e12, 80 * GB, 3350e9),
        Gpu("H200-141GB", 989e12, 141 * GB, 4800e9),
    )
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a stage that samples adds: an engine on the training GPUs, a frozen reference, and texts to write.

    ``share`` is the engine's part of a card's memory, ``tensor_parallel`` GPUs carry one copy; ``at_once`` are texts of
    a rollout over all GPUs, ``longest`` tokens of prompt and text at most, ``written`` tokens of a text on average.
    """

    share: float
    tensor_parallel: int
    at_once: int
    longest: int
    written: float


@dataclass(frozen=True, slots=True)
class Run:
    """One stage of one recipe on one kind of machine.

    ``rows`` are sequences on each GPU at a time, ``row_tokens`` the longest of them, ``mean_tokens`` what they are on
    average; ``samples`` are sequences an epoch over all GPUs. ``logits`` says what of the vocabulary a step computes:
    two labels at one position a row, or every column at every position, at once (``full``) or piece by piece.
    ``utilisation`` is the part of the peak that is reached, recomputation counted as work.
    """

    architecture: Architecture
    gpu: Gpu
    gpus: int
    sharding: Sharding
    rows: int
    row_tokens: int
    mean_tokens: float
    samples: int
    epochs: float
    checkpointing: bool
    logits: Logits
    utilisation: float = 0.4
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each GPU at the fullest moment of a step."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float
    allowance: float
    reference: float = 0.0
    engine: float = 0.0

    @property
    def states(self) -> float:
        """What stays from step to step: 16 bytes a parameter over all GPUs when everything is sharded."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """What is there at the fullest moment, by name. The engine sleeps while weights are updated, and what an update
        needs is gone while the engine writes: the larger of the two counts, the other is 0."""
        found = {part.name: float(getattr(self, part.name)) for part in fields(self)}
        moving = ("gathered", "activations", "logits")
        idle = moving if self.engine > sum(found[name] for name in moving) else ("engine",)
        return found | dict.fromkeys(idle, 0.0)


@dataclass(frozen=True, slots=True)
class Time:
    """``tokens_per_second`` is of all GPUs together; ``tokens`` are those of the whole run."""

    flop_per_token: float
    tokens: float
    tokens_per_second: float
    hours: float
    sampling_hours: float = 0.0
    """The part of ``hours`` in which texts are written."""


def memory(run: Run) -> Memory:
    """The fullest moment: the backward pass through the last layer, with the loss's tensors still there."""
    weights, gradients, optimizer = state_bytes(run.architecture.parameter_count, run.sharding, run.gpus)
    moving = gathered_bytes(run), activation_bytes(run), logit_bytes(run)
    allowance = FIXED_BYTES + FRAGMENTED * sum(moving)
    if run.sampling is None:
        return Memory(weights, gradients, optimizer, *moving, allowance)
    return Memory(weights, gradients, optimizer, *moving, allowance, weights, run.sampling.share * run.gpu.memory)


def state_bytes(parameters: int, sharding: Sharding, gpus: int) -> tuple[float, float, float]:
    """Weights, gradients and optimizer on one GPU. DeepSpeed keeps bfloat16 weights (2) and gradients (2), and float32
    weights and two moments as the optimizer's (12); FSDP2 keeps float32 weights (4), gradients (4) and moments (8)."""
    weights, gradients, optimizer = (4.0, 4.0, 8.0) if sharding == "fsdp2" else (2.0, 2.0, 12.0)
    everything = sharding in ("zero3", "fsdp2")
    return (
        parameters * weights / (gpus if everything else 1),
        parameters * gradients / (gpus if everything or sharding == "zero2" else 1),
        parameters * optimizer / (gpus if sharding != "none" else 1),
    )


def gathered_bytes(run: Run) -> float:
    """Weights that are whole for a moment, and gradients on their way: with all sharded, the part outside the layers
    and two layers (one at work, one fetched ahead) in bfloat16, and that part's and one layer's gradients."""
    if run.gpus == 1 or run.sharding == "none":
        return 0.0
    if run.sharding in ("zero1", "zero2"):
        return BUCKET_BYTES
    shape = run.architecture
    whole = 2.0 * (shape.outer_parameters + 2 * shape.layer_parameters)
    gradients = 2.0 * (shape.outer_parameters + shape.layer_parameters)
    return whole + gradients


def activation_bytes(run: Run) -> float:
    """What the backward pass finds: every layer's inside, or with recomputation every layer's input and one inside."""
    shape, tokens = run.architecture, run.rows * run.row_tokens
    last_norm = 8.0 * shape.hidden_size + 4
    if run.checkpointing:
        kept = shape.num_hidden_layers * shape.layer_input_bytes + shape.layer_activation_bytes
    else:
        kept = shape.num_hidden_layers * shape.layer_activation_bytes
    return tokens * (kept + last_norm)


def logit_bytes(run: Run) -> float:
    """Each computed logit is there in bfloat16 and float32, with its log-softmax and both gradients: 16 bytes."""
    at_once = {"labels": 0, "chunked": CHUNK_TOKENS, "full": math.inf}[run.logits]
    tokens = min(at_once, run.rows * run.row_tokens)
    if run.logits == "labels":
        return 16.0 * run.rows * 2
    return 16.0 * tokens * run.architecture.vocab_size


def time(run: Run) -> Time:
    """A backward pass is two forward passes; recomputing the layers is one more; a stage that samples adds its own."""
    forward = run.architecture.forward_flop(round(run.mean_tokens), with_head=run.logits != "labels")
    flop = forward * ((4 if run.checkpointing else 3) + (2 if run.sampling else 0))  # old and reference probabilities
    tokens = run.samples * run.epochs * run.mean_tokens
    speed = run.gpus * run.gpu.peak_flops * run.utilisation / flop
    writing = sampling_hours(run)
    return Time(flop, tokens, speed, tokens / speed / 3600 + writing, writing)


def writing_speed(run: Run, sampling: Sampling) -> float:
    """Tokens a second of all engines: each step reads the weights and the keys and values of all texts being written.

    As many texts run as the engine's memory holds of the longest kind; half of the bandwidth is taken to be reached.
    """
    shape, cards = run.architecture, sampling.tensor_parallel
    cached = shape.num_hidden_layers * 2 * shape.key_width * 2
    room = sampling.share * run.gpu.memory * cards - 2.0 * shape.parameter_count
    engines = run.gpus / cards
    texts = min(room / (cached * sampling.longest), sampling.at_once / engines)
    if texts < 1:
        return 0.0
    context = run.mean_tokens - sampling.written / 2
    step = (2.0 * shape.parameter_count + texts * cached * context) / (cards * run.gpu.bandwidth * BANDWIDTH_REACHED)
    return engines * texts / step


def sampling_hours(run: Run) -> float:
    """Hours in which texts are written; infinite where the engine has no room for one."""
    if run.sampling is None:
        return 0.0
    speed = writing_speed(run, run.sampling)
    tokens = run.samples * run.epochs * run.sampling.written
    return tokens / speed / 3600 if speed else math.inf


def most_rows(run: Run, limit: int = 256) -> int:
    """The largest ``rows`` that fit on the card; 0 when one row does not."""
    fitting = 0
    while fitting < limit and memory(replace(run, rows=fitting + 1)).total <= run.gpu.memory:
        fitting += 1
    return fitting


def disk_bytes(parameters: int) -> tuple[float, float]:
    """A finished checkpoint in bfloat16, and one state to go on from (float32 weights and both moments)."""
    return 2.0 * parameters, 12.0 * parameters

"""What a run will need before it is started: memory on each GPU, hours, money. Arithmetic only, no torch.

Memory is mixed-precision Adam's 16 bytes a parameter (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054), cut as the kind
of sharding cuts it, and what a step adds: activations (`Architecture.layer_activation_bytes`), logits, gathered
weights, and an allowance for everything else. Time is floating-point operations over the part of the peak that training
reaches in practice. GB are 10^9 bytes; a card "of 80 GB" has 80 GiB, and these 7 % are left as a margin on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
BUCKET_BYTES = 2.0 * GB
"""DeepSpeed's communication buckets at their defaults: two of 5e8 bfloat16 numbers."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card: dense bfloat16 peak in FLOP/s and memory in bytes, from the vendor's data sheet."""

    name: str
    peak_flops: float
    memory: float


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("A800-80GB", 312e12, 80 * GB),
        Gpu("A100-80GB", 312e12, 80 * GB),
        Gpu("A100-40GB", 312e12, 40 * GB),
        Gpu("H800-80GB", 989e12, 80 * GB),
        Gpu("H100-80GB", 989e12, 80 * GB),
        Gpu("H200-141GB", 989e12, 141 * GB),
    )
}


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

    @property
    def states(self) -> float:
        """What stays from step to step: 16 bytes a parameter over all GPUs when everything is sharded."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.states + self.gathered + self.activations + self.logits + self.allowance


@dataclass(frozen=True, slots=True)
class Time:
    """``tokens_per_second`` is of all GPUs together; ``tokens`` are those of the whole run."""

    flop_per_token: float
    tokens: float
    tokens_per_second: float
    hours: float


def memory(run: Run) -> Memory:
    """The fullest moment: the backward pass through the last layer, with the loss's tensors still there."""
    weights, gradients, optimizer = state_bytes(run.architecture.parameter_count, run.sharding, run.gpus)
    moving = gathered_bytes(run), activation_bytes(run), logit_bytes(run)
    allowance = FIXED_BYTES + FRAGMENTED * sum(moving)
    return Memory(weights, gradients, optimizer, *moving, allowance)


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
    """A backward pass is two forward passes; recomputing the layers is one more."""
    forward = run.architecture.forward_flop(round(run.mean_tokens), with_head=run.logits != "labels")
    flop = forward * (4 if run.checkpointing else 3)
    tokens = run.samples * run.epochs * run.mean_tokens
    speed = run.gpus * run.gpu.peak_flops * run.utilisation / flop
    return Time(flop, tokens, speed, tokens / speed / 3600)


def most_rows(run: Run, limit: int = 256) -> int:
    """The largest ``rows`` that fit on the card; 0 when one row does not."""
    fitting = 0
    while fitting < limit and memory(replace(run, rows=fitting + 1)).total <= run.gpu.memory:
        fitting += 1
    return fitting


def disk_bytes(parameters: int) -> tuple[float, float]:
    """A finished checkpoint in bfloat16, and one state to go on from (float32 weights and both moments)."""
    return 2.0 * parameters, 12.0 * parameters

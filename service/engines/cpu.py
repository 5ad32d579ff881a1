"""How to compute on this machine's processor: which cores, which number format. No library, so any room can ask."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# A machine with this many cores or fewer computes on all of them: vLLM would keep one free for its scheduler, which
# halved the rate on two cores (30 against 66 label reads a second).
FEW_CORES = 8
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """``threads_bind`` is a value of VLLM_CPU_OMP_THREADS_BIND; ``dtype`` what the model computes in."""

    threads_bind: str
    dtype: str


def choose_cpu_plan(cpus: Collection[int], flags: Collection[str], dtype: str = "auto", ranks: int = 1) -> CpuPlan:
    """What suits this processor. ``cpus`` are the usable core numbers, ``flags`` the processor's feature words.

    bfloat16 doubles the rate where the processor has instructions for it and is slower than float32 where not. Answers
    are bit-equal alone, batched and cached only in float32, so a caller's choice stands.
    """
    few = ranks == 1 and len(cpus) <= FEW_CORES
    bind = ",".join(str(cpu) for cpu in sorted(cpus)) if few else "auto"
    if dtype == "auto":
        dtype = "bfloat16" if BF16_FLAGS & set(flags) else "float32"
    return CpuPlan(bind, dtype)


def environment(plan: CpuPlan, eager: bool) -> dict[str, str]:
    """The variables vLLM is to find when its processes start."""
    variables = {
        "VLLM_CPU_OMP_THREADS_BIND": plan.threads_bind,
        # A lone short read would be summed in other pieces than one in a batch: float32 answers then differed by 5e-7.
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
    }
    if eager:
        # vLLM compiles one sampler function even in eager mode. Where there is no C++ compiler that kills the engine at
        # its first label read; where there is one it costs that read 14 s and gains nothing measurable.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def read_cpu() -> tuple[set[int], set[str]]:
    """This process's usable cores and the processor's feature words (x86 "flags", ARM "Features")."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    flags: set[str] = set()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags.update(value.split())
    return cpus, flags

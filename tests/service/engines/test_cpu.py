from __future__ import annotations

import pytest

from service.engines.cpu import CpuPlan, choose_cpu_plan, environment, read_cpu


@pytest.mark.parametrize(
    ("cpus", "flags", "plan"),
    [
        ({0, 1}, {"avx512_bf16"}, CpuPlan("0,1", "bfloat16")),
        ({0, 1}, {"amx_bf16", "amx_tile"}, CpuPlan("0,1", "bfloat16")),
        ({0, 1}, {"avx2", "avx512f"}, CpuPlan("0,1", "float32")),
        ({4, 2, 7}, set(), CpuPlan("2,4,7", "float32")),
        (set(range(8)), set(), CpuPlan("0,1,2,3,4,5,6,7", "float32")),
        (set(range(64)), {"amx_bf16"}, CpuPlan("auto", "bfloat16")),
    ],
)
def test_the_plan_follows_the_machine(cpus: set[int], flags: set[str], plan: CpuPlan) -> None:
    assert choose_cpu_plan(cpus, flags) == plan


def test_the_caller_chooses_the_number_format() -> None:
    """float32 is what makes answers bit-equal alone and batched, also on a processor that is faster in bfloat16."""
    assert choose_cpu_plan({0, 1}, {"amx_bf16"}, dtype="float32").dtype == "float32"


def test_several_ranks_are_bound_by_vllm() -> None:
    assert choose_cpu_plan({0, 1}, set(), ranks=2).threads_bind == "auto"


def test_reads_this_machine() -> None:
    cpus, flags = read_cpu()
    assert cpus
    assert all(" " not in flag for flag in flags)


def test_environment_keeps_answers_independent_of_company() -> None:
    """Split attention made a float32 answer depend on what else was in its batch."""
    plan = choose_cpu_plan({1, 0}, {"avx512_bf16"})
    assert environment(plan, eager=False) == {"VLLM_CPU_OMP_THREADS_BIND": "0,1", "VLLM_CPU_ATTN_SPLIT_KV": "0"}
    assert environment(plan, eager=True)["TORCHDYNAMO_DISABLE"] == "1"

"""The benchmarks by name, one file each; `base` says what a benchmark is."""

from __future__ import annotations

from training.evaluation.benchmarks import hhh, judgebench, pairs, rewardbench, rm_bench, rmb, unified_feedback
from training.evaluation.benchmarks.base import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        rewardbench.BENCHMARK,
        rm_bench.BENCHMARK,
        judgebench.GPT,
        judgebench.CLAUDE,
        rmb.BENCHMARK,
        hhh.BENCHMARK,
        unified_feedback.BENCHMARK,
        pairs.BENCHMARK,
    )
}

"""The generation benchmark: what its promises are made of, and the jobs every engine gets."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.generation import ENGINES, report
from benchmarks.generation_engine import VOTES, _jobs
from training.generation.engines import open_judge


def _measured(tokens_s: float, changed: int, value: float) -> dict[str, Any]:
    figures = {"rows_s": tokens_s / 50, "tokens_s": tokens_s, "cpu_ms_per_token": 1.5}
    return {
        "ready_s": 20.0,
        "texts": figures,
        "likelihoods": figures,
        "again": {"rows": 16, "changed": changed},
        "values": {"0": value},
    }


def test_promises_are_taken_over_all_engines() -> None:
    vllm, together, alone = ENGINES
    measured = {vllm: _measured(900, 2, -3.0), together: _measured(600, 0, -3.01), alone: _measured(200, 1, -3.005)}
    changed, difference, speed = report(measured).bars
    assert (changed.measured, changed.holds) == (3, False)
    assert difference.measured == pytest.approx(0.005) and not difference.holds
    assert (speed.measured, speed.holds) == (3.0, True)
    assert [row[0] for row in report(measured).rows] == [vllm, together, alone]


async def test_every_engine_gets_the_same_seeded_jobs() -> None:
    async with open_judge("", "gram_r2", "fake") as judge:
        jobs, scored = _jobs(judge, 8 * VOTES)
        again, _ = _jobs(judge, 8 * VOTES)
    assert jobs == again
    assert len({job.request.seed for job in jobs}) == len(jobs) == 8 * VOTES
    assert all(job.request.scored_from < len(job.request.prompt_ids) for job in scored)

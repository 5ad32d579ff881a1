"""What offline work needs of a real vLLM on the CPU: seeds that repeat, files that resume to the same bytes, and the
likelihoods of the reference engine. One engine for all of it, on the checkpoint that comes with the service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from service.engines.base import EngineRequest
from service.judgment import TextMemo, prepare
from service.settings import demo_model
from service.types import Comparison, Prompt, Response, Verdict
from training.data.demo_tasks import draw
from training.generation.bulk import Job, answer_all, read_answers
from training.generation.engines import open_judge
from training.generation.judging import LocalJudge, judge_all
from training.generation.outcomes import Answer
from training.generation.seeds import seed_of

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


def _pairs(count: int) -> list[Comparison]:
    source = random.Random(5)
    pairs = [draw("capitals", source, from_held_out=True) for _ in range(count)]
    return [Comparison(Prompt.from_text(p.prompt), Response(p.right), Response(p.wrong)) for p in pairs]


def _jobs(judge: LocalJudge, count: int) -> list[Job]:
    """Sampled texts about different pairs, several a pair so that prompts are cached; hot, so that texts differ."""
    prompts = [prepare(judge.inner, pair, TextMemo()).prompts[0] for pair in _pairs(count // 4)]
    sampling = {"max_tokens": 60, "temperature": 2.0, "top_p": 1.0}
    return [
        Job(f"{i}/{vote}", EngineRequest(ids, "generate", seed=seed_of(i, vote), **sampling))  # type: ignore[arg-type]
        for i, ids in enumerate(prompts)
        for vote in range(4)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judge() -> AsyncIterator[LocalJudge]:
    async with open_judge(demo_model(), "demo-r2", "vllm", kv_cache_bytes=128 * 2**20) as opened:
        yield opened


async def test_seeded_texts_repeat_alone_and_in_company(judge: LocalJudge) -> None:
    engine = judge.inner.engine
    requests = [job.request for job in _jobs(judge, 24)]
    alone = [(await engine.complete(request)).token_ids for request in requests[:6]]
    together = await asyncio.gather(*map(engine.complete, reversed(requests)))
    assert [done.token_ids for done in reversed(together)][:6] == alone
    assert len({done.token_ids for done in together}) > 12
    other = await engine.complete(replace(requests[0], seed=seed_of("another")))
    assert other.token_ids != alone[0]


async def test_an_interrupted_run_goes_on_to_the_same_bytes(judge: LocalJudge, tmp_path: Path) -> None:
    engine, tokenizer, jobs = judge.inner.engine, judge.inner.tokenizer, _jobs(judge, 48)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    await answer_all(engine, tokenizer, jobs, whole, title="whole")
    started = asyncio.create_task(answer_all(engine, tokenizer, jobs, broken, title="broken", at_once=5))
    while not broken.exists() or len(broken.read_bytes().splitlines()) < 12:
        await asyncio.sleep(0.01)
    started.cancel()
    await asyncio.gather(started, return_exceptions=True)
    throughput = await answer_all(engine, tokenizer, jobs, broken, title="resumed")
    assert 11 <= throughput.kept < 48
    assert broken.read_bytes() == whole.read_bytes()


async def test_likelihoods_are_those_of_the_reference(judge: LocalJudge, tmp_path: Path) -> None:
    """Of texts the judge wrote itself, beside label reads and sampling in the same engine."""
    written = tmp_path / "written.jsonl"
    jobs = _jobs(judge, 24)
    await answer_all(judge.inner.engine, judge.inner.tokenizer, jobs, written, title="written")
    texts = dict(read_answers(written))
    scored = []
    for job in jobs:
        answer = texts[job.key]
        assert isinstance(answer, Answer)
        ids = job.request.prompt_ids + judge.inner.tokenizer.encode_text(answer.text)
        scored.append(Job(job.key, EngineRequest(ids, "likelihood", scored_from=len(job.request.prompt_ids))))
    company = asyncio.gather(*(judge.inner.engine.complete(job.request) for job in jobs))
    await answer_all(judge.inner.engine, judge.inner.tokenizer, scored, tmp_path / "vllm.jsonl", title="vllm")
    await company
    async with open_judge(demo_model(), "demo-r2", "transformers") as reference:
        engine = reference.inner.engine
        await answer_all(engine, reference.inner.tokenizer, scored, tmp_path / "reference.jsonl", title="reference")
    here, there = dict(read_answers(tmp_path / "vllm.jsonl")), dict(read_answers(tmp_path / "reference.jsonl"))
    for job in scored:
        one, other = here[job.key], there[job.key]
        assert isinstance(one, Answer) and isinstance(other, Answer)
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-3)
        assert one.tokens == other.tokens > 0


async def test_judgments_repeat_too(judge: LocalJudge, tmp_path: Path) -> None:
    """Votes and the probabilities read behind them, judged in another order and company."""
    items = [(f"row-{i}", pair) for i, pair in enumerate(_pairs(6))]
    first = await judge_all(judge, items, 2, 1, tmp_path / "first.jsonl", at_once=6)
    await judge_all(judge, items[::-1], 2, 1, tmp_path / "second.jsonl", at_once=2)
    rows = [path.read_bytes().splitlines() for path in (tmp_path / "first.jsonl", tmp_path / "second.jsonl")]
    assert sorted(rows[0]) == sorted(rows[1])
    assert all(isinstance(verdict, Verdict) for verdict in first)

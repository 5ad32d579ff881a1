"""Judging in bulk: the service's judgments, seeded, in a file; and the same through a running service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.app import build_app
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, FakeOptions, Fault, decode_bytes
from service.errors import StartupError
from service.settings import load_settings
from service.types import Comparison, Prompt, Response, Verdict
from training.data.pairs import DataError
from training.generation.engines import open_judge
from training.generation.judging import LocalJudge, judge_all, read_verdicts
from training.generation.outcomes import Failure, GenerationError
from training.generation.served import ServedJudge

ITEMS = [
    (f"row-{i}", Comparison(Prompt.from_text(f"Question {i}?"), Response(f"first {i}"), Response(f"second {i % 7}")))
    for i in range(12)
]


@asynccontextmanager
async def _judge(**options: object) -> AsyncIterator[tuple[LocalJudge, FakeEngine]]:
    async with open_judge("", "gram_r2", "fake", keep_requests=True, **options) as judge:
        assert isinstance(judge.inner.engine, FakeEngine)
        judge.inner.engine.requests.clear()
        yield judge, judge.inner.engine


async def test_every_row_has_its_verdict_and_its_votes(tmp_path: Path) -> None:
    async with _judge() as (judge, engine):
        verdicts = await judge_all(judge, ITEMS, 3, 1, tmp_path / "votes.jsonl")
    assert len(verdicts) == len(ITEMS)
    for verdict in verdicts:
        assert isinstance(verdict, Verdict)
        assert verdict.votes is not None and verdict.votes.a + verdict.votes.b + verdict.votes.invalid == 6
        assert [(r.order, r.vote) for r in verdict.rationales] == [(o, v) for o in ("ab", "ba") for v in range(3)]
    written = [request for request in engine.requests if request.task == "generate"]
    assert len({request.seed for request in written}) == len(written) == 6 * len(ITEMS)
    assert all(request.seed is None for request in engine.requests if request.task != "generate")
    assert list(read_verdicts(tmp_path / "votes.jsonl")) == list(zip((key for key, _ in ITEMS), verdicts, strict=True))


async def test_one_vote_is_greedy_and_unseeded(tmp_path: Path) -> None:
    async with _judge() as (judge, engine):
        await judge_all(judge, ITEMS[:2], 1, 1, tmp_path / "votes.jsonl")
    assert {(request.temperature, request.seed) for request in engine.requests} == {(0.0, None)}


async def test_votes_depend_on_row_and_round_only(tmp_path: Path) -> None:
    """Not on what else is judged, nor on which response is named first; another round draws others."""
    async with _judge() as (judge, _):
        all_rows = await judge_all(judge, ITEMS, 4, 1, tmp_path / "all.jsonl")
        alone = await judge_all(judge, ITEMS[5:6], 4, 1, tmp_path / "alone.jsonl")
        swapped = [(key, shown.swap()) for key, shown in ITEMS]
        mirrored = await judge_all(judge, swapped, 4, 1, tmp_path / "swapped.jsonl")
        later = await judge_all(judge, ITEMS, 4, 2, tmp_path / "later.jsonl")
    assert alone == all_rows[5:6]
    for one, other in zip(all_rows, mirrored, strict=True):
        assert isinstance(one, Verdict) and isinstance(other, Verdict)
        assert other.p_first == 1.0 - one.p_first
        assert {r.text for r in one.rationales} == {r.text for r in other.rationales}
    assert later != all_rows


async def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    async with _judge() as (judge, _):
        await judge_all(judge, ITEMS, 2, 1, whole)
    asked = 0

    def fault(request: EngineRequest) -> Fault | None:
        nonlocal asked
        asked += 1
        return "die" if asked == 40 else None

    async with _judge(fault=fault) as (judge, _):
        with pytest.raises(GenerationError, match="start again"):
            await judge_all(judge, ITEMS, 2, 1, broken, at_once=3)
    assert 1 < len(broken.read_bytes().splitlines()) < 1 + len(ITEMS)
    async with _judge() as (judge, engine):
        await judge_all(judge, ITEMS, 2, 1, broken)
        assert len(engine.requests) < 8 * len(ITEMS)
    assert broken.read_bytes() == whole.read_bytes()


async def test_a_pair_without_a_verdict_is_a_failure_that_stays(tmp_path: Path) -> None:
    """Drawing until it parses would count a judge by its lucky tries."""

    def script(request: EngineRequest) -> str:
        return "I cannot say." if "Question 3?" in decode_bytes(request.prompt_ids) else "<answer>\nA\n</answer>"

    async with _judge(script=script) as (judge, engine):
        verdicts = await judge_all(judge, ITEMS, 2, 1, tmp_path / "votes.jsonl")
        failure = verdicts[3]
        assert isinstance(failure, Failure) and failure.code == "invalid_verdict"
        assert [rationale.text for rationale in failure.rationales] == ["I cannot say."] * 4
        assert sum(isinstance(verdict, Verdict) for verdict in verdicts) == len(ITEMS) - 1
        engine.requests.clear()
        assert await judge_all(judge, ITEMS, 2, 1, tmp_path / "votes.jsonl") == verdicts
        assert engine.requests == []


async def test_a_file_of_another_judge_or_other_rows_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "votes.jsonl"
    async with _judge() as (judge, _):
        await judge_all(judge, ITEMS, 2, 1, output)
        for votes, round in ((3, 1), (2, 2)):
            with pytest.raises(DataError, match="something else"):
                await judge_all(judge, ITEMS, votes, round, output)
        with pytest.raises(DataError, match="twice"):
            await judge_all(judge, [*ITEMS, ITEMS[0]], 2, 1, output)
    async with _judge(weight_version="fake-2") as (judge, _):
        with pytest.raises(DataError, match="was made by"):
            await judge_all(judge, ITEMS, 2, 1, output)


async def test_voting_may_stop_when_it_is_decided(tmp_path: Path) -> None:
    async with _judge(script=lambda request: "<answer>\nA\n</answer>") as (judge, engine):
        (verdict,) = await judge_all(judge, ITEMS[:1], 8, 1, tmp_path / "votes.jsonl", stop_when_decided=True)
    assert isinstance(verdict, Verdict) and verdict.votes is not None
    assert verdict.votes.skipped + sum(request.task == "generate" for request in engine.requests) == 16


async def test_an_unknown_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="has no judge nobody"):
        async with open_judge("", "nobody", "fake"):
            pass


async def test_a_running_service_judges_in_bulk(tmp_path: Path) -> None:
    """Through HTTP the verdicts are those of this process; sampled votes are the service's own, unseeded."""
    settings = load_settings(None, {"engine": {"type": "fake"}})
    engine = FakeEngine(FakeOptions(keep_requests=True))
    app = build_app(settings, engine=engine)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            served = await ServedJudge.connect(client, "gram_r2")
            there = await judge_all(served, ITEMS, 1, 1, tmp_path / "served.jsonl")
            with pytest.raises(GenerationError, match="no judge gram "):
                await ServedJudge.connect(client, "gram")
            await judge_all(served, ITEMS[:2], 2, 1, tmp_path / "sampled.jsonl")
    assert {request.seed for request in engine.requests} == {None}
    async with _judge() as (judge, _):
        here = await judge_all(judge, ITEMS, 1, 1, tmp_path / "here.jsonl")
    assert [_comparable(verdict) for verdict in there] == [_comparable(verdict) for verdict in here]


def _comparable(verdict: Verdict | Failure) -> Verdict:
    assert isinstance(verdict, Verdict)
    return replace(verdict, usage=replace(verdict.usage, comparisons=1))

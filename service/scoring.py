"""The pipeline: comparisons in, verdicts, rankings and scores out. Knows judges and engines, nothing of HTTP.

What takes milliseconds of this process - tokenization (`service.dispatch`), the fits of rankings - runs in worker
threads, so that the event loop keeps turning.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from service.dispatch import Chunk, chunks_of, launch, ready
from service.errors import InvalidInput, InvalidVerdict, ServiceError, UnknownJudge
from service.judge import Judge
from service.judging.base import read_scalar
from service.judgment import Ask, conversation_key, flags_of, prepare_one, scalar_request
from service.ranking.board import Goal, Pair, Plan, RankTask
from service.ranking.plans import AUTO_ALL_PAIRS_MAX, PLANS, Method
from service.score_health import Sample, pair_samples, single_sample
from service.spans import NO_TRACING, Tracing
from service.streaming import RationaleText, stream_judgment
from service.types import (
    Comparison,
    Completion,
    Flag,
    OnBudget,
    Prompt,
    RankedResponse,
    Ranking,
    Rationale,
    Response,
    Usage,
    Verdict,
)

T = TypeVar("T")

QUICK_CHARS = 20_000
"""So much text is inspected in a few milliseconds, which the event loop can spare."""


@dataclass(slots=True)
class Trace:
    """Where a request's time went, in seconds, for Server-Timing and the histograms; a sample of each of its judgments,
    for the health of its judge; and the rationales that were written for it."""

    queue_s: float = 0.0
    tokenize_s: float = 0.0
    engine_s: float = 0.0
    aggregate_s: float = 0.0
    tracing: Tracing = NO_TRACING
    judged: list[Sample] = field(default_factory=list)
    written: list[Rationale] = field(default_factory=list)
    votes_skipped: int = 0

    @contextmanager
    def aggregating(self) -> Iterator[None]:
        """Around what is made of many verdicts together."""
        started = time.perf_counter()
        with self.tracing.stage("aggregate"):
            yield
        self.aggregate_s += time.perf_counter() - started

    def saw(self, comparisons: Sequence[Comparison], outcomes: Sequence[Verdict | ServiceError]) -> None:
        """Note what the judge did with these pairs, and what it wrote, verdict or not."""
        self.judged += pair_samples(comparisons, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Verdict | InvalidVerdict):
                self.written += outcome.rationales
            if isinstance(outcome, Verdict) and outcome.votes is not None:
                self.votes_skipped += outcome.votes.skipped


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How to rank; the fields mean what `RankTask` says."""

    method: Method = "auto"
    goal: Goal = "order"
    top_k: int | None = None
    confidence: float = 0.95
    max_comparisons: int | None = None
    strengths: bool = True

    def task(self, n: int) -> RankTask:
        """Raises `InvalidInput` for options that do not fit ``n`` responses."""
        return RankTask(n, self.goal, self.top_k, self.confidence, self.max_comparisons, strengths=self.strengths)


@dataclass(frozen=True, slots=True)
class Score:
    """One response's score in [0, 1] (pairwise judges) or the raw reward (scalar judges, margin None)."""

    score: float
    margin: float | None
    consistent: bool | None
    flags: tuple[Flag, ...]
    usage: Usage


class Scorer:
    """All judges of this service. Batch methods isolate failures: a failed item is its error, never a number."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges: Mapping[str, Judge] = {judge.name: judge for judge in judges}

    def exchange(self, judges: Sequence[Judge]) -> None:
        """Other judges from now on; what runs goes on with the one it has."""
        self.judges = {judge.name: judge for judge in judges}

    def judge(self, name: str | None, *, writes_rationale: bool = False, pairwise: bool = False) -> Judge:
        """The judge a route asked for, or the first configured one it can use.

        Raises `UnknownJudge` for a name that is not configured, `InvalidInput` for a judge that cannot do it.
        """
        if name is not None and name not in self.judges:
            raise UnknownJudge("No judge has this name; GET /models lists the configured ones.")
        candidates = [self.judges[name]] if name is not None else list(self.judges.values())
        usable = [
            judge
            for judge in candidates
            if (judge.writes_rationale or not writes_rationale) and not (pairwise and judge.is_scalar)
        ]
        if not usable:
            need = "writes rationales" if writes_rationale else "compares pairs"
            raise InvalidInput(f"This needs a judge that {need}; GET /models says what each judge can do.")
        return usable[0]

    async def compare(
        self,
        judge: Judge,
        comparisons: Sequence[Comparison],
        *,
        votes: int = 1,
        stop_when_decided: bool = False,
        max_rationale_tokens: int | None = None,
        on_budget: OnBudget | None = None,
        salt: str | None = None,
        trace: Trace,
    ) -> list[Verdict | ServiceError]:
        """Judge each pair in both orders; results in input order. Cancelling aborts everything still in the engine."""
        ask = Ask(votes, stop_when_decided, salt, max_rationale_tokens, on_budget)
        running: list[asyncio.Task[Verdict]] = []
        places: list[int] = []
        asked: list[asyncio.Task[Completion]] = []
        started = time.perf_counter()
        mine = Trace(tracing=trace.tracing)  # other groups of the request write to `trace` meanwhile
        try:
            with ExitStack() as stages:
                for chunk in chunks_of(comparisons):
                    prepared = await self._prepare(judge, [comparisons[i] for i in chunk], ask, mine)
                    if not running:  # later chunks are tokenized while the engine works
                        stages.enter_context(trace.tracing.stage("engine", comparisons=len(comparisons)))
                    running += await launch(judge, prepared, asked)
                    places += chunk
                found = dict(zip(places, await asyncio.gather(*running, return_exceptions=True), strict=True))
            with trace.aggregating():
                outcomes = [_isolated(found[i]) for i in range(len(comparisons))]
                trace.saw(comparisons, outcomes)
            return outcomes
        finally:
            for task in (*running, *asked):
                task.cancel()
            trace.tokenize_s += mine.tokenize_s
            trace.engine_s += time.perf_counter() - started - mine.tokenize_s

    async def rank(
        self,
        judge: Judge,
        prompt: Prompt,
        responses: Sequence[Response],
        options: RankOptions,
        *,
        salt: str | None = None,
        trace: Trace,
    ) -> tuple[Ranking, Usage]:
        """Rank the responses of one prompt. Raises the first failed comparison: half a ranking is none."""
        ranking, judged = await self._run_plan(judge, prompt, responses, options, salt, trace)
        return ranking, _total(judged.values())

    async def inspect(self, judge: Judge, prompt: Prompt, responses: Sequence[Response]) -> list[tuple[Flag, ...]]:
        """Findings on each response, with those on the prompt; long texts are a worker thread's."""
        chars = sum(len(response.text) for response in responses) + sum(len(m.content) for m in prompt.messages)
        if chars <= QUICK_CHARS:
            return flags_of(judge, prompt, responses)
        return await asyncio.to_thread(flags_of, judge, prompt, responses)

    async def score_references(
        self,
        judge: Judge,
        items: Sequence[tuple[Prompt, Response, Response]],
        *,
        salt: str | None = None,
        trace: Trace,
    ) -> list[Score | ServiceError]:
        """Score each (prompt, response, reference) as P(response better than reference)."""
        comparisons = [Comparison(prompt, response, reference) for prompt, response, reference in items]
        outcomes = await self.compare(judge, comparisons, salt=salt, trace=trace)
        return [outcome if isinstance(outcome, ServiceError) else _referenced(outcome) for outcome in outcomes]

    async def score_singles(
        self, judge: Judge, items: Sequence[tuple[Prompt, Response]], *, salt: str | None = None, trace: Trace
    ) -> list[Score | ServiceError]:
        """Raw rewards of a scalar judge."""
        if not judge.is_scalar:
            raise InvalidInput(f"Judge {judge.name} compares two responses; send a reference or a group for each item.")
        started = time.perf_counter()
        with trace.tracing.stage("engine", responses=len(items)):
            jobs = [self._score_one(judge, *item, salt) for item in items]
            scores = await asyncio.gather(*jobs, return_exceptions=True)
        trace.engine_s += time.perf_counter() - started
        trace.judged += [
            single_sample(response.text, score.score)
            for (_, response), score in zip(items, scores, strict=True)
            if isinstance(score, Score)
        ]
        return [_isolated(score) for score in scores]

    async def score_groups(
        self,
        judge: Judge,
        groups: Sequence[tuple[Prompt, tuple[Response, ...]]],
        method: Literal["all_pairs", "pivot", "swiss"] | None = None,
        *,
        salt: str | None = None,
        trace: Trace,
    ) -> list[tuple[Score, ...] | ServiceError]:
        """Score each response by its mean win probability over its group; a failed comparison fails the group."""
        options = RankOptions(method or "all_pairs", strengths=False)
        jobs = [self._score_group(judge, prompt, responses, options, salt, trace) for prompt, responses in groups]
        return [_isolated(outcome) for outcome in await asyncio.gather(*jobs, return_exceptions=True)]

    async def stream_rationales(
        self, judge: Judge, comparison: Comparison, ask: Ask, *, trace: Trace
    ) -> AsyncGenerator[RationaleText | Verdict, None]:
        """Both orders' rationales as they are written, then the verdict. Raises as `compare` reports."""
        async with aclosing(stream_judgment(judge, comparison, ask)) as pieces:
            try:
                async for piece in pieces:
                    if isinstance(piece, Verdict):
                        trace.saw([comparison], [piece])
                    yield piece
            except InvalidVerdict as error:
                trace.saw([comparison], [error])
                raise

    async def _prepare(self, judge: Judge, comparisons: Sequence[Comparison], ask: Ask, trace: Trace) -> Chunk:
        started = time.perf_counter()
        with trace.tracing.stage("tokenize", comparisons=len(comparisons)):
            prepared = await asyncio.to_thread(ready, judge, comparisons, ask)
        trace.tokenize_s += time.perf_counter() - started
        return prepared

    async def _run_plan(
        self,
        judge: Judge,
        prompt: Prompt,
        responses: Sequence[Response],
        options: RankOptions,
        salt: str | None,
        trace: Trace,
    ) -> tuple[Ranking, dict[Pair, Verdict]]:
        """Drive a ranking plan to its end, judging each batch of pairs it asks for."""
        plan = PLANS[options.method](options.task(len(responses)))
        judged: dict[Pair, Verdict] = {}
        with trace.aggregating():
            step = await _advance(plan, None, len(responses))
        while not isinstance(step, Ranking):
            comparisons = [Comparison(prompt, responses[i], responses[j]) for i, j in step]
            verdicts = _all_or_raise(await self.compare(judge, comparisons, salt=salt, trace=trace))
            judged.update(zip(step, verdicts, strict=True))
            with trace.aggregating():
                step = await _advance(plan, [verdict.p_first for verdict in verdicts], len(responses))
        share = sum(v.consistent for v in judged.values()) / len(judged) if judged else None
        return replace(step, consistency=share), judged

    async def _score_one(self, judge: Judge, prompt: Prompt, response: Response, salt: str | None) -> Score:
        ids, flags = await asyncio.to_thread(prepare_one, judge, prompt, response)
        completion = await judge.engine.complete(scalar_request(judge, ids, salt, conversation_key(prompt)))
        return Score(read_scalar(completion.score), None, None, flags, completion.usage)

    async def _score_group(
        self,
        judge: Judge,
        prompt: Prompt,
        responses: tuple[Response, ...],
        options: RankOptions,
        salt: str | None,
        trace: Trace,
    ) -> tuple[Score, ...]:
        ranking, judged = await self._run_plan(judge, prompt, responses, options, salt, trace)
        flags = await self.inspect(judge, prompt, responses)
        scores = [_group_score(result, flags[result.index], judged) for result in ranking.results]
        return (replace(scores[0], usage=_total(judged.values())), *scores[1:])  # usage once, on the first row


async def _advance(plan: Plan, told: list[float] | None, responses: int) -> list[Pair] | Ranking:
    """The plan's next batch, or its ranking. Fits over many responses take tens of milliseconds: those are a worker
    thread's, so that the event loop keeps turning."""

    def step() -> list[Pair] | Ranking:
        try:
            return next(plan) if told is None else plan.send(told)
        except StopIteration as done:
            ranking: Ranking = done.value
            return ranking

    return step() if responses <= AUTO_ALL_PAIRS_MAX else await asyncio.to_thread(step)


def _isolated(outcome: T | BaseException) -> T | ServiceError:
    """A result or an expected failure; anything else is a bug and is raised."""
    if isinstance(outcome, BaseException) and not isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _all_or_raise(outcomes: Sequence[Verdict | ServiceError]) -> list[Verdict]:
    verdicts = []
    for outcome in outcomes:
        if isinstance(outcome, ServiceError):
            raise outcome
        verdicts.append(outcome)
    return verdicts


def _referenced(verdict: Verdict) -> Score:
    """Score of the pair's first response; flags of its text are the response's, the reference's are left out."""
    flags = tuple(replace(f, where="response") if f.where == "a" else f for f in verdict.flags if f.where != "b")
    return Score(verdict.p_first, verdict.margin, verdict.consistent, flags, verdict.usage)


def _group_score(result: RankedResponse, flags: tuple[Flag, ...], judged: Mapping[Pair, Verdict]) -> Score:
    """A response's place in its group: its win rate, its mean log-odds, and whether all its comparisons agree with
    themselves in both orders."""
    mine = [(v.margin, v) for (i, _), v in judged.items() if i == result.index]
    mine += [(-v.margin, v) for (_, j), v in judged.items() if j == result.index]
    margin = math.fsum(m for m, _ in mine) / len(mine)
    return Score(result.score, margin, all(v.consistent for _, v in mine), flags, Usage())


def _total(verdicts: Iterable[Verdict]) -> Usage:
    return Usage.total(verdict.usage for verdict in verdicts)

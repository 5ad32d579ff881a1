"""Judging in bulk: pairs in, verdicts with all their written votes out, in a file that survives interruptions.

    async with open_judge(checkpoint, "demo-r2", "vllm") as judge:
        verdicts = await judge_all(judge, [(pair.id, pair.comparison) for pair in pairs], 8, 1, Path("votes.jsonl"))

A judgment is the service's own (`service.judgment`): its prompts, both display orders, its readings. What is added are
seeds: each vote has one that depends on row, round, order and vote, and on nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from service.engines.base import EngineRequest
from service.judge import Judge
from service.judgment import Ask, Prepared, TextMemo, judgment, prepare
from service.types import Comparison, Completion, Verdict
from training.generation.bulk import Run, made_by
from training.generation.ledger import Ledger, Row, digest_of, failure_of, read_rows, unique
from training.generation.outcomes import Failure
from training.generation.seeds import seed_of
from training.generation.verdicts import row_of, verdict_of

AT_ONCE = 32
"""Pairs judged at a time; each is twice its votes in the engine."""


class RowJudge(Protocol):
    """Whoever judges rows in bulk: `LocalJudge`, or `training.generation.served.ServedJudge` over HTTP."""

    @property
    def made_by(self) -> Mapping[str, Any]:
        """What its verdicts depend on, for the first line of their file."""
        ...

    async def judge(self, key: str, comparison: Comparison, ask: Ask, round: int) -> Verdict | Failure:
        """Raises `ServiceError` for a pair that cannot be judged, `GenerationError` when none can be any more."""
        ...


async def judge_all(
    judge: RowJudge,
    items: Sequence[tuple[str, Comparison]],
    votes: int,
    round: int,
    output: Path,
    *,
    title: str = "judging",
    stop_when_decided: bool = False,
    max_rationale_tokens: int | None = None,
    at_once: int = AT_ONCE,
) -> list[Verdict | Failure]:
    """The verdict of every (key, comparison), in order; what ``output`` holds is not judged again.

    One vote is greedy, more are sampled, ``votes`` of each display order. Another ``round`` draws others. Raises
    `DataError` for a file of another judge or other rows and two rows of one key, `GenerationError` when nothing can be
    judged any more, or nothing could be.
    """
    unique(key for key, _ in items)
    comparisons = dict(items)
    ask = Ask(votes, stop_when_decided, max_rationale_tokens=max_rationale_tokens)
    how = (round, votes, stop_when_decided, max_rationale_tokens)
    asked = {key: digest_of(*how, _texts(shown)) for key, shown in items}
    run = Run(title)

    async def answer(key: str) -> Row | Failure:
        verdict = await judge.judge(key, comparisons[key], ask, round)
        if isinstance(verdict, Failure):
            return verdict
        run.count(verdict.usage)
        return row_of(verdict)

    with Ledger(output, judge.made_by, asked) as ledger:
        await run.all(ledger, list(asked), answer, at_once)
    return [verdict for _, verdict in read_verdicts(output)]


def read_verdicts(path: Path) -> Iterator[tuple[str, Verdict | Failure]]:
    """Key and verdict of every row of a finished file, one at a time. Raises `DataError`."""
    for row in read_rows(path):
        yield row["key"], failure_of(row) if "error" in row else verdict_of(row)


class LocalJudge:
    """A judge on an engine of this process that takes seeds."""

    def __init__(self, judge: Judge) -> None:
        self.inner = judge

    @property
    def made_by(self) -> Mapping[str, Any]:
        judge = self.inner
        limits = {"prompt_tokens": judge.max_prompt_tokens, "rationale_tokens": judge.max_rationale_tokens}
        ends = {"on_budget": judge.on_budget, "repetition": judge.repetition and asdict(judge.repetition)}
        names = {"judge": judge.name, "template": judge.version.template_hash, "adapter": judge.adapter}
        return made_by(judge.engine, **names, **limits, **ends)

    async def judge(self, key: str, comparison: Comparison, ask: Ask, round: int) -> Verdict | Failure:
        prepared = prepare(self.inner, comparison, TextMemo())
        steps = judgment(self.inner, prepared, ask)
        seeded = _Seeds(key, round, prepared)
        try:
            asks = next(steps)
            while True:
                asks = steps.send(await self._complete([seeded.put_into(request) for request in asks]))
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict

    async def _complete(self, requests: Sequence[EngineRequest]) -> list[Completion]:
        """All of them; the first error, or a cancellation, cancels the rest."""
        tasks = [asyncio.ensure_future(self.inner.engine.complete(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


class _Seeds:
    """Numbers the sampled votes of one row, each display order by itself."""

    def __init__(self, key: str, round: int, prepared: Prepared) -> None:
        self._start = (key, round)
        self._first = prepared.prompts[0]
        self._votes: Counter[str] = Counter()

    def put_into(self, request: EngineRequest) -> EngineRequest:
        if request.task != "generate" or not request.temperature:
            return request
        order = "ab" if request.prompt_ids == self._first else "ba"
        self._votes[order] += 1
        return replace(request, seed=seed_of(*self._start, order, self._votes[order] - 1))


def _texts(shown: Comparison) -> tuple[object, ...]:
    turns = tuple((message.role, message.content) for message in shown.prompt.messages)
    return turns, shown.first.text, shown.second.text

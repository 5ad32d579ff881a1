"""A batch of judgments on its way to the engine: cut into chunks, tokenized and put in order by a worker thread, then
launched on the event loop, which only starts tasks and waits.

A chunk is tokenized while the engine works on the one before. A group - all pairs of one conversation - is never split
between chunks. Inside a chunk the engine gets prompts in lexicographic order of their tokens: that is group-major, then
first-response-major, the order in which every shared prefix is computed once, even by a prefix cache that cannot hold a
whole group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.engines.base import EngineRequest
from service.errors import ServiceError
from service.judge import Judge
from service.judgment import Ask, Prepared, TextMemo, judgment, prepare
from service.types import Comparison, Completion, Prompt, Verdict

CHUNK = 64
"""Comparisons tokenized at a time: large enough to amortise the thread hop, small enough to start the engine early."""

SLICE = 32
"""Prompts handed to the engine before anything else on the event loop gets its turn."""


def chunks_of(comparisons: Sequence[Comparison]) -> list[list[int]]:
    """Indices of the comparisons in chunks of at least `CHUNK`: groups in order of appearance, none split.

    Pairs of one conversation need not stand together: a trainer's batch may be shuffled.
    """
    groups: dict[Prompt, list[int]] = {}
    for index, comparison in enumerate(comparisons):
        groups.setdefault(comparison.prompt, []).append(index)
    chunks: list[list[int]] = [[]]
    for group in groups.values():
        if len(chunks[-1]) >= CHUNK:
            chunks.append([])
        chunks[-1] += group
    return [chunk for chunk in chunks if chunk]


class Started:
    """A judgment whose first requests are known but not yet asked."""

    def __init__(self, judge: Judge, item: Prepared | ServiceError, ask: Ask) -> None:
        self.engine = judge.engine
        self.asks: list[EngineRequest] = []
        self.verdict: Verdict | None = None
        self.error = item if isinstance(item, ServiceError) else None
        if not isinstance(item, ServiceError):
            self.steps = judgment(judge, item, ask)
            try:
                self.asks = next(self.steps)
            except StopIteration as done:  # identical responses: nothing to ask
                self.verdict = done.value

    async def finish(self, first: Sequence[asyncio.Task[Completion]]) -> Verdict:
        """Await the first completions and drive the judgment to its verdict; a failure aborts what is still asked."""
        if self.error is not None:
            raise self.error
        if self.verdict is not None:
            return self.verdict
        try:
            asks = self.steps.send(await _all(first))
            while True:
                tasks = [asyncio.ensure_future(self.engine.complete(request)) for request in asks]
                asks = self.steps.send(await _all(tasks))
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict


@dataclass(frozen=True, slots=True)
class Chunk:
    """Judgments ready to be launched; ``order``: (judgment, request) of each first request, in the engine's order."""

    judgments: list[Started]
    order: list[tuple[int, int]]


def ready(judge: Judge, comparisons: Sequence[Comparison], ask: Ask) -> Chunk:
    """Render, tokenize and sort: for a worker thread. What cannot be judged is there as its error.

    Texts repeated within the chunk (a group's) are inspected and tokenized once.
    """
    memo = TextMemo()
    judgments: list[Started] = []
    for comparison in comparisons:
        try:
            judgments.append(Started(judge, prepare(judge, comparison, memo), ask))
        except ServiceError as error:
            judgments.append(Started(judge, error, ask))
    order = sorted(
        ((i, j) for i, one in enumerate(judgments) for j in range(len(one.asks))),
        key=lambda place: judgments[place[0]].asks[place[1]].prompt_ids,
    )
    return Chunk(judgments, order)


async def launch(judge: Judge, chunk: Chunk, asked: list[asyncio.Task[Completion]]) -> list[asyncio.Task[Verdict]]:
    """Start judging a chunk: first requests reach the engine in their order, then each judgment goes on alone.

    The first requests are noted in ``asked``: a judgment cancelled before it ran could not cancel them itself. Handing
    a group's thousands of prompts to an engine takes most of a second, so the loop gets its turn in between.
    """
    loop = asyncio.get_running_loop()
    judgments = chunk.judgments
    first: dict[tuple[int, int], asyncio.Task[Completion]] = {}
    for i, j in chunk.order:
        first[i, j] = loop.create_task(judge.engine.complete(judgments[i].asks[j]))
        asked.append(first[i, j])
        if len(first) % SLICE == 0:
            await asyncio.sleep(0)
    return [
        loop.create_task(one.finish([first[i, j] for j in range(len(one.asks))])) for i, one in enumerate(judgments)
    ]


async def _all(tasks: Sequence[asyncio.Future[Completion]]) -> list[Completion]:
    """Every completion in order; the first error, or a cancellation, cancels the rest."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

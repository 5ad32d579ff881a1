"""Comparisons between responses to one prompt, asked once however many plans want them, and the plans run on them.

A plan is the service's own (`service.ranking.plans`), so what is measured here is what ``/rank`` does. Plans of all
prompts move in step: what they ask in one round goes to the judge together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from service.ranking.board import RankTask
from service.ranking.plans import PLANS, Method
from service.types import Prompt, Ranking, Verdict
from training.data.pairs import Pair
from training.evaluation.answers import as_answer, read_answers
from training.evaluation.items import Failure, Item
from training.evaluation.judges.base import Judge


@dataclass(frozen=True, slots=True)
class Duel:
    """Two responses to a prompt; `swapped` holds them in the one order they are asked and kept in."""

    prompt: Prompt
    first: str
    second: str

    @property
    def item(self) -> Item:
        first, second = sorted((self.first, self.second))
        return Item(Pair("duel", self.prompt, first, second))

    @property
    def turned(self) -> bool:
        return self.first > self.second


class Duels:
    """P(first better than second) from a judge, kept in a file of answers and asked once."""

    def __init__(self, judge: Judge, path: Path, *, batch: int = 64, concurrency: int = 4, title: str = "") -> None:
        self._judge, self._path, self._batch = judge, path, batch
        self._gate = asyncio.Semaphore(concurrency)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, float | None] = {
            shown: _p(outcome) for shown, outcome in read_answers(path, judge.version).items()
        }
        self._title = title
        self.asked = 0

    async def ask(self, duels: Iterable[Duel]) -> list[float | None]:
        """In input order; None where the judge failed. Identical responses are 0.5 without asking."""
        wanted = list(duels)
        items = [duel.item for duel in wanted]
        names = [item.fingerprint for item in items]
        missing = {
            name: item
            for name, item, duel in zip(names, items, wanted, strict=True)
            if name not in self._known and duel.first != duel.second
        }
        if missing:
            await self._judge_all(list(missing.items()))
        return [self._answer(duel, name) for duel, name in zip(wanted, names, strict=True)]

    def _answer(self, duel: Duel, name: str) -> float | None:
        if duel.first == duel.second:
            return 0.5
        p = self._known[name]
        return p if p is None or not duel.turned else 1.0 - p

    async def _judge_all(self, missing: Sequence[tuple[str, Item]]) -> None:
        self.asked += len(missing)
        parts = [missing[start : start + self._batch] for start in range(0, len(missing), self._batch)]
        shown = None if len(missing) >= self._batch else True
        with (
            self._path.open("a", encoding="utf-8", newline="\n") as out,
            tqdm(total=len(missing), desc=self._title, unit="pair", disable=shown, leave=False) as bar,
        ):
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._work(part, out, bar))

    async def _work(self, part: Sequence[tuple[str, Item]], out: Any, bar: Any) -> None:
        import json

        async with self._gate:
            outcomes = await self._judge.judge([item.pair for _, item in part])
        for (name, item), outcome in zip(part, outcomes, strict=True):
            self._known[name] = _p(outcome)
            out.write(json.dumps(as_answer(item, outcome, self._judge.version), ensure_ascii=False) + "\n")
        out.flush()
        bar.update(len(part))


def _p(outcome: Verdict | Failure) -> float | None:
    return outcome.p_first if isinstance(outcome, Verdict) else None


@dataclass(frozen=True, slots=True)
class Contest:
    """Responses to one prompt, in the order a plan meets them."""

    prompt: Prompt
    responses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """Which response a plan chose, and for how many comparisons."""

    best: int
    comparisons: int


async def run_plan(method: Method, contests: Sequence[Contest], duels: Duels) -> list[Pick | None]:
    """The plan's choice in each contest; None where one of its comparisons failed."""
    plans = [PLANS[method](RankTask(len(one.responses), "best", strengths=False)) for one in contests]
    done: list[Pick | None] = [None] * len(contests)
    told: dict[int, list[float] | None] = dict.fromkeys(range(len(contests)))
    while told:
        asked: dict[int, list[tuple[int, int]]] = {}
        for i, answers in told.items():
            step = _advance(plans[i], answers)
            if isinstance(step, Ranking):
                done[i] = Pick(step.order[0], step.comparisons)
            else:
                asked[i] = step
        flat = [
            Duel(contests[i].prompt, contests[i].responses[a], contests[i].responses[b])
            for i, step in asked.items()
            for a, b in step
        ]
        answered = iter(await duels.ask(flat))
        told = {}
        for i, step in asked.items():
            replies = [next(answered) for _ in step]
            known = [p for p in replies if p is not None]
            if len(known) == len(replies):
                told[i] = known
    return done


def _advance(plan: Any, told: list[float] | None) -> list[tuple[int, int]] | Ranking:
    try:
        asked: list[tuple[int, int]] = next(plan) if told is None else plan.send(told)
    except StopIteration as done:
        ranking: Ranking = done.value
        return ranking
    return asked

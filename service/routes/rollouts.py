"""Rollouts in trainers' own wire formats, scored as the configuration says: these formats cannot say it themselves.

A scalar judge scores each response alone. A pairwise judge compares it with its label (a string is a reference), else
with the reference stored for its prompt, else with the other responses to the same prompt in the request, else with
those that come in other requests (`service.seating`), where ``compat.cohort_size`` asks for that; else the rollout has
failed. These trainers end a run when they get no number, so a rollout that failed gets a neutral one and is marked;
an engine or a store that is gone is an error of the whole request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from service.context import Call, Gate, Service
from service.costs import Load, of_group, of_pairs, of_singles
from service.errors import Conflict, InvalidInput, JudgmentFailed, ServiceError, Unavailable
from service.judge import Judge
from service.judging.base import sigmoid
from service.ranking.plans import most_pairs
from service.rewards import Normalization
from service.routes.score_cohorts import CohortCall
from service.routes.score_rows import Outcome, normalization, row_of, with_rewards
from service.schemas.replies import JudgeVersionOut, ScoreReply, ScoreRow, UsageOut
from service.schemas.requests import MAX_GROUP, CohortIn, MessageIn, Normalize, ScoreItem
from service.seating import Seat
from service.stores.references_base import key_of
from service.types import Comparison, Prompt, Response

TRIES = 3
"""How often a rollout looks for a seat: a group may be closed while it sits down."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a trainer sent, taken apart; ``label`` is any value of its data set."""

    prompt: Prompt
    response: str
    label: Any = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One rollout's numbers, all finite. ``score`` is in [0, 1]; without ``ok`` all are neutral. ``normalized``: the
    reward comes from a queue that holds enough scores."""

    ok: bool
    score: float
    reward: float
    margin: float = 0.0
    consistent: bool = False
    flagged: bool = False
    normalized: bool = False

    def logs(self) -> dict[str, float]:
        """What a trainer can log of it."""
        return {
            "ok": float(self.ok),
            "consistent": float(self.consistent),
            "flagged": float(self.flagged),
            "normalized": float(self.normalized),
            "margin": self.margin,
        }


Found = ScoreRow | ServiceError
"""A row with its reward, or why there is none."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rollouts of a request, by their places in it, that are scored alike. ``kind`` is that of their queue."""

    kind: str
    places: Sequence[int]
    outcomes: Sequence[Outcome]


class RolloutCall:
    """One request's rollouts, before one judge."""

    def __init__(self, judge: Judge, service: Service, gate: Gate, call: Call) -> None:
        self.judge, self.service, self.gate, self.call = judge, service, gate, call
        self.compat = gate.settings.compat

    async def score(self, rollouts: Sequence[Rollout | ServiceError]) -> list[Judged]:
        """One result a rollout, in order; those that could not be taken apart have failed.

        Raises `Unavailable`, and `Conflict` for a queue of another window than the configuration's.
        """
        self.call.seen.judge, self.call.seen.version = self.judge.name, self.judge.version
        good = {place: rollout for place, rollout in enumerate(rollouts) if isinstance(rollout, Rollout)}
        errors = {place: error for place, error in enumerate(rollouts) if isinstance(error, ServiceError)}
        self.call.saw_scores(list(errors.values()))
        found: dict[int, Found] = {**errors, **(await self._score(good) if good else {})}
        failed = any(isinstance(one, ServiceError) for one in found.values())
        normalized = failed and await self._is_normalized(found.values())
        return [self._judged(found[place], normalized) for place in range(len(rollouts))]

    async def _score(self, good: Mapping[int, Rollout]) -> dict[int, Found]:
        """Whatever belongs together is judged together; all of it at once."""
        if self.judge.is_scalar:
            return await self._at_once([self._singles(good)])
        references = await self._references(good)
        rest = {place: rollout for place, rollout in good.items() if place not in references}
        groups, alone = _groups(rest)
        jobs: list[Any] = []
        if references:
            jobs.append(self._compared(good, references))
        if groups:
            jobs.append(self._grouped(good, groups))
        if alone and self.compat.cohort_size is not None:
            jobs += [self._seated(place, good[place]) for place in alone]
        elif alone:
            jobs.append(self._without_opponent(alone))
        return await self._at_once(jobs)

    async def _at_once(self, jobs: Sequence[Any]) -> dict[int, Found]:
        running = [asyncio.ensure_future(job) for job in jobs]
        try:
            return {place: row for rows in await asyncio.gather(*running) for place, row in rows.items()}
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _references(self, good: Mapping[int, Rollout]) -> dict[int, str]:
        """References by place: labels that are texts, and for the rest what is stored for their prompts."""
        labelled = self.compat.labels == "reference"
        found = {p: r.label for p, r in good.items() if labelled and isinstance(r.label, str) and r.label.strip()}
        rest = [place for place in good if place not in found]
        stored = await self.service.references.get([key_of(good[place].prompt) for place in rest]) if rest else []
        return found | {place: text for place, text in zip(rest, stored, strict=True) if text is not None}

    async def _singles(self, good: Mapping[int, Rollout]) -> dict[int, Found]:
        items = [(rollout.prompt, Response(rollout.response)) for rollout in good.values()]
        async with self.call.judging(self.gate, self.judge, of_singles(items)):
            outcomes = await self.service.scorer.score_singles(self.judge, items, **self._ask)
        return await self._rewarded(Part("single", list(good), outcomes))

    async def _compared(self, good: Mapping[int, Rollout], references: Mapping[int, str]) -> dict[int, Found]:
        triples = [(good[p].prompt, Response(good[p].response), Response(text)) for p, text in references.items()]
        load = of_pairs([Comparison(*triple) for triple in triples])
        async with self.call.judging(self.gate, self.judge, load):
            outcomes = await self.service.scorer.score_references(self.judge, triples, **self._ask)
        return await self._rewarded(Part("reference", list(references), outcomes))

    async def _grouped(self, good: Mapping[int, Rollout], groups: Sequence[Sequence[int]]) -> dict[int, Found]:
        """A group whose judgment failed fails all of its members."""
        asked = [(good[group[0]].prompt, tuple(Response(good[p].response) for p in group)) for group in groups]
        loads = [of_group(prompt, members, most_pairs("all_pairs", len(members))) for prompt, members in asked]
        async with self.call.judging(self.gate, self.judge, sum(loads, Load())):
            judged = await self.service.scorer.score_groups(self.judge, asked, **self._ask)
        outcomes: list[Outcome] = []
        for group, result in zip(groups, judged, strict=True):
            outcomes += [result] * len(group) if isinstance(result, ServiceError) else result
        return await self._rewarded(Part("group", [place for group in groups for place in group], outcomes))

    async def _without_opponent(self, places: Sequence[int]) -> dict[int, Found]:
        error = InvalidInput(
            "This judge compares two responses; send a label, store a reference, send all responses to a prompt at "
            "once, or set compat.cohort_size.",
            field="labels",
        )
        return await self._rewarded(Part("reference", places, [error] * len(places)))

    async def _rewarded(self, part: Part) -> dict[int, Found]:
        """Scores entered into the configured queue, all in one commit. Raises what concerns the whole request."""
        self.call.saw_scores(part.outcomes)
        rows = [row_of(outcome, None) for outcome in part.outcomes]
        draft = ScoreReply(
            results=rows,
            usage=UsageOut.of(self.call.seen.usage),
            judge_version=JudgeVersionOut.of(self.judge.version),
        )
        reply = await with_rewards(draft, self._asked(part.kind), None, self.service.rewards)
        found: list[Found] = [
            outcome if isinstance(outcome, ServiceError) else row.model_copy(update={"queue": reply.queue})
            for outcome, row in zip(part.outcomes, reply.results, strict=True)
        ]
        return dict(zip(part.places, found, strict=True))

    async def _seated(self, place: int, rollout: Rollout) -> dict[int, Found]:
        """The rollout's row, from the group it sat down in."""
        for _ in range(TRIES):
            found = await self._in_group(rollout)
            if found is not None:
                return {place: found}
        return {place: Conflict("The groups of this prompt were closed as this rollout came; send it again.")}

    async def _in_group(self, rollout: Rollout) -> Found | None:
        """None: the group was closed before the rollout sat down."""
        size, version = self.compat.cohort_size or 0, self.judge.version
        table = f"{self.call.principal.key_id} {version} {key_of(rollout.prompt)}"
        seat = self.service.seating.take(table, size, rollout.response)
        answered = False
        try:
            cohort = CohortCall(self.judge, self._asked("group"), self.service, self.gate, self.call)
            reply = await cohort.score([self._item(rollout, seat)], self.call.left_s)
            answered = True
            row = reply.results[0]
            if row.error is not None:  # noted where it was judged
                return JudgmentFailed(row.error.message)
            return row.model_copy(update={"queue": reply.queue})
        except Unavailable:
            raise
        except ServiceError as error:
            answered = True
            if isinstance(error, Conflict) and "clash" in error.details:
                return None
            if isinstance(error, Conflict):
                raise
            self.call.saw_scores([error])
            return error
        finally:
            (self.service.seating.answered if answered else self.service.seating.left)(seat)

    def _item(self, rollout: Rollout, seat: Seat) -> ScoreItem:
        turns = [MessageIn.model_validate({"role": m.role, "content": m.content}) for m in rollout.prompt.messages]
        table = seat.table
        cohort = CohortIn(
            group_id=table.id, size=table.size, index=seat.index, deadline_ms=self.compat.cohort_deadline_ms
        )
        return ScoreItem.model_construct(prompt=turns, response=rollout.response, cohort=cohort)

    @property
    def _ask(self) -> dict[str, Any]:
        return {"salt": self.call.principal.cache_salt, "trace": self.call.trace}

    def _asked(self, kind: str) -> Normalization | None:
        c = self.compat
        if c.queue is None:
            return None
        self.call.seen.queue, self.call.seen.score_kind = c.queue, kind
        wanted = Normalize(queue=c.queue, window=c.window, scale=c.scale, min_count=c.min_count, clip=c.clip)
        return normalization(wanted, self.judge, kind)

    async def _is_normalized(self, found: Iterable[Found]) -> bool:
        """Whether the failed rollouts' rewards would have been normalized: as the others', or else as the queue is."""
        queues = [row.queue for row in found if isinstance(row, ScoreRow) and row.queue is not None]
        if queues:
            return queues[0].normalized
        asked = self._asked(self._kind)
        if asked is None:
            return False
        result, _ = await self.service.rewards.reward([], replace(asked, update=False), None, b"")
        return result.stats.count >= asked.min_count

    @property
    def _kind(self) -> str:
        """The kind of score that failed rollouts would most likely have had."""
        if self.judge.is_scalar:
            return "single"
        return "reference" if self.compat.cohort_size is None else "group"

    def _judged(self, found: Found, normalized: bool) -> Judged:
        """The row's numbers; `normalized` is for a rollout that has none."""
        if isinstance(found, ScoreRow) and found.score is not None and found.reward is not None:
            score = sigmoid(found.score) if self.judge.is_scalar else found.score
            is_normalized = found.queue is not None and found.queue.normalized
            flags = (bool(found.consistent), bool(found.flags), is_normalized)
            return Judged(True, score, found.reward, found.margin or 0.0, *flags)
        neutral = 0.0 if normalized or self.judge.is_scalar else 0.5
        return Judged(False, 0.5, neutral, normalized=normalized)


def _groups(rollouts: Mapping[int, Rollout]) -> tuple[list[list[int]], list[int]]:
    """Places that share a prompt, and those that share theirs with nobody. A group too large for one judgment is cut
    into equal ones."""
    by_prompt: dict[Prompt, list[int]] = {}
    for place, rollout in rollouts.items():
        by_prompt.setdefault(rollout.prompt, []).append(place)
    groups = [piece for places in by_prompt.values() if len(places) > 1 for piece in _pieces(places)]
    return groups, [places[0] for places in by_prompt.values() if len(places) == 1]


def _pieces(places: Sequence[int]) -> Iterable[list[int]]:
    count = -(-len(places) // MAX_GROUP)
    ends = [round(len(places) * i / count) for i in range(count + 1)]
    return (list(places[begin:end]) for begin, end in pairwise(ends))

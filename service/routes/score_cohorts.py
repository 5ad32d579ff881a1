"""Cohort mode of /score: rollouts posted one at a time, judged as the groups they belong to.

Each item waits for its group (`service.cohorts`); whichever request finds the group complete judges it, as group mode
would, and enters its scores into the queue. The group's identity is the key of that commit, so that a second judge,
after the first was cut off, repeats its numbers and counts nothing again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from service.cohorts import Place
from service.context import Call, Gate, Service, total_usage
from service.costs import of_group
from service.errors import CohortIncomplete, Conflict, ServiceError, Unavailable
from service.judge import Judge
from service.ranking.plans import most_pairs
from service.rewards import Keyed, Normalization
from service.routes.score_rows import resumed, row_of, with_rewards
from service.schemas.replies import ItemError, JudgeVersionOut, ScoreReply, ScoreRow, UsageOut
from service.schemas.requests import CohortIn, ScoreItem, to_prompt
from service.schemas.wire import dumped
from service.stores.cohorts_base import Gathered, Member, Terms, digest
from service.types import Prompt
from service.types import Response as Candidate

WAIT_SHARE = 0.8
"""Of a request's time, how much its group may wait for members; the rest is for judging them."""


@dataclass(frozen=True, slots=True)
class CohortCall:
    """One request's members of cohorts."""

    judge: Judge
    asked: Normalization | None
    service: Service
    gate: Gate
    call: Call

    async def score(self, items: Sequence[ScoreItem], seconds: float) -> ScoreReply:
        """One row an item; `seconds` is what the request has left.

        A conflict, or a group that stayed incomplete, is the error of a request with one item and marks the row of one
        with several. Raises what concerns the whole service.
        """
        waiting = [asyncio.ensure_future(self._isolated(item, seconds)) for item in items]
        try:
            outcomes = await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
        if len(items) == 1 and isinstance(outcomes[0], Conflict | CohortIncomplete):
            raise outcomes[0]
        self.call.saw_scores([outcome for outcome in outcomes if isinstance(outcome, ServiceError)])
        return self._reply(items, outcomes)

    def _reply(self, items: Sequence[ScoreItem], outcomes: Sequence[ScoreReply | ServiceError]) -> ScoreReply:
        groups = {key: number for number, key in enumerate(dict.fromkeys(map(_group, items)))}
        rows = [_row(item, groups[_group(item)], outcome) for item, outcome in zip(items, outcomes, strict=True)]
        queue = None
        if len(groups) == 1:
            queue = next((row.queue for row in rows if row.queue is not None), None)
            rows = [row.model_copy(update={"queue": None}) for row in rows]
        usage, version = UsageOut.of(self.call.seen.usage), JudgeVersionOut.of(self.judge.version)
        return ScoreReply(results=rows, queue=queue, usage=usage, judge_version=version)

    async def _isolated(self, item: ScoreItem, seconds: float) -> ScoreReply | ServiceError:
        """The reply of the item's group, or why this item has none. Raises `Unavailable`."""
        try:
            return await self._answer(item, seconds)
        except Unavailable:
            raise
        except ServiceError as error:
            return error

    async def _answer(self, item: ScoreItem, seconds: float) -> ScoreReply:
        cohort, prompt = _cohort(item), to_prompt(item.prompt)
        wanted_ms = cohort.deadline_ms or self.gate.settings.cohorts.deadline_ms
        terms = Terms(cohort.size, digest(*((m.role, m.content) for m in prompt.messages)), self._rules())
        version = self.judge.version
        identity = (self.call.principal.key_id, version.judge, version.weight_version, version.template_hash)
        place = Place(digest(*identity, *_group(item)), terms, Member(cohort.index, item.response))

        async def judge(gathered: Gathered) -> bytes:
            return await self._judged_once(place, prompt, gathered)

        wait_s = min(wanted_ms / 1000, WAIT_SHARE * seconds)
        answer = await self.service.cohorts.answer(place, max(0.0, wait_s), judge)
        return ScoreReply.model_validate_json(answer.result)

    def _rules(self) -> str:
        """Digest of what a group's rewards depend on beside its members."""
        if self.asked is None:
            return ""
        asked = self.asked
        return digest(asked.key.name, asked.window, asked.scale, asked.update, asked.min_count, asked.clip)

    async def _judged_once(self, place: Place, prompt: Prompt, gathered: Gathered) -> bytes:
        """The group's reply. Judged again after it was counted, it is the reply of that time."""
        if self.asked is None or not self.asked.update:
            return await self._judged(prompt, gathered, None)
        members = {index: digest(response) for index, response in gathered.responses.items()}
        keyed = Keyed(f"cohort:{place.group}", digest(place.terms.prompt, place.terms.rules, json.dumps(members)))
        try:
            return await self.service.rewards.once(
                keyed,
                lambda: self._judged(prompt, gathered, keyed),
                lambda commit: resumed(commit, self.asked),
            )
        except Conflict as error:
            if "window" in error.details:
                raise
            message = "A group of this id and attempt was counted with other members; send a new attempt."
            raise Conflict(message) from error

    async def _judged(self, prompt: Prompt, gathered: Gathered, keyed: Keyed | None) -> bytes:
        """Rows of the members that came, by index, with scores and rewards. Raises what failed the group."""
        responses = tuple(map(Candidate, gathered.responses.values()))
        load = of_group(prompt, responses, most_pairs("all_pairs", len(responses)))
        async with self.call.judging(self.gate, self.judge, load):
            (outcome,) = await self.service.scorer.score_groups(
                self.judge, [(prompt, responses)], salt=self.call.principal.cache_salt, trace=self.call.trace
            )
        if isinstance(outcome, ServiceError):
            raise outcome
        self.call.saw_scores(outcome)
        rows = [row_of(score, None, None, index) for index, score in zip(gathered.responses, outcome, strict=True)]
        draft = ScoreReply(
            results=rows,
            usage=UsageOut.of(total_usage(outcome)),
            judge_version=JudgeVersionOut.of(self.judge.version),
        )
        return dumped(await with_rewards(draft, self.asked, keyed, self.service.rewards))


def _cohort(item: ScoreItem) -> CohortIn:
    assert item.cohort is not None  # the schema has it for every item or for none
    return item.cohort


def _group(item: ScoreItem) -> tuple[str, int]:
    cohort = _cohort(item)
    return cohort.group_id, cohort.attempt


def _row(item: ScoreItem, group: int, outcome: ScoreReply | ServiceError) -> ScoreRow:
    """The item's own row of its group's reply, with the group's queue."""
    index = _cohort(item).index
    if isinstance(outcome, ServiceError):
        return ScoreRow(id=item.id, group=group, index=index, status="failed", error=ItemError.of(outcome))
    row = next(row for row in outcome.results if row.index == index)
    return row.model_copy(update={"id": item.id, "group": group, "queue": outcome.queue})

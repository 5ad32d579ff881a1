"""POST /score: what RLHF trainers call. Scores by references, by groups or by a scalar judge; rewards by a queue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from service.context import Call, Gate, Service
from service.errors import InvalidInput, ServiceError
from service.judge import Judge
from service.ranking.plans import most_pairs
from service.rewards import Keyed, Normalization, Rewarded, rewarded
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.schemas.replies import (
    FlagOut,
    ItemError,
    JudgeVersionOut,
    QueueOut,
    ScoreReply,
    ScoreRow,
    UsageOut,
)
from service.schemas.requests import ScoreGroups, ScoreItems, ScoreRequest, to_prompt
from service.scoring import Score
from service.stores.base import CommitResult, QueueKey
from service.types import Response as Candidate

router = APIRouter(route_class=guarded("score"), dependencies=DOCUMENTED, tags=["judging"])

Outcome = Score | ServiceError
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


@router.post("/score", response_model=ScoreReply)
async def score(
    body: ScoreRequest,
    request: Request,
    service: TheService,
    gate: TheGate,
    call: TheCall,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Score responses, and turn scores into rewards where `normalize` names a queue.

    With an `Idempotency-Key` the same body gets the stored reply and is counted once; another body is a conflict.
    """
    judge, kind = _judge_for(service, body)
    asked = _normalization(body, judge, kind)
    if asked is not None and asked.update:  # an evaluation says nothing of the queue's own scores
        call.seen.queue, call.seen.score_kind = asked.key.name, kind
    keyed = _keyed(idempotency_key, call, await request.body())

    async def work() -> bytes:
        reply = await _score(body, judge, service, gate, call)
        if asked is None:
            return _dump(_unnormalized(reply))
        scores = [row.score for row in reply.results if row.score is not None]
        if keyed is None:  # nothing is kept, so no draft need be written and read again
            result, _ = await service.rewards.reward(scores, asked, None, b"")
            return _dump(_with_rewards(reply, result, asked))
        result, draft = await service.rewards.reward(scores, asked, keyed, _dump(reply))
        return _dump(_with_rewards(ScoreReply.model_validate_json(draft), result, asked))

    def resume(commit: CommitResult) -> bytes:
        if asked is None or commit.draft is None:
            raise InvalidInput("This idempotency key belongs to another kind of request; send a new key.")
        return _dump(_with_rewards(ScoreReply.model_validate_json(commit.draft), rewarded(commit, asked), asked))

    reply = await service.rewards.once(keyed, work, resume)
    return Response(reply, media_type="application/json")


def _judge_for(service: Service, body: ScoreItems | ScoreGroups) -> tuple[Judge, str]:
    """The judge and the kind of score. Raises `InvalidInput` naming what a pairwise judge misses."""
    if isinstance(body, ScoreGroups):
        return service.scorer.judge(body.judge), "group"
    if body.items[0].reference is not None:
        return service.scorer.judge(body.judge), "reference"
    scalars = [judge for judge in service.scorer.judges.values() if judge.is_scalar]
    judge = service.scorer.judge(body.judge) if body.judge is not None or not scalars else scalars[0]
    if not judge.is_scalar:
        raise InvalidInput(
            "This judge compares two responses; send a reference with every item, or send groups.", field="items"
        )
    return judge, "single"


async def _score(body: ScoreItems | ScoreGroups, judge: Judge, service: Service, gate: Gate, call: Call) -> ScoreReply:
    """The reply with scores and without rewards. Raises what concerns the whole request."""
    if isinstance(body, ScoreGroups):
        outcomes, rows = await _score_groups(body, judge, service, gate, call)
    else:
        outcomes, rows = await _score_items(body, judge, service, gate, call)
    call.saw_scores(outcomes)
    return ScoreReply(results=rows, usage=UsageOut.of(call.seen.usage), judge_version=JudgeVersionOut.of(judge.version))


async def _score_items(
    body: ScoreItems, judge: Judge, service: Service, gate: Gate, call: Call
) -> tuple[Sequence[Outcome], list[ScoreRow]]:
    singles = [(to_prompt(item.prompt), Candidate(item.response)) for item in body.items]
    triples = [
        (*single, Candidate(item.reference))
        for single, item in zip(singles, body.items, strict=True)
        if item.reference is not None
    ]
    salt, trace = call.principal.cache_salt, call.trace
    with call.judging(gate, judge, (2 if triples else 1) * len(singles)):
        if triples:
            outcomes = await service.scorer.score_references(judge, triples, salt=salt, trace=trace)
        else:
            outcomes = await service.scorer.score_singles(judge, singles, salt=salt, trace=trace)
    return outcomes, [_row(outcome, item.id) for item, outcome in zip(body.items, outcomes, strict=True)]


async def _score_groups(
    body: ScoreGroups, judge: Judge, service: Service, gate: Gate, call: Call
) -> tuple[Sequence[Outcome], list[ScoreRow]]:
    """One row a response; a group whose judgment failed fails all of its rows."""
    groups = [(to_prompt(group.prompt), tuple(map(Candidate, group.responses))) for group in body.groups]
    sizes = [len(group.responses) for group in body.groups]
    prompts = 2 * sum(most_pairs(body.method, n) for n in sizes)
    with call.judging(gate, judge, prompts):
        judged = await service.scorer.score_groups(
            judge, groups, body.method, salt=call.principal.cache_salt, trace=call.trace
        )
    outcomes: list[Outcome] = []
    rows: list[ScoreRow] = []
    for number, (group, result) in enumerate(zip(body.groups, judged, strict=True)):
        members: Sequence[Outcome] = [result] * len(group.responses) if isinstance(result, ServiceError) else result
        outcomes += members
        rows += [_row(member, group.id, number, index) for index, member in enumerate(members)]
    return outcomes, rows


def _row(outcome: Outcome, item_id: str | None, group: int | None = None, index: int | None = None) -> ScoreRow:
    if isinstance(outcome, ServiceError):
        return ScoreRow(id=item_id, group=group, index=index, status="failed", error=ItemError.of(outcome))
    return ScoreRow(
        id=item_id,
        group=group,
        index=index,
        status="ok",
        score=outcome.score,
        margin=outcome.margin,
        consistent=outcome.consistent,
        flags=FlagOut.all_of(outcome.flags),
    )


def _normalization(body: ScoreItems | ScoreGroups, judge: Judge, kind: str) -> Normalization | None:
    wanted, version = body.normalize, judge.version
    if wanted is None:
        return None
    key = QueueKey(wanted.queue, judge.name, version.weight_version, version.template_hash, kind)
    return Normalization(key, wanted.window, wanted.scale, wanted.update, wanted.min_count, wanted.clip)


def _keyed(key: str | None, call: Call, body: bytes) -> Keyed | None:
    if key is None:
        return None
    return Keyed(f"score:{call.principal.key_id}:{key}", hashlib.sha256(body).hexdigest())


def _unnormalized(reply: ScoreReply) -> ScoreReply:
    """Without a queue the reward is the score, and nothing is clipped."""
    rows = [
        row if row.score is None else row.model_copy(update={"reward": row.score, "clipped": False})
        for row in reply.results
    ]
    return reply.model_copy(update={"results": rows})


def _with_rewards(reply: ScoreReply, result: Rewarded, asked: Normalization) -> ScoreReply:
    """The drafted rows with the rewards of those that have a score, in order."""
    rewards = iter(result.normalized.rewards)
    rows = []
    for row in reply.results:
        if row.score is not None:
            reward = next(rewards)
            row = row.model_copy(update={"reward": reward.reward, "clipped": reward.clipped})
        rows.append(row)
    queue = QueueOut(
        name=asked.key.name,
        epoch=result.epoch,
        seq_first=result.seq_first,
        seq_last=result.seq_last,
        count=result.stats.count,
        mean=result.stats.mean,
        std=result.stats.std,
        normalized=result.normalized.normalized,
        degenerate=result.normalized.degenerate,
    )
    return reply.model_copy(update={"results": rows, "queue": queue})


def _dump(reply: ScoreReply) -> bytes:
    return reply.model_dump_json().encode()

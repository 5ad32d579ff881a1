"""POST /compare: which of two responses is better, in both orders."""

from __future__ import annotations

from fastapi import APIRouter

from service.context import Call, Gate, Service, total_usage
from service.costs import of_pairs
from service.errors import ServiceError
from service.judge import Judge
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.schemas.replies import CompareBatchReply, JudgeVersionOut, UsageOut, VerdictReply, verdict_reply
from service.schemas.requests import CompareOne, CompareRequest
from service.types import Comparison, Verdict

router = APIRouter(route_class=guarded("score"), dependencies=DOCUMENTED, tags=["judging"])


@router.post("/compare")
async def compare(
    body: CompareRequest, service: TheService, gate: TheGate, call: TheCall
) -> VerdictReply | CompareBatchReply:
    """Judge one pair, or a batch of pairs in which every failure stays its item's own."""
    judge = service.scorer.judge(body.judge)
    if isinstance(body, CompareOne):
        (outcome,) = await _judge(service, gate, call, judge, [body.comparison()], body.votes)
        if isinstance(outcome, ServiceError):
            raise outcome
        return verdict_reply(outcome, judge.version, None)
    outcomes = await _judge(service, gate, call, judge, [item.comparison() for item in body.items], body.votes)
    return CompareBatchReply(
        results=[
            verdict_reply(outcome, judge.version, item.id) for item, outcome in zip(body.items, outcomes, strict=True)
        ],
        usage=UsageOut.of(total_usage(outcomes)),
        judge_version=JudgeVersionOut.of(judge.version),
    )


async def _judge(
    service: Service, gate: Gate, call: Call, judge: Judge, comparisons: list[Comparison], votes: int
) -> list[Verdict | ServiceError]:
    async with call.judging(gate, judge, of_pairs(comparisons, votes)):
        outcomes = await service.scorer.compare(
            judge, comparisons, votes=votes, salt=call.principal.cache_salt, trace=call.trace
        )
    call.saw_verdicts(outcomes)
    return outcomes

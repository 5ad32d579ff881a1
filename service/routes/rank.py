"""POST /rank: an order over the responses to one prompt, from judged pairs."""

from __future__ import annotations

from fastapi import APIRouter

from service.costs import of_group
from service.ranking.plans import most_pairs
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.schemas.replies import RankReply, rank_reply
from service.schemas.requests import RankRequest, to_prompt
from service.scoring import RankOptions
from service.types import Response

router = APIRouter(route_class=guarded("score"), dependencies=DOCUMENTED, tags=["judging"])


@router.post("/rank")
async def rank(body: RankRequest, service: TheService, gate: TheGate, call: TheCall) -> RankReply:
    """Rank up to 64 responses, best first."""
    judge = service.scorer.judge(body.judge)
    options = RankOptions(body.method, body.goal, body.top_k, body.confidence, body.max_comparisons)
    prompt, responses = to_prompt(body.prompt), [Response(text) for text in body.responses]
    async with call.judging(gate, judge, of_group(prompt, responses, _most_pairs(body))):
        ranking, usage = await service.scorer.rank(
            judge, prompt, responses, options, salt=call.principal.cache_salt, trace=call.trace
        )
        flags = await service.scorer.inspect(judge, prompt, responses)
    call.saw_ranking(usage, flags)
    return rank_reply(ranking, usage, judge.version, flags)


def _most_pairs(body: RankRequest) -> int:
    """An upper bound on the pairs the plan asks for, which is what admission counts."""
    most = most_pairs(body.method, len(body.responses), body.top_k or 1)
    return most if body.max_comparisons is None else min(most, body.max_comparisons)

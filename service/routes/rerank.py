"""POST /rerank: best-of-n in the format of Jina's and Cohere's rerankers, for clients that speak it already.

Such a client asks for an order and can live with an error, so nothing is made up here: a judgment that fails is the
error of the request, as in /rank.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter

from service.context import Call, Gate, Service
from service.costs import of_group, of_singles
from service.errors import ServiceError
from service.judge import Judge
from service.judging.base import sigmoid
from service.ranking.plans import most_pairs
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.routes.trainers import judge_for, tokens_out
from service.schemas.trainers import (
    DocumentOut,
    RankedDocument,
    RerankReply,
    RerankRequest,
    checked_text,
)
from service.scoring import RankOptions
from service.types import Prompt, Response
from service.untemplating import plain_prompt

router = APIRouter(route_class=guarded("score", patient=True), dependencies=DOCUMENTED, tags=["trainers"])


@router.post("/rerank")
@router.post("/v1/rerank")
@router.post("/v2/rerank")
async def rerank(body: RerankRequest, service: TheService, gate: TheGate, call: TheCall) -> RerankReply:
    """Responses to a prompt, best first. `model` chooses a judge where it is the name of one."""
    judge = judge_for(service, gate, body.model)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    prompt = await asyncio.to_thread(plain_prompt, checked_text(body.query, "query"))
    scores = await _scores(judge, prompt, [checked_text(text, "documents") for text in texts], service, gate, call)
    order = sorted(range(len(texts)), key=lambda index: (-scores[index], index))
    return RerankReply(
        id=f"rerank-{call.request_id}",
        model=judge.name,
        results=[
            RankedDocument(
                index=index,
                relevance_score=scores[index],
                document=DocumentOut(text=texts[index]) if body.return_documents else None,
            )
            for index in order[: body.top_n]
        ],
        usage=tokens_out(call.seen.usage),
    )


async def _scores(
    judge: Judge, prompt: Prompt, texts: Sequence[str], service: Service, gate: Gate, call: Call
) -> list[float]:
    """Mean win probabilities by index, a scalar judge's scores as probabilities. Raises the first failure."""
    responses = [Response(text) for text in texts]
    salt, trace = call.principal.cache_salt, call.trace
    if judge.is_scalar:
        items = [(prompt, response) for response in responses]
        async with call.judging(gate, judge, of_singles(items)):
            outcomes = await service.scorer.score_singles(judge, items, salt=salt, trace=trace)
        call.saw_scores(outcomes)
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                raise outcome
        return [sigmoid(outcome.score) for outcome in outcomes if not isinstance(outcome, ServiceError)]
    async with call.judging(gate, judge, of_group(prompt, responses, most_pairs("auto", len(responses), 1))):
        ranking, usage = await service.scorer.rank(
            judge, prompt, responses, RankOptions(strengths=False), salt=salt, trace=trace
        )
        flags = await service.scorer.inspect(judge, prompt, responses)
    call.saw_ranking(usage, flags)
    return [result.score for result in ranking.results]

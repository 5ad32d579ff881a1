"""POST /score: what RLHF trainers call. Scores by references, groups, cohorts or a scalar judge; rewards by a queue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from service.context import Call, Gate, Service
from service.costs import Load, of_group, of_pairs, of_singles
from service.errors import InvalidInput, ServiceError
from service.judge import Judge
from service.ranking.plans import most_pairs
from service.rewards import Keyed
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.routes.score_cohorts import CohortCall
from service.routes.score_rows import Outcome, normalization, resumed, row_of, with_rewards
from service.schemas.replies import JudgeVersionOut, ScoreReply, ScoreRow, UsageOut
from service.schemas.requests import ScoreGroups, ScoreItems, ScoreRequest, to_prompt
from service.schemas.wire import dumped
from service.stores.references_base import key_of
from service.types import Comparison
from service.types import Response as Candidate

router = APIRouter(route_class=guarded("score"), dependencies=DOCUMENTED, tags=["judging"])

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
    Items with a `cohort` wait for the other members of their groups; a group is judged and counted once, and a member
    sent again gets the same row.
    """
    judge, kind = _judge_for(service, body)
    asked = normalization(body.normalize, judge, kind)
    if asked is not None and asked.update:  # an evaluation says nothing of the queue's own scores
        call.seen.queue, call.seen.score_kind = asked.key.name, kind
    keyed = _keyed(idempotency_key, call, await request.body())

    async def work() -> bytes:
        if isinstance(body, ScoreItems) and body.items[0].cohort is not None:
            return dumped(await CohortCall(judge, asked, service, gate, call).score(body.items, call.left_s))
        reply = await _score(await _with_stored(body, judge, service), judge, service, gate, call)
        return dumped(await with_rewards(reply, asked, keyed, service.rewards))

    reply = await service.rewards.once(keyed, work, lambda commit: resumed(commit, asked))
    return Response(reply, media_type="application/json")


def _judge_for(service: Service, body: ScoreItems | ScoreGroups) -> tuple[Judge, str]:
    """The judge and the kind of score. Raises `UnknownJudge`."""
    if isinstance(body, ScoreGroups) or body.items[0].cohort is not None:
        return service.scorer.judge(body.judge), "group"
    if body.items[0].reference is not None:
        return service.scorer.judge(body.judge), "reference"
    scalars = [judge for judge in service.scorer.judges.values() if judge.is_scalar]
    judge = service.scorer.judge(body.judge) if body.judge is not None or not scalars else scalars[0]
    return judge, "single" if judge.is_scalar else "reference"


async def _with_stored(body: ScoreItems | ScoreGroups, judge: Judge, service: Service) -> ScoreItems | ScoreGroups:
    """Items without a reference get the one stored for their prompts, unless a scalar judge needs none.

    Raises `InvalidInput` that says which prompts have none.
    """
    if isinstance(body, ScoreGroups) or body.items[0].reference is not None or judge.is_scalar:
        return body
    found = await service.references.get([key_of(to_prompt(item.prompt)) for item in body.items])
    missing = [index for index, reference in enumerate(found) if reference is None]
    if missing:
        raise InvalidInput(
            "This judge compares two responses; send a reference or a cohort with every item, send groups, or store "
            f"references for the prompts with PUT /references ({len(missing)} have none).",
            field=f"items[{missing[0]}]",
        )
    items = [item.model_copy(update={"reference": text}) for item, text in zip(body.items, found, strict=True)]
    return body.model_copy(update={"items": items})


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
    load = of_pairs([Comparison(*triple) for triple in triples]) if triples else of_singles(singles)
    async with call.judging(gate, judge, load):
        if triples:
            outcomes = await service.scorer.score_references(judge, triples, salt=salt, trace=trace)
        else:
            outcomes = await service.scorer.score_singles(judge, singles, salt=salt, trace=trace)
    return outcomes, [row_of(outcome, item.id) for item, outcome in zip(body.items, outcomes, strict=True)]


async def _score_groups(
    body: ScoreGroups, judge: Judge, service: Service, gate: Gate, call: Call
) -> tuple[Sequence[Outcome], list[ScoreRow]]:
    """One row a response; a group whose judgment failed fails all of its rows."""
    groups = [(to_prompt(group.prompt), tuple(map(Candidate, group.responses))) for group in body.groups]
    loads = [of_group(prompt, members, most_pairs(body.method, len(members))) for prompt, members in groups]
    async with call.judging(gate, judge, sum(loads, Load())):
        judged = await service.scorer.score_groups(
            judge, groups, body.method, salt=call.principal.cache_salt, trace=call.trace
        )
    outcomes: list[Outcome] = []
    rows: list[ScoreRow] = []
    for number, (group, result) in enumerate(zip(body.groups, judged, strict=True)):
        members: Sequence[Outcome] = [result] * len(group.responses) if isinstance(result, ServiceError) else result
        outcomes += members
        rows += [row_of(member, group.id, number, index) for index, member in enumerate(members)]
    return outcomes, rows


def _keyed(key: str | None, call: Call, body: bytes) -> Keyed | None:
    if key is None:
        return None
    return Keyed(f"score:{call.principal.key_id}:{key}", hashlib.sha256(body).hexdigest())

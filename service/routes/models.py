"""GET /models: the judges and what each of them can do."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from service.judge import Judge
from service.routes.base import DOCUMENTED, TheService, guarded
from service.schemas.replies import JudgeLimits, JudgeOut, ModelsReply

router = APIRouter(route_class=guarded("score"), dependencies=DOCUMENTED, tags=["operations"])


@router.get("/models")
async def models(service: TheService) -> ModelsReply:
    """The configured judges; the first one is used where a request names none."""
    info = service.engine.info
    judges = list(service.scorer.judges.values())
    return ModelsReply(
        engine=info.engine, dtype=info.dtype, judges=[_judge(judge, judge is judges[0]) for judge in judges]
    )


def _judge(judge: Judge, default: bool) -> JudgeOut:
    model = judge.engine.info.model
    return JudgeOut(
        name=judge.name,
        family=judge.family.name,
        template=judge.family.template,
        model=Path(model).name if Path(model).is_absolute() else model,  # not where our files lie
        adapter=judge.adapter,
        weight_version=judge.version.weight_version,
        template_hash=judge.version.template_hash,
        writes_rationale=judge.writes_rationale,
        scalar=judge.is_scalar,
        default=default,
        limits=JudgeLimits(
            max_prompt_tokens=judge.max_prompt_tokens,
            max_rationale_tokens=judge.max_rationale_tokens,
            on_budget=judge.on_budget,
        ),
    )

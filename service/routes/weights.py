"""/admin/weights and /admin/adapters: other weights under the running service. `service.weights` does it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path

from service.routes.base import DOCUMENTED, TheService, guarded
from service.schemas.replies import JudgeVersionOut
from service.schemas.weights import (
    FOLDER_NAME,
    AdapterRequest,
    ChangedReply,
    LastChange,
    WeightsReply,
    WeightsRequest,
)

router = APIRouter(route_class=guarded("admin"), dependencies=DOCUMENTED, tags=["weights"])


@router.get("/admin/weights")
async def weights(service: TheService) -> WeightsReply:
    """What is served, what could be, and what came of the last change."""
    desk, info = service.weights, service.engine.info
    checkpoints, adapters = await asyncio.to_thread(lambda: (desk.checkpoints(), desk.adapters()))
    return WeightsReply(
        engine=info.engine,
        checkpoint=desk.checkpoint,
        weight_version=info.weight_version,
        changing=desk.is_busy,
        judges=[JudgeVersionOut.of(judge.version) for judge in service.scorer.judges.values()],
        checkpoints=checkpoints,
        adapters=adapters,
        added=desk.added,
        last=LastChange(**asdict(desk.last)) if desk.last else None,
    )


@router.post("/admin/weights")
async def change_weights(body: WeightsRequest, service: TheService) -> ChangedReply:
    """Serve another checkpoint of the same shape. Requests inside finish on the weights they began with, later ones
    wait; the new weights must pass their self-test, else the old ones come back. The change goes on when the caller
    leaves or its deadline passes: GET /admin/weights says what came of it.
    """
    judges = await service.weights.reload(body.checkpoint, body.version)
    return ChangedReply.of([judge.version for judge in judges])


@router.post("/admin/adapters")
async def add_adapter(body: AdapterRequest, service: TheService) -> ChangedReply:
    """A judge on a LoRA adapter of the present weights; nobody waits for it."""
    judges = await service.weights.add_adapter(body.name, body.judge, body.like)
    return ChangedReply.of([judge.version for judge in judges])


@router.delete("/admin/adapters/{name}")
async def remove_adapter(name: Annotated[str, Path(pattern=FOLDER_NAME)], service: TheService) -> ChangedReply:
    """Take an added adapter and its judge away, once the requests inside are done with it."""
    judges = await service.weights.remove_adapter(name)
    return ChangedReply.of([judge.version for judge in judges])

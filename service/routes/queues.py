"""/queues: see, forget, carry away and bring back reward windows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.errors import Conflict, InvalidInput, NotFound
from service.routes.base import DOCUMENTED, TheGate, TheService, guarded
from service.schemas.health import HealthOut, QueueHealthOut, QueueReply
from service.schemas.replies import QueueDeleteReply, QueuesReply, QueueStateOut
from service.schemas.requests import QUEUE_NAME
from service.stores.base import QueueState, RewardStore, load_queue

router = APIRouter(route_class=guarded("queue"), dependencies=DOCUMENTED, tags=["queues"])
admin = APIRouter(route_class=guarded("admin"), dependencies=DOCUMENTED, tags=["queues"])

Name = Annotated[str, Path(pattern=QUEUE_NAME)]
Part = Annotated[str | None, Query(max_length=512, description="Choose among queues of this name.")]


@router.get("/queues")
async def list_queues(service: TheService) -> QueuesReply:
    """Every reward window."""
    return QueuesReply(queues=[_state(queue) for queue in await service.store.list_queues()])


@router.get("/queues/{name}")
async def get_queue(name: Name, service: TheService, gate: TheGate) -> QueueReply:
    """The windows of this name: one for each judge, weight version, template and kind of score.

    `health` is made from what this replica judged lately for the queue; other replicas saw other judgments. `drift`
    alone is of the window, which all replicas share.
    """
    queues = []
    for queue in await _named(service.store, name):
        figures, drift = await gate.monitor.of_queue(service.store, queue.key)
        health = HealthOut.of(asdict(figures), asdict(drift))
        queues.append(QueueHealthOut(**_state(queue).model_dump(), health=health))
    return QueueReply(queues=queues)


@router.delete("/queues/{name}")
async def delete_queue(name: Name, service: TheService, gate: TheGate) -> QueueDeleteReply:
    """Forget every window of this name; the next request starts a new epoch."""
    deleted = [await service.store.delete(queue.key) for queue in await _named(service.store, name)]
    gate.monitor.forget(name)
    return QueueDeleteReply(deleted=sum(deleted))


@admin.post("/queues/{name}/export", response_model=None, responses={200: {"content": {"application/json": {}}}})
async def export_queue(
    name: Name, service: TheService, judge: Part = None, score_kind: Part = None, weight_version: Part = None
) -> Response:
    """One window, with its scores and a checksum, to be imported elsewhere."""
    queues = [
        queue
        for queue in await _named(service.store, name)
        if judge in (None, queue.key.judge)
        and score_kind in (None, queue.key.score_kind)
        and weight_version in (None, queue.key.weight_version)
    ]
    if len(queues) > 1:
        raise Conflict("Several queues have this name; choose one by judge, score_kind and weight_version.")
    data = await service.store.export(queues[0].key) if queues else None
    if data is None:
        raise NotFound("There is no such queue; GET /queues lists them.")
    return Response(data, media_type="application/json")


@admin.post(
    "/queues/{name}/import",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def import_queue(name: Name, request: Request, service: TheService) -> QueueStateOut:
    """Bring back an exported window under its own name. A window that exists is never overwritten."""
    data = await request.body()
    if load_queue(data).key.name != name:
        raise InvalidInput("This export is of a queue with another name; import it under that name.", field="name")
    return _state(await service.store.import_(data))


async def _named(store: RewardStore, name: str) -> list[QueueState]:
    queues = await store.list_queues(name)
    if not queues:
        raise NotFound("There is no queue of this name; GET /queues lists them.")
    return queues


def _state(queue: QueueState) -> QueueStateOut:
    key, stats = queue.key, queue.stats
    return QueueStateOut(
        name=key.name,
        judge=key.judge,
        weight_version=key.weight_version,
        template_hash=key.template_hash,
        score_kind=key.score_kind,
        epoch=queue.epoch,
        window=queue.window,
        seq_last=queue.seq_last,
        count=stats.count,
        mean=stats.mean,
        std=stats.std,
    )

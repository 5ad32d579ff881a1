"""Probes (open to all), metrics, and the API's description."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.metrics import CONTENT_TYPE
from service.routes.base import DOCUMENTED, Route, TheGate, TheService, guarded
from service.schemas.replies import HealthReply

probes = APIRouter(route_class=Route, tags=["operations"])
metrics = APIRouter(route_class=guarded("metrics"), dependencies=DOCUMENTED, tags=["operations"])
description = APIRouter(route_class=guarded(None), include_in_schema=False)


@probes.get("/livez")
async def livez(service: TheService) -> HealthReply:
    """503 when only a restart helps."""
    await service.health.check_alive()
    return HealthReply()


@probes.get("/readyz")
async def readyz(service: TheService) -> HealthReply:
    """503 while requests should go elsewhere: shutting down, engine dead or hung, store out of reach."""
    await service.health.check_ready()
    return HealthReply()


@probes.get("/startupz")
async def startupz(service: TheService) -> HealthReply:
    """Answers once the model is loaded and has passed its self-test; before that nothing listens here."""
    return HealthReply()


@metrics.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def prometheus(gate: TheGate) -> Response:
    """Prometheus text format: the service's metrics and, with vLLM in this process, the engine's."""
    return Response(gate.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


@description.get("/openapi.json")
async def openapi(request: Request) -> dict[str, Any]:
    schema: dict[str, Any] = request.app.openapi()
    return schema


@description.get("/docs")
async def docs() -> HTMLResponse:
    return get_swagger_ui_html(openapi_url="/openapi.json", title="Reward scoring service")

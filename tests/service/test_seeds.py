"""Seeds and likelihoods are for offline work: a seeded request can kill an engine on a CPU, so no caller makes one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.engines.fake import FakeEngine
from service.settings import Settings
from tests.support.serving import BODIES, PAIR, ROUTES, options, serving


def _property_names(schema: Any) -> Iterator[str]:
    """Every name that an object of the schema, or of one inside it, may have."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        if "name" in schema and "in" in schema:  # a parameter of a route
            yield schema["name"]
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _property_names(part)


async def test_no_route_and_no_setting_names_them() -> None:
    async with serving() as api:
        wire = (await api.client.get("/openapi.json")).json()
    for names in (set(_property_names(wire)), set(_property_names(Settings.model_json_schema()))):
        assert {"votes", "model"} & names, "the schemas were not read"
        forbidden = ("seed", "likelihood", "chunked", "scored_from")
        assert [name for name in names if any(word in name for word in forbidden)] == []


@pytest.mark.parametrize("route", ROUTES)
async def test_a_seed_in_a_body_is_refused(route: str) -> None:
    async with serving() as api:
        body = BODIES[route]
        assert (await api.post(route, body)).status_code == 200
        assert (await api.post(route, body | {"seed": 1})).status_code == 422
        if "items" in body:
            inside = {"items": [{**body["items"][0], "seed": 1}]}
            assert (await api.post(route, inside)).status_code == 422


async def test_no_request_of_any_route_carries_them() -> None:
    engine = FakeEngine(options(keep_requests=True))
    async with serving(engine=engine) as api:
        for judge in ("gram", "gram_r2", "rm_r1", "scalar"):
            for route in ROUTES:
                await api.post(route, BODIES[route] | {"judge": judge})
        for extra in ({"votes": 3}, {"votes": 3, "stop_when_decided": True}, {"votes": 2, "stream": True}):
            reply = await api.post("/rationale", PAIR | extra)
            assert reply.status_code == 200, json.dumps(extra)
    asked = engine.requests
    assert {request.task for request in asked} == {"label", "generate", "scalar"}
    assert any(request.temperature > 0 for request in asked)
    assert {(request.seed, request.scored_from) for request in asked} == {(None, 0)}

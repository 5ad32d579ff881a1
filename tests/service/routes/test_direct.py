"""Routes served without FastAPI's own machinery answer as FastAPI would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Header, Request
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from service.app import ROUTERS, error_reply
from service.middleware import CallMiddleware
from service.routes.base import Route, Shortcut
from tests.support.serving import Api

DIRECT = {
    *("/compare", "/rank", "/rationale", "/score", "/get_reward", "/remote_rm", "/classify"),
    *("/rerank", "/v1/rerank", "/v2/rerank"),
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    sizes: list[int] = Field(default=[], max_length=3)


class Reply(BaseModel):
    name: str
    total: float
    key: str | None = None


def application(route_class: type[APIRoute]) -> ASGIApp:
    router = APIRouter(route_class=route_class)

    @router.post("/sum")
    async def sum_up(
        body: Body, request: Request, key: Annotated[str | None, Header(max_length=3)] = None, times: int = 1
    ) -> Reply:
        assert await request.body()
        return Reply(name=body.name, total=times * sum(body.sizes), key=key)

    app = FastAPI()
    app.include_router(router)
    app.state.gate = SimpleNamespace(settings=SimpleNamespace(limits=SimpleNamespace(max_body_bytes=10**6)))
    if route_class is APIRoute:
        return app
    app.add_middleware(Shortcut, routes=app.routes)
    return CallMiddleware(app, record=lambda seen: None, max_body_bytes=10**6, refuse=error_reply)


async def answer(app: ASGIApp, content: bytes, query: str = "", headers: dict[str, str] | None = None) -> Any:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        sent = {"Content-Type": "application/json"} | (headers or {})
        reply = await client.post("/sum" + query, content=content, headers=sent)
        return reply.status_code, reply.json(), reply.headers["content-type"]


OURS, THEIRS = application(Route), application(APIRoute)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "sizes", "x"]), inner),
)


@given(VALUES | st.fixed_dictionaries({"name": st.text(), "sizes": st.lists(st.integers(-9, 9), max_size=4)}))
async def test_any_body_is_answered_as_fastapi_would(value: Any) -> None:
    content = httpx.Request("POST", "http://test", json=value).content
    assert await answer(OURS, content) == await answer(THEIRS, content)


@pytest.mark.parametrize("content", [b"", b"null", b'{"name": "a", "name": "b"}', '{"name": "é"}'.encode("utf-16")])
async def test_odd_bodies_are_answered_as_fastapi_would(content: bytes) -> None:
    assert await answer(OURS, content) == await answer(THEIRS, content)


@pytest.mark.parametrize("headers", [{}, {"Key": "abc"}, {"key": "abcd"}, {"Key": ""}])
@pytest.mark.parametrize("query", ["", "?times=3", "?times=three", "?other=1", "?times=1&times=2"])
async def test_parameters_are_read_as_fastapi_would(query: str, headers: dict[str, str]) -> None:
    content = b'{"name": "a", "sizes": [1, 2]}'
    assert await answer(OURS, content, query, headers) == await answer(THEIRS, content, query, headers)


def test_every_judging_route_is_direct() -> None:
    routes = [route for router in ROUTERS for route in router.routes]
    assert {route.path for route in routes if isinstance(route, Route) and route.is_direct} >= DIRECT


async def test_a_mounted_application_is_routed_as_usual(api: Api) -> None:
    """Behind a prefix the path is not the route's: a prefix that looks like one does not lead there."""
    body = {"prompt": "q", "response_a": "one", "response_b": "two"}
    for prefix, path, status in (("/judge", "/judge/compare", 200), ("/compare", "/compare", 404)):
        transport = httpx.ASGITransport(api.app, root_path=prefix)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.post(path, json=body)).status_code == status, path

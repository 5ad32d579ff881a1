"""Log lines: what they hold, and that nothing of a caller's texts and keys is in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service import logs
from service.auth import hash_key
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine
from service.errors import JudgmentFailed
from service.spans import REQUEST_ID
from tests.support.serving import BODIES, JUDGES, options, serving

MARK = "S3CRET"
KEY = f"{MARK}-key"


@pytest.fixture(params=["json", "text"])
def lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """All that is logged, down to debug, by anybody."""
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level, access = root.level, logging.getLogger("gram.access").level
    stream = io.StringIO()
    handler = logs.set_up(request.param, True, stream)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    for one in before:
        root.addHandler(one)
    root.setLevel(level)
    logging.getLogger("gram.access").setLevel(access)


class Talkative(FakeEngine):
    """Fails in the worst way: with an exception that quotes the prompt."""

    async def complete(self, request: EngineRequest) -> Any:
        text = bytes(i for i in request.prompt_ids if i < 256).decode()
        if "raise" in text:
            raise RuntimeError(f"cannot judge {text}")
        if "chain" in text:
            try:
                {}[text]
            except KeyError as error:
                raise ValueError(text) from error
        if "known" in text:
            raise JudgmentFailed("The engine failed on this request.") from RuntimeError(text)
        return await super().complete(request)


def marked(value: Any) -> Any:
    """The body with every text of a caller replaced."""
    if isinstance(value, dict):
        return {key: marked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner) for inner in value]
    return f"{MARK} {value}" if isinstance(value, str) else value


def requests() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every judging route with good bodies, and each way to fail that quotes something."""
    for route, body in BODIES.items():
        yield "POST", route, {"json": marked(body)}
        for how in ("raise", "chain", "known", "nan", "abort"):
            yield "POST", route, {"json": json.loads(json.dumps(marked(body)).replace(MARK, f"{MARK} {how}"))}
        yield "POST", route, {"json": marked(body) | {f"{MARK}-field": MARK}}
        yield "POST", route, {"json": marked(body) | {"judge": MARK}}
        yield "POST", route, {"content": f'{{"{MARK}": '.encode()}
        yield "POST", route, {"content": MARK.encode() * 10_000_000}
        yield "POST", route, {"content": b'{"prompt": "\\ud800 ' + MARK.encode() + b'"}'}
    yield "POST", "/rationale", {"json": marked(BODIES["/rationale"]) | {"stream": True}}
    yield "POST", "/rationale", {"json": marked(BODIES["/rationale"]) | {"stream": True, "prompt": f"{MARK} raise"}}
    yield "POST", "/get_reward", {"json": {"query": [MARK], "prompts": [MARK], "labels": [MARK]}}
    yield "POST", "/remote_rm", {"json": {"prompt": MARK, "response": MARK, "label": MARK}}
    yield "POST", "/classify", {"json": {"model": MARK, "input": [MARK]}}
    yield "POST", "/rerank", {"json": {"model": MARK, "query": MARK, "documents": [MARK, MARK + "2"]}}
    yield "PUT", "/references", {"json": {"items": [{"prompt": MARK, "reference": MARK}]}}
    cohort = {"group_id": MARK, "size": 2, "index": 0, "deadline_ms": 1}
    yield "POST", "/score", {"json": {"items": [{"prompt": MARK, "response": MARK, "cohort": cohort}]}}
    group = {"groups": [{"prompt": MARK, "responses": [MARK, "b"]}], "normalize": {"queue": "q"}}
    yield "POST", "/score", {"json": group, "headers": {"Idempotency-Key": MARK}}
    yield (
        "POST",
        "/score",
        {"json": marked(group) | {"normalize": {"queue": "q"}}, "headers": {"Idempotency-Key": MARK}},
    )
    yield "POST", "/queues/q/import", {"content": json.dumps({"name": MARK}).encode()}
    yield "POST", "/admin/weights", {"json": {"checkpoint": MARK}}
    yield "POST", "/admin/adapters", {"json": {"name": MARK}}
    yield "GET", f"/queues/{MARK}", {}
    yield "GET", f"/{MARK}?{MARK}={MARK}", {}
    yield "DELETE", f"/admin/adapters/{MARK}", {}
    yield "GET", "/models", {"headers": {"X-Request-Id": f"{MARK} not an id"}}
    yield "GET", "/models", {"headers": {"traceparent": MARK, "Cookie": MARK, "X-Deadline-Ms": MARK}}


async def test_no_log_line_holds_texts_or_keys(lines: io.StringIO) -> None:
    def fault(request: EngineRequest) -> Any:
        text = bytes(i for i in request.prompt_ids if i < 256).decode()
        return next((kind for kind in ("nan", "abort") if f"{MARK} {kind}" in text), None)

    keys = [{"id": "one", "sha256": hash_key(KEY), "scopes": ["score", "queue", "admin", "metrics"]}]
    overrides = {"auth": {"keys": keys}, "server": {"access_log": True}, "judges": JUDGES}
    statuses = set()
    async with serving(overrides, Talkative(options(fault=fault))) as api:
        for method, path, more in requests():
            sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"} | more.pop("headers", {})
            statuses.add((await api.client.request(method, path, headers=sent, **more)).status_code)
        wrong = {"Authorization": f"Bearer {MARK}-wrong"}
        statuses.add((await api.post("/compare", marked(BODIES["/compare"]), **wrong)).status_code)
        api.engine.die()
        statuses.add(
            (await api.post("/compare", marked(BODIES["/compare"]), Authorization=f"Bearer {KEY}")).status_code
        )
    assert {200, 400, 401, 404, 409, 413, 422, 500, 502, 503, 504} <= statuses
    logged = lines.getvalue()
    assert "RuntimeError" in logged  # the failures were logged, with their kinds
    assert "ValueError" in logged
    ours = [line for line in logged.splitlines() if MARK in line and not line.startswith(("DEBUG", "asyncio"))]
    assert not ours


async def test_json_lines_carry_the_ids_of_their_request() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("gram.test-of-logs")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    token = REQUEST_ID.set("r-1")
    logger.info("at %s", "work")
    try:
        raise ValueError(MARK)
    except ValueError:
        logger.exception("failed")
    REQUEST_ID.reset(token)
    logger.info("after")
    first, second, third = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["message"], first["request_id"], first["level"]) == ("at work", "r-1", "INFO")
    assert second["exception"].endswith("builtins.ValueError")
    assert "test_logs.py" in second["exception"]
    assert "request_id" not in third
    assert first["time"].endswith("Z")


async def test_an_access_line_is_its_fields(lines: io.StringIO) -> None:
    async with serving({"server": {"access_log": True}}) as api:
        await api.post("/compare", BODIES["/compare"], **{"X-Request-Id": "mine"})
    told = [json.loads(line[line.index("{") :]) for line in lines.getvalue().splitlines() if '"route"' in line]
    (line,) = told
    assert (line["route"], line["status"], line["request_id"]) == ("/compare", 200, "mine")

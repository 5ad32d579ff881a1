"""The application as a whole: its error table, keys on every route, deadlines, readiness, the promised API."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from service import errors
from service.app import STATUS, build_app, error_reply
from service.auth import ALL_SCOPES, hash_key
from service.engines.base import EngineRequest, Progress
from service.engines.fake import FakeEngine
from service.errors import EngineDead, ServiceError, StartupError
from service.stores.memory import MemoryStore
from tests.support.serving import BODIES, PAIR, ROUTES, Api, options, serving, settings_for, until

OPEN = {"/livez", "/readyz", "/startupz"}
NEEDS: dict[tuple[str, str], str | None] = {
    ("POST", "/compare"): "score",
    ("POST", "/rank"): "score",
    ("POST", "/rationale"): "score",
    ("POST", "/score"): "score",
    ("POST", "/get_reward"): "score",
    ("POST", "/remote_rm"): "score",
    ("POST", "/classify"): "score",
    ("POST", "/rerank"): "score",
    ("POST", "/v1/rerank"): "score",
    ("POST", "/v2/rerank"): "score",
    ("PUT", "/references"): "queue",
    ("GET", "/models"): "score",
    ("GET", "/queues"): "queue",
    ("GET", "/queues/{name}"): "queue",
    ("DELETE", "/queues/{name}"): "queue",
    ("POST", "/queues/{name}/export"): "admin",
    ("POST", "/queues/{name}/import"): "admin",
    ("GET", "/admin/weights"): "admin",
    ("POST", "/admin/weights"): "admin",
    ("POST", "/admin/adapters"): "admin",
    ("DELETE", "/admin/adapters/{name}"): "admin",
    ("GET", "/metrics"): "metrics",
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): None,
}
"""The scope of every guarded route; None: any known key."""


def every_error() -> set[type[ServiceError]]:
    found = {ServiceError}
    while more := {sub for cls in found for sub in cls.__subclasses__() if sub.__module__ == errors.__name__} - found:
        found |= more
    return found


def test_every_error_has_a_status_of_its_own() -> None:
    assert set(STATUS) == every_error()


def test_error_replies_have_one_shape() -> None:
    for cls in every_error():
        reply = error_reply(cls("What to do."), "id-1")
        error = json.loads(bytes(reply.body))["error"]
        assert error == {"code": cls.code, "message": "What to do.", "request_id": "id-1", "retryable": cls.retryable}
        assert (reply.status_code == 503) == ("retry-after" in reply.headers)
        assert reply.status_code == 503 or not issubclass(cls, errors.Unavailable)


def routes_of(app: Any) -> set[tuple[str, str]]:
    return {(m, r.path) for r in app.routes if isinstance(r, APIRoute) for m in r.methods if r.path not in OPEN}


def test_no_route_is_forgotten() -> None:
    assert routes_of(build_app(settings_for())) == set(NEEDS)


KEYS = {scope: f"key-for-{scope}-{'x' * 20}" for scope in sorted(ALL_SCOPES)}
AUTH = {
    "auth": {
        "keys": [{"id": scope, "sha256": hash_key(key), "scopes": [scope]} for scope, key in KEYS.items()],
        "secret": "s" * 32,
    }
}


async def call(api: Api, method: str, path: str, authorization: str | None) -> int:
    headers = {"Authorization": authorization} if authorization is not None else {}
    body = BODIES.get(path) if method == "POST" else None
    reply = await api.client.request(method, path.replace("{name}", "q"), json=body, headers=headers)
    if reply.status_code >= 400:
        assert set(reply.json()["error"]) <= {"code", "message", "request_id", "retryable", "details"}
    if reply.status_code == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
    return reply.status_code


async def test_keys_times_routes() -> None:
    """Every route with no key, wrong keys, malformed headers and each scope's key."""
    bad = [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {KEYS['score']}",
        KEYS["score"],
        "Bearer \u00e9\u00e9",
    ]
    bad += [
        f"Bearer {hash_key(KEYS['score'])}",
        f"Bearer {KEYS['score']}x",
        f"Bearer {KEYS['score'][:-1]}",
        "bearer x y",
    ]
    async with serving(AUTH) as api:
        for (method, path), needed in NEEDS.items():
            for header in bad:
                sent = header.encode() if header is not None else None
                assert await call(api, method, path, sent) == 401, (method, path, header)  # type: ignore[arg-type]
            for scope, key in KEYS.items():
                status = await call(api, method, path, f"Bearer {key}")
                allowed = needed in (None, scope)
                assert (status == 403) != allowed, (method, path, scope, status)
                assert status in ({200, 404, 422} if allowed else {403})
        for path in OPEN:
            assert (await api.client.get(path)).status_code == 200
        assert api.engine.calls > 0


async def test_path_tricks_open_nothing() -> None:
    async with serving(AUTH) as api:
        for path in (
            "//metrics",
            "/metrics/",
            "/METRICS",
            "/%6detrics",
            "/x/../metrics",
            "/metrics%00",
            "/metrics;a",
            "/./queues",
        ):
            assert (await api.client.get(path)).status_code in (401, 404), path
        for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "DELETE"):
            reply = await api.client.request(method, "/compare")
            assert reply.status_code == 405
            assert reply.headers["allow"] == "POST"


async def test_a_caller_without_a_key_is_told_before_the_body_is_looked_at() -> None:
    async with serving(AUTH) as api:
        for body in (b"{not json", b"[" * 100_000):
            assert (await api.send("/compare", body)).status_code == 401
        assert (await api.send("/compare", b"x", "text/plain")).status_code == 401


async def test_each_key_has_its_own_prefix_cache() -> None:
    pair = dict.fromkeys(PAIR, "tell me a long story about the sea " * 8) | {"response_b": "no"}
    keys = [{"id": n, "sha256": hash_key(n * 20), "scopes": ["score"]} for n in ("one", "two")]
    async with serving({"auth": {"keys": keys}}) as api:
        cached = {}
        for name in ("one", "one again", "two"):
            headers = {"Authorization": f"Bearer {name.split()[0] * 20}"}
            cached[name] = (await api.post("/compare", pair, **headers)).json()["usage"]["cached_tokens"]
    assert cached["one again"] > 500
    assert cached["two"] == cached["one"] < cached["one again"]


async def test_a_repeated_request_is_answered_from_the_cache_and_says_so() -> None:
    keys = [{"id": n, "sha256": hash_key(n * 20), "scopes": ["score", "metrics"]} for n in ("one", "two")]
    async with serving({"auth": {"keys": keys}, "cache": {}}) as api:
        one, two = ({"Authorization": f"Bearer {name * 20}"} for name in ("one", "two"))
        before = api.engine.calls
        first, again = [(await api.post("/compare", PAIR, **one)).json() for _ in range(2)]
        assert again["usage"]["cached_tokens"] == again["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"]
        assert first["usage"]["cached_tokens"] < first["usage"]["prompt_tokens"]
        assert {**again, "usage": first["usage"]} == first
        turned = {**PAIR, "response_a": PAIR["response_b"], "response_b": PAIR["response_a"]}
        await api.post("/compare", turned, **one)
        assert api.engine.calls == before + 2
        await api.post("/compare", PAIR, **two)  # another tenant's question is another question
        assert api.engine.calls == before + 4
        exposed = (await api.client.get("/metrics", headers=one)).text
        for line in ('prompts_total{outcome="hit"} 4.0', 'prompts_total{outcome="joined"} 0.0', "cache_entries 4.0"):
            assert line in exposed
        assert float(re.findall(r"^gram_cache_bytes (\S+)$", exposed, re.MULTILINE)[0]) > 1000


@pytest.mark.parametrize("off", [{"entries": 0}, {"bytes": 0}])
async def test_without_the_cache_every_request_is_judged(off: dict[str, int]) -> None:
    async with serving({"cache": off}) as api:
        before = api.engine.calls
        for _ in range(2):
            await api.post("/compare", PAIR)
        assert api.engine.calls == before + 4


async def test_keys_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gram")
    async with serving(AUTH) as api:
        await api.post("/compare", PAIR | {"prompt": "unmistakable text"}, Authorization=f"Bearer {KEYS['score']}")
        await api.post("/compare", PAIR, Authorization="Bearer a-wrong-key")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "gram.access"]
    assert [(line["route"], line["status"], line["key"]) for line in lines] == [
        ("/compare", 200, "score"),
        ("/compare", 401, "-"),
    ]
    assert KEYS["score"] not in caplog.text
    assert "a-wrong-key" not in caplog.text
    assert "unmistakable" not in caplog.text


@pytest.mark.parametrize("route", ROUTES)
async def test_a_passed_deadline_is_504_and_aborts_the_engine(route: str) -> None:
    engine = FakeEngine(options(delay_s=30))
    async with serving(engine=engine) as api:
        started = asyncio.get_running_loop().time()
        reply = await api.post(route, BODIES[route], **{"X-Deadline-Ms": "600"})
        took = asyncio.get_running_loop().time() - started
        assert reply.status_code == 504
        assert reply.json()["error"]["code"] == "deadline_exceeded"
        assert 0.6 <= took < 10
        assert engine.in_flight == 0
        assert engine.aborted == engine.calls > 0
        assert api.admission.held == 0


async def test_a_passed_deadline_leaves_the_queue_alone() -> None:
    store = MemoryStore()
    async with serving(engine=FakeEngine(options(delay_s=30)), store=store) as api:
        body = BODIES["/score"] | {"normalize": {"queue": "q"}}
        assert (await api.post("/score", body, **{"X-Deadline-Ms": "50"})).status_code == 504
        assert await store.list_queues() == []


async def test_a_stream_that_takes_too_long_ends_with_an_error_event() -> None:
    engine = FakeEngine(options(token_delay_s=0.1))
    async with serving(engine=engine) as api:
        reply = await api.post("/rationale", PAIR | {"stream": True}, **{"X-Deadline-Ms": "1200"})
        assert reply.status_code == 200
        assert "event: text" in reply.text
        assert reply.text.rstrip().splitlines()[-2] == "event: error"
        assert '"code": "deadline_exceeded"' in reply.text
        assert engine.in_flight == 0
        assert api.admission.held == api.admission.running == 0


async def test_a_full_service_is_503_with_retry_after_at_once() -> None:
    engine = FakeEngine(options(delay_s=0.5))
    async with serving({"limits": {"max_prompts": 4, "max_waiting": 0}}, engine) as api:
        inside = asyncio.create_task(api.post("/rank", BODIES["/rank"]))
        await until(lambda: api.admission.held == 6)
        reply = await api.post("/compare", PAIR)
        assert not inside.done()
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "overloaded"
        assert 1 <= int(reply.headers["retry-after"]) <= 30
        assert (await api.client.get("/livez")).status_code == 200
        assert (await inside).status_code == 200
        assert (await api.post("/compare", PAIR)).status_code == 200
        assert 'gram_rejected_total{reason="overloaded"} 1.0' in (await api.client.get("/metrics")).text


async def test_whoever_finds_no_room_waits_in_line_and_a_full_line_refuses_before_the_body_is_read() -> None:
    engine = FakeEngine(options(delay_s=0.2))
    async with serving({"limits": {"max_prompts": 2, "max_waiting": 2}}, engine) as api:
        jobs = [asyncio.create_task(api.post("/compare", PAIR)) for _ in range(3)]
        await until(lambda: api.admission.in_line == 2)
        for body in (b"{}", b"no json"):
            reply = await api.send("/compare", body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        assert (await api.client.get("/models")).status_code == 200
        assert "gram_requests_in_line 2.0" in (await api.client.get("/metrics")).text
        replies = await asyncio.gather(*jobs)
        assert [reply.status_code for reply in replies] == [200] * 3
        assert "queue;dur=0.0," not in replies[2].headers["server-timing"]


@pytest.mark.parametrize("token", ["flood", "other"])
async def test_one_key_cannot_take_all_places_in_line(token: str) -> None:
    keys = [{"id": name, "sha256": hash_key(name)} for name in ("flood", "other")]
    limits = {"max_prompts": 2, "max_waiting": 4}
    engine = FakeEngine(options(delay_s=0.2))
    async with serving({"limits": limits, "auth": {"keys": keys}}, engine) as api:
        mine = {"Authorization": "Bearer flood"}
        jobs = [asyncio.create_task(api.post("/compare", PAIR, **mine)) for _ in range(5)]
        await until(lambda: api.admission.in_line == 4)
        reply = await api.post("/compare", PAIR, Authorization=f"Bearer {token}")
        assert reply.status_code == (503 if token == "flood" else 200)
        assert [reply.status_code for reply in await asyncio.gather(*jobs)] == [200] * 5


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "Zstd"])
@pytest.mark.parametrize("path", [*ROUTES, "/get_reward", "/rerank"])
async def test_compressed_bodies_are_refused(path: str, encoding: str) -> None:
    async with serving() as api:
        content = gzip.compress(json.dumps(PAIR).encode())
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        reply = await api.client.post(path, content=content, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
        reply = await api.client.post("/compare", json=PAIR, headers={"Content-Encoding": "identity"})
        assert reply.status_code == 200


async def test_draining_refuses_the_new_and_ends_the_old_in_time() -> None:
    engine = FakeEngine(options(delay_s=30))
    async with serving(engine=engine) as api:
        inside = asyncio.create_task(api.post("/compare", PAIR))
        await until(lambda: engine.in_flight == 2)
        api.admission.drain(0.2)
        refused = await api.post("/compare", PAIR)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert (await api.client.get("/readyz")).status_code == 503
        assert (await api.client.get("/livez")).status_code == 200
        ended = await asyncio.wait_for(inside, 2)
        assert (ended.status_code, ended.json()["error"]["code"]) == (503, "draining")
        assert engine.in_flight == 0


async def test_a_killed_engine_is_noticed_everywhere() -> None:
    engine = FakeEngine(options(delay_s=30))
    async with serving(engine=engine) as api:
        assert (await api.client.get("/readyz")).status_code == 200
        inside = [asyncio.create_task(api.post(route, BODIES[route])) for route in ROUTES]
        await until(lambda: engine.in_flight >= 8)
        engine.die()
        for probe in ("/readyz", "/livez"):
            reply = await api.client.get(probe)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")
        for reply in await asyncio.wait_for(asyncio.gather(*inside), 5):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")


class Hung(FakeEngine):
    """An engine whose process is stopped: the check is green or silent, nothing comes out, nothing raises."""

    dead = False
    since: float | None = None

    @property
    def progress(self) -> Progress:
        real = super().progress
        return real if self.since is None else Progress(real.unfinished, self.since)

    async def check(self) -> None:
        if self.dead:
            raise EngineDead("gone")

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(3600 if seconds else 0)


async def test_requests_that_the_engine_forgot_end_with_its_death() -> None:
    engine = Hung(options(delay_s=1))
    async with serving(engine=engine) as api:
        inside = asyncio.create_task(api.post("/compare", PAIR))
        await until(lambda: engine.in_flight == 2)
        engine.dead = True
        reply = await asyncio.wait_for(inside, 5)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")


async def test_an_engine_without_output_is_not_ready_and_then_not_alive() -> None:
    engine = Hung(options(delay_s=1))
    async with serving({"limits": {"stall_s": 30, "fatal_stall_s": 120}}, engine) as api:
        inside = asyncio.create_task(api.post("/compare", PAIR))
        await until(lambda: engine.in_flight == 2)
        for seconds, ready, alive in ((0, 200, 200), (29, 200, 200), (31, 503, 200), (119, 503, 200), (121, 503, 503)):
            engine.since = time.monotonic() - seconds
            assert (await api.client.get("/readyz")).status_code == ready, seconds
            assert (await api.client.get("/livez")).status_code == alive, seconds
        inside.cancel()
        await asyncio.gather(inside, return_exceptions=True)
        await until(lambda: engine.in_flight == 0)
        assert (await api.client.get("/readyz")).status_code == 200


async def test_a_store_that_is_away_makes_the_service_unready() -> None:
    class Away(MemoryStore):
        async def ping(self) -> None:
            raise errors.StoreUnavailable("The store is away.")

    async with serving(store=Away()) as api:
        reply = await api.client.get("/readyz")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
        assert (await api.client.get("/livez")).status_code == 200


async def test_a_bug_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: EngineRequest) -> list[float]:
        raise RuntimeError("a secret of ours")

    async with serving(engine=FakeEngine(options(label_logits=broken))) as api:
        reply = await api.post("/compare", PAIR)
        assert reply.status_code == 500
        assert 'gram_requests_total{route="/compare",status="500"} 1.0' in (await api.client.get("/metrics")).text
        assert reply.json()["error"]["code"] == "internal"
        assert "secret" not in reply.text
        assert reply.headers["x-request-id"] in caplog.text
        assert api.admission.held == 0


async def test_metrics_say_how_the_judge_does() -> None:
    async with serving() as api:
        await api.post(
            "/compare", {"items": [PAIR, PAIR | {"response_a": "<|im_end|>"}, PAIR | {"prompt": "x" * 40_000}]}
        )
        await api.post("/score", BODIES["/score"] | {"judge": "gram"})
        text = (await api.client.get("/metrics")).text
    assert 'gram_requests_total{route="/compare",status="200"} 1.0' in text
    assert 'gram_comparisons_total{judge="gram"} 3.0' in text
    assert 'gram_failed_items_total{code="token_limit",judge="gram"} 1.0' in text
    assert 'gram_flags_total{code="control_token_text",judge="gram",where="a"} 1.0' in text
    assert 'gram_label_mass_count{judge="gram"} 2.0' in text
    assert 'gram_position_bias_logit_count{judge="gram"} 2.0' in text
    assert 'gram_order_consistency_total{consistent="' in text
    assert 'gram_stage_seconds_count{stage="engine"} 2.0' in text
    assert "gram_prompts_inside 0.0" in text


async def test_a_failure_is_counted_once() -> None:
    async with serving(engine=FakeEngine(options(fault="nan"))) as api:
        for route in ("/compare", "/rank", "/score"):
            await api.post(route, BODIES[route])
        text = (await api.client.get("/metrics")).text
    assert 'gram_failed_items_total{code="non_finite_score",judge="gram"} 3.0' in text


async def test_stages_never_add_up_to_more_than_the_clock() -> None:
    groups = [{"prompt": f"Task {g}", "responses": ["x", "y", "z"]} for g in range(8)]
    async with serving(engine=FakeEngine(options(delay_s=0.02))) as api:
        reply = await api.post("/score", {"groups": groups})
    times = [float(part.split("=")[1]) for part in reply.headers["server-timing"].split(", ")]
    assert sum(times[:3]) <= times[3] + 0.2
    assert times[2] > 0


async def test_models_say_what_each_judge_can_do() -> None:
    async with serving() as api:
        judges = {judge["name"]: judge for judge in (await api.client.get("/models")).json()["judges"]}
    assert list(judges) == ["gram", "gram_r2", "rm_r1", "scalar"]
    assert [name for name, judge in judges.items() if judge["writes_rationale"]] == ["gram_r2", "rm_r1"]
    assert [name for name, judge in judges.items() if judge["scalar"]] == ["scalar"]
    assert [name for name, judge in judges.items() if judge["default"]] == ["gram"]
    assert len({judge["template_hash"] for judge in judges.values()}) == 4
    limits = {"max_prompt_tokens": 32_767 - 2048, "max_rationale_tokens": 2048, "on_budget": "invalid"}
    assert judges["gram_r2"]["limits"] == limits


async def test_models_do_not_say_where_our_files_lie() -> None:
    for model, shown in (("/srv/models/judge-7b", "judge-7b"), ("someone/judge-7b", "someone/judge-7b")):
        async with serving(engine=FakeEngine(options(model=model))) as api:
            assert {judge["model"] for judge in (await api.client.get("/models")).json()["judges"]} == {shown}


async def test_the_watchdog_survives_a_check_that_breaks(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(FakeEngine):
        odd = True

        async def check(self) -> None:
            if self.odd:
                raise KeyError("odd")

    engine = Odd(options())
    engine.odd = False
    async with serving(engine=engine) as api:
        engine.odd = True
        await until(lambda: "a health check failed in itself" in caplog.text)
        engine.odd = False
        assert (await api.client.get("/readyz")).status_code == 200


async def test_what_was_started_is_stopped_when_the_start_fails() -> None:
    class Stubborn(FakeEngine):
        closed = False

        async def start(self) -> None:
            raise StartupError("No.")

        async def close(self) -> None:
            self.closed = True

    engine = Stubborn(options())
    with pytest.raises(StartupError, match="No"):
        async with serving(engine=engine):
            pass
    assert engine.closed


def test_openapi_is_the_checked_in_promise(root: Path) -> None:
    promised = json.loads((root / "openapi.json").read_text())
    live = json.loads(json.dumps(build_app(settings_for()).openapi()))
    assert live["paths"] == promised["paths"]
    assert live["components"] == promised["components"]
    assert live == promised


def test_openapi_describes_errors_and_streams() -> None:
    schema = build_app(settings_for()).openapi()
    assert "text/event-stream" in schema["paths"]["/rationale"]["post"]["responses"]["200"]["content"]
    for methods in schema["paths"].values():
        for operation in methods.values():
            error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorReply"}
            assert "422" not in operation["responses"]

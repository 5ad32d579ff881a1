"""What is not a good request gets a documented status and an answer that repeats nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from tests.support.replies import SECRET, check_error
from tests.support.serving import BODIES, PAIR, ROUTES, Api, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api():  # type: ignore[no-untyped-def]
    async with serving() as running:
        yield running


def with_field(route: str, path: list[str | int], value: Any) -> dict[str, Any]:
    """The route's good body with one field replaced or added."""
    body: dict[str, Any] = json.loads(json.dumps(BODIES[route]))
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


TEXT_FIELDS: list[tuple[str, list[str | int]]] = [
    ("/compare", ["prompt"]),
    ("/compare", ["response_a"]),
    ("/compare", ["response_b"]),
    ("/rank", ["prompt"]),
    ("/rank", ["responses", 1]),
    ("/rationale", ["prompt"]),
    ("/rationale", ["response_b"]),
    ("/score", ["items", 0, "prompt"]),
    ("/score", ["items", 0, "response"]),
    ("/score", ["items", 0, "reference"]),
]
BAD_TEXTS: dict[str, Any] = {
    "empty": "",
    "spaces": "  \t\n ",
    "no-break spaces": "\u00a0\u3000\u2028",
    "zero width": "\u200b\u200d\ufeff",
    "lone surrogate": f"{SECRET} \ud800",
    "reversed pair": "\udc00\ud800",
    "too long": "x" * (256 * 1024 + 1),
    "number": 7,
    "NaN": float("nan"),
    "boolean": True,
    "null": None,
    "object": {"text": "x"},
    "nested list": [["x"]],
}


@pytest.mark.parametrize("name", BAD_TEXTS)
async def test_bad_texts(api: Api, name: str) -> None:
    for route, path in TEXT_FIELDS:
        if path[-1] == "reference" and name == "null":
            continue  # an absent reference: another mode, tested with the modes
        reply = await api.send(route, json.dumps(with_field(route, path, BAD_TEXTS[name])).encode())
        assert reply.status_code == 422, (route, path, reply.text[:300])
        (first, *_) = check_error(reply)["details"]["errors"]
        assert str(path[0]) in first["field"]


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\u202eabc", "\U000e0041x", "e" + "\u0301" * 500, "\x7f\x80", "{prompt} {response_a}"]
)
async def test_strange_texts_are_judged(api: Api, text: str) -> None:
    for route, path in TEXT_FIELDS:
        reply = await api.post(route, with_field(route, path, text))
        assert reply.status_code == 200, (route, path, reply.text)


NUMBERS: list[tuple[str, list[str | int]]] = [
    ("/compare", ["votes"]),
    ("/rationale", ["votes"]),
    ("/rank", ["max_comparisons"]),
    ("/rank", ["top_k"]),
    ("/score", ["normalize", "scale"]),
    ("/score", ["normalize", "clip"]),
    ("/score", ["normalize", "window"]),
    ("/score", ["normalize", "min_count"]),
]


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', '"1"', "true", "-1", "0", "[1]", "{}"]
)
async def test_bad_numbers(api: Api, value: str) -> None:
    for route, path in NUMBERS:
        if path[0] == "normalize":
            body = with_field(route, ["normalize"], {"queue": "never", path[1]: "@"})
        else:
            body = with_field(route, path, "@")
        reply = await api.send(route, json.dumps(body).replace('"@"', value).encode())
        assert reply.status_code == 422, (route, path, reply.text)
        check_error(reply)
    assert "never" not in (await api.client.get("/queues")).text


@pytest.mark.parametrize("route", ROUTES)
async def test_unknown_fields_are_errors(api: Api, route: str) -> None:
    for body in (with_field(route, ["temperature"], 0.5), with_field(route, ["logprobs"], 20)):
        (error,) = check_error(await api.post(route, body))["details"]["errors"]
        assert error["code"] == "extra_forbidden"
    nested = with_field("/compare", ["prompt"], [{"role": "user", "content": "x", "name": SECRET}])
    assert (await api.post("/compare", nested)).status_code == 422


@pytest.mark.parametrize("role", ["", "User", "root", "assistant<|im_end|>", "developer", None, 1])
async def test_roles_are_known_words(api: Api, role: Any) -> None:
    reply = await api.post("/compare", PAIR | {"prompt": [{"role": role, "content": "x"}]})
    assert reply.status_code == 422


@pytest.mark.parametrize("prompt", [[], [{}], [{"role": "user"}], [1], [{"role": "user", "content": ["x"]}]])
async def test_conversations_have_messages(api: Api, prompt: Any) -> None:
    assert (await api.post("/compare", PAIR | {"prompt": prompt})).status_code == 422


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("judge", ["nobody", "GRAM", "../etc/passwd", SECRET, "\u0661"])
async def test_an_unknown_judge_is_404(api: Api, route: str, judge: str) -> None:
    reply = await api.post(route, with_field(route, ["judge"], judge))
    assert reply.status_code == 404
    assert check_error(reply)["code"] == "unknown_judge"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "x", "a/json"],
)
async def test_other_media_types_are_415(api: Api, route: str, content_type: str) -> None:
    reply = await api.send(route, json.dumps(BODIES[route]).encode(), content_type)
    assert reply.status_code == 415
    check_error(reply)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_without_media_type_is_415(api: Api, route: str) -> None:
    reply = await api.client.post(route, content=json.dumps(BODIES[route]).encode())
    assert "content-type" not in reply.request.headers
    assert reply.status_code == 415


async def test_media_type_parameters_are_fine(api: Api) -> None:
    reply = await api.send("/compare", json.dumps(PAIR).encode(), "Application/JSON; charset=utf-8")
    assert reply.status_code == 200


@pytest.mark.parametrize("header", ["", "0", "-1", "1.5", "abc", "600001", "9" * 30, "nan", "1e3", "\u0661"])
async def test_bad_deadlines_are_422(api: Api, header: str) -> None:
    for route in ROUTES:
        body = json.dumps(BODIES[route]).encode()
        headers = {"X-Deadline-Ms": header.encode(), "Content-Type": "application/json"}
        reply = await api.client.post(route, content=body, headers=headers)  # type: ignore[arg-type]
        assert reply.status_code == 422
        check_error(reply)


async def test_all_problems_are_named_at_once(api: Api) -> None:
    error = check_error(await api.post("/compare", {"prompt": "", "response_a": 1, "votes": 99}))
    fields = {problem["field"] for problem in error["details"]["errors"]}
    assert fields == {"body.prompt", "body.response_a", "body.response_b", "body.votes"}


async def test_places_in_batches_are_named(api: Api) -> None:
    error = check_error(await api.post("/compare", {"items": [PAIR, PAIR | {"response_b": " "}]}))
    assert [problem["field"] for problem in error["details"]["errors"]] == ["body.items[1].response_b"]
    item, group = {"prompt": "p", "response": "a", "reference": "b"}, {"prompt": "p", "responses": ["a", "b"]}
    error = check_error(await api.post("/score", {"items": [item, item | {"response": ""}]}))
    assert [problem["field"] for problem in error["details"]["errors"]] == ["body.items[1].response"]
    error = check_error(await api.post("/score", {"groups": [group | {"responses": ["a", ""]}]}))
    assert [problem["field"] for problem in error["details"]["errors"]] == ["body.groups[0].responses[1]"]


@pytest.mark.parametrize(
    "path", ["/", "/compare/", "//compare", "/Compare", "/queues/", "/v1/compare", "/%2e%2e/x", "/a\0"]
)
async def test_unknown_paths_are_404(api: Api, path: str) -> None:
    reply = await api.client.post(path.replace("\0", "%00"), json=PAIR)
    assert reply.status_code == 404
    check_error(reply)


@pytest.mark.parametrize("name", ["x" * 129, "a b", "%00", "-x", "\u00e9", "a%2Fb"])
async def test_bad_queue_names(api: Api, name: str) -> None:
    for reply in (await api.client.get(f"/queues/{name}"), await api.client.delete(f"/queues/{name}")):
        assert reply.status_code in (404, 422)
        check_error(reply)


async def test_a_request_id_is_kept_only_if_harmless(api: Api) -> None:
    kept = await api.post("/compare", PAIR, **{"X-Request-Id": "train-7.step_3"})
    assert kept.headers["x-request-id"] == "train-7.step_3"
    for bad in ("x" * 65, "a b", '"quoted"', ""):
        reply = await api.post("/compare", PAIR, **{"X-Request-Id": bad})
        assert reply.headers["x-request-id"] != bad


async def test_many_errors_give_a_short_reply(api: Api) -> None:
    reply = await api.post("/compare", {"items": [{"prompt": 1}] * 4000})
    assert reply.status_code == 422
    assert len(check_error(reply)["details"]["errors"]) == 10

"""The running service as judge: the numbers it gave, what is asked again and what is not, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.engines.fake import FakeEngine
from service.types import Comparison, Prompt, Response, Verdict
from tests.support.evaluation import items_of
from tests.support.serving import options, serving
from training.data.pairs import Pair
from training.evaluation.items import Failure
from training.evaluation.judges import http
from training.evaluation.judges.base import EvaluationError
from training.evaluation.judges.checkpoint import CheckpointJudge
from training.evaluation.judges.http import ServiceJudge

MODEL = {"name": "gram", "weight_version": "v1", "template_hash": "t1", "default": True}
VERSION = {"judge": "gram", "weight_version": "v1", "template_hash": "t1"}


def _pairs(count: int, **changes: str) -> list[Pair]:
    rows = [
        {"id": str(i), "prompt": f"{i}?", "response_a": f"a{i}", "response_b": f"b{i}", "label": "a"}
        for i in range(count)
    ]
    return [item.pair for item in items_of("pairs", [{**row, **changes} for row in rows])]


# --- the real application --------------------------------------------------------------------------------------------


async def test_a_service_and_a_checkpoint_are_one_judge() -> None:
    """The same engine asked over HTTP and in process: the same version, the same bits."""
    pairs = [*_pairs(5), *_pairs(1, response_a="same", response_b="same")]
    async with serving() as api:
        over_http = await ServiceJudge.connect(api.client)
        scorer = api.app.state.service.scorer
        inside = CheckpointJudge(scorer, scorer.judge("gram"), 1)
        assert over_http.version == inside.version
        assert (over_http.name, len(pairs)) == ("gram", 6)
        one, other = await over_http.judge(pairs), await inside.judge(pairs)
    shown = [(v.p_first, v.margin, v.p_ab, v.p_ba, v.consistent, v.label_mass) for v in one if isinstance(v, Verdict)]
    assert shown == [
        (v.p_first, v.margin, v.p_ab, v.p_ba, v.consistent, v.label_mass) for v in other if isinstance(v, Verdict)
    ]
    assert len(shown) == 6


async def test_what_cannot_be_judged_is_its_rows_failure() -> None:
    pairs = _pairs(6)
    pairs[1] = _pairs(1, response_a=" \u200b")[0]
    pairs[3] = _pairs(1, response_b="word " * 20_000)[0]
    pairs[4] = _pairs(1, prompt="\ud800")[0]
    async with serving() as api:
        found = await (await ServiceJudge.connect(api.client)).judge(pairs)
    codes = [outcome.code if isinstance(outcome, Failure) else "ok" for outcome in found]
    assert codes == ["ok", "invalid_input", "ok", "token_limit", "invalid_input", "ok"]


async def test_a_judge_that_fails_every_item_is_counted() -> None:
    async with serving(engine=FakeEngine(options(fault="nan"))) as api:
        found = await (await ServiceJudge.connect(api.client)).judge(_pairs(3))
    assert [getattr(outcome, "code", "") for outcome in found] == ["non_finite_score"] * 3


async def test_an_unknown_judge_is_named_with_those_there_are() -> None:
    async with serving() as api:
        with pytest.raises(EvaluationError, match="has no judge nobody; it has gram, gram_r2, rm_r1, scalar"):
            await ServiceJudge.connect(api.client, "nobody")


async def test_a_dead_engine_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    engine = FakeEngine(options())
    async with serving(engine=engine) as api:
        judge = await ServiceJudge.connect(api.client)
        engine.die()
        with pytest.raises(EvaluationError, match="start again to go on"):
            await judge.judge(_pairs(2))


# --- a service that misbehaves ---------------------------------------------------------------------------------------

Answer = Callable[[dict[str, Any]], httpx.Response]


def _good(body: dict[str, Any]) -> httpx.Response:
    row = {"status": "ok", "p_first": 0.75, "margin": 1.0, "p_ab": 0.8, "p_ba": 0.3, "consistent": True}
    results = [{**row, "label_mass": 0.99} for _ in body["items"]]
    return httpx.Response(200, json={"results": results, "judge_version": VERSION})


def _error(status: int, code: str = "x", message: str = "no") -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": message}})


async def _judge(answer: Answer, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[int]]:
    """The outcomes, and the sizes of the requests that came."""
    monkeypatch.setattr(http, "FIRST_PAUSE_S", 0.0)
    sizes: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/models":
            return httpx.Response(200, json={"engine": "vllm", "dtype": "float32", "judges": [MODEL]})
        body = json.loads(request.content)
        sizes.append(len(body["items"]))
        return answer(body)

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://service") as client:
        return await (await ServiceJudge.connect(client)).judge(pairs), sizes


async def test_a_service_that_says_later_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[httpx.Response | Exception | None] = [_error(503), httpx.ConnectError("gone"), None]

    def answer(body: dict[str, Any]) -> httpx.Response:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply or _good(body)

    found, sizes = await _judge(answer, _pairs(3), monkeypatch)
    assert [outcome.p_first for outcome in found] == [0.75] * 3
    assert sizes == [3, 3, 3]


async def test_it_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match=r"did not answer 6 times \(503 busy\)"):
        await _judge(lambda body: _error(503, "overloaded", "busy"), _pairs(1), monkeypatch)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_refusal_ends_the_evaluation(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match=f"refused to judge: {status} no"):
        await _judge(lambda body: _error(status), _pairs(1), monkeypatch)


@pytest.mark.parametrize("status", [413, 422, 504])
async def test_one_bad_pair_does_not_spoil_its_batch(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any]) -> httpx.Response:
        return _error(status, "bad") if any(item["prompt"] == "5?" for item in body["items"]) else _good(body)

    found, sizes = await _judge(answer, _pairs(8), monkeypatch)
    assert [isinstance(outcome, Failure) for outcome in found] == [i == 5 for i in range(8)]
    assert sizes == [8, 4, 4, 2, 1, 1, 2]


async def test_a_failed_judgment_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the service calls it retryable: a judge must not be counted by its lucky tries."""
    error = {"code": "invalid_verdict", "message": "no verdict", "retryable": True}

    def answer(body: dict[str, Any]) -> httpx.Response:
        results = [{"status": "failed", "error": error} for _ in body["items"]]
        return httpx.Response(200, json={"results": results, "judge_version": VERSION})

    found, sizes = await _judge(answer, _pairs(2), monkeypatch)
    assert [outcome.code for outcome in found] == ["invalid_verdict"] * 2
    assert sizes == [2]


async def test_a_judge_that_changes_meanwhile_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any]) -> httpx.Response:
        reply = _good(body).json()
        return httpx.Response(200, json={**reply, "judge_version": {**VERSION, "weight_version": "v2"}})

    with pytest.raises(EvaluationError, match="changed during the evaluation"):
        await _judge(answer, _pairs(1), monkeypatch)


async def test_no_service_is_one_sentence() -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as client:
        with pytest.raises(EvaluationError, match=r"No service answers at http://127\.0\.0\.1:9"):
            await ServiceJudge.connect(client)


def test_the_pair_shown_is_the_pair_meant() -> None:
    (pair,) = _pairs(1)
    texts = (pair.response_a, pair.response_b)
    assert pair.comparison == Comparison(Prompt.from_text("0?"), *map(Response, texts))

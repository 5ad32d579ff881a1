"""Best-of-n in the shape of Jina's and Cohere's rerankers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.support.serving import Api, options, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUERY, DOCUMENTS = "What is 7 + 5?", ["13", "12", "twelve", "no idea"]


async def rerank(api: Api, path: str = "/rerank", **more: Any) -> dict[str, Any]:
    reply = await api.post(path, {"model": "any-reranker", "query": QUERY, "documents": DOCUMENTS, **more})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_responses_come_best_first_with_ranks_scores(api: Api, path: str) -> None:
    found = await rerank(api, path)
    ranked = (await api.post("/rank", {"prompt": QUERY, "responses": DOCUMENTS})).json()
    assert [result["index"] for result in found["results"]] == ranked["ranking"]
    scores = {result["index"]: result["score"] for result in ranked["results"]}
    assert {result["index"]: result["relevance_score"] for result in found["results"]} == scores
    assert [result["document"]["text"] for result in found["results"]] == [DOCUMENTS[i] for i in ranked["ranking"]]
    assert found["model"] == "gram"
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] > 0
    assert found["id"].startswith("rerank-")


async def test_top_n_and_documents(api: Api) -> None:
    whole = await rerank(api)
    found = await rerank(api, top_n=2, return_documents=False, documents=[{"text": text} for text in DOCUMENTS])
    assert [(r["index"], r["relevance_score"]) for r in found["results"]] == [
        (r["index"], r["relevance_score"]) for r in whole["results"][:2]
    ]
    assert all(result["document"] is None for result in found["results"])
    assert len((await rerank(api, top_n=99))["results"]) == len(DOCUMENTS)


async def test_one_response_is_the_best(api: Api) -> None:
    (result,) = (await rerank(api, documents=["12"]))["results"]
    assert (result["index"], result["relevance_score"]) == (0, 0.5)


async def test_a_scalar_judge_is_chosen_by_name(api: Api) -> None:
    found = await rerank(api, model="scalar")
    items = [{"prompt": QUERY, "response": text} for text in DOCUMENTS]
    rows = (await api.post("/score", {"judge": "scalar", "items": items})).json()["results"]
    expected = {index: 1 / (1 + math.exp(-row["score"])) for index, row in enumerate(rows)}
    assert {r["index"]: r["relevance_score"] for r in found["results"]} == pytest.approx(expected)
    assert [r["index"] for r in found["results"]] == sorted(expected, key=lambda index: -expected[index])


@pytest.mark.parametrize("judge", ["gram", "scalar"])
async def test_a_failure_is_an_error_and_no_number(api: Api, judge: str) -> None:
    api.engine.options = options(fault="nan")
    reply = await api.post("/rerank", {"model": judge, "query": QUERY, "documents": DOCUMENTS})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "non_finite_score")


@pytest.mark.parametrize(
    "wrong", [{"documents": []}, {"documents": ["x"] * 65}, {"documents": [""]}, {"query": " "}, {"top_n": 0}]
)
async def test_what_cannot_be_ranked_is_refused(api: Api, wrong: dict[str, Any]) -> None:
    assert (await api.post("/rerank", {"query": QUERY, "documents": DOCUMENTS} | wrong)).status_code == 422


async def test_a_dead_engine_is_an_error() -> None:
    async with serving() as api:
        api.engine.die()
        reply = await api.post("/rerank", {"query": QUERY, "documents": DOCUMENTS})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")

from __future__ import annotations

from typing import Any

import pytest

from service.line import Cost
from tests.support.serving import Api, options

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "Name a prime."


def body(n: int, **more: object) -> dict[str, object]:
    return {"prompt": PROMPT, "responses": [f"answer number {i}" for i in range(n)], **more}


@pytest.mark.parametrize("method", ["auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive"])
@pytest.mark.parametrize("goal", [{"goal": "order"}, {"goal": "best"}, {"goal": "top_k", "top_k": 2}])
@pytest.mark.parametrize("n", [2, 5, 12])
async def test_every_plan_ranks_everyone(api: Api, method: str, goal: dict[str, object], n: int) -> None:
    api.engine.calls = 0
    reply = await api.post("/rank", body(n, method=method, **goal))
    result = reply.json()
    assert reply.status_code == 200
    assert sorted(result["ranking"]) == list(range(n))
    assert result["best"] == result["ranking"][0]
    assert [result["ranking"][row["rank"]] for row in result["results"]] == [row["index"] for row in result["results"]]
    assert result["usage"]["comparisons"] == result["comparisons"]
    assert api.engine.calls == 2 * result["comparisons"]


@pytest.mark.parametrize("method", ["auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive"])
@pytest.mark.parametrize("goal", [{"goal": "order"}, {"goal": "best"}, {"goal": "top_k", "top_k": 5}])
@pytest.mark.parametrize("n", [1, 2, 3, 9, 20])
async def test_admission_counts_at_least_what_a_plan_asks(
    api: Api, method: str, goal: dict[str, object], n: int
) -> None:
    """Never fewer prompts held than the engine is asked at once."""
    goal = goal | {"top_k": min(5, n)} if goal["goal"] == "top_k" else goal
    counted: list[int] = []
    original = api.admission.room

    def counting(cost: Cost, *rest: Any):  # type: ignore[no-untyped-def]
        counted.append(cost.prompts)
        return original(cost, *rest)

    api.admission.room = counting  # type: ignore[method-assign]
    try:
        result = (await api.post("/rank", body(n, method=method, **goal))).json()
    finally:
        del api.admission.room  # type: ignore[method-assign]
    assert counted[0] >= 2 * result["comparisons"]


async def test_one_response_is_best_without_being_judged(api: Api) -> None:
    before = api.engine.calls
    result = (await api.post("/rank", body(1))).json()
    assert (result["ranking"], result["best"], result["comparisons"]) == ([0], 0, 0)
    assert api.engine.calls == before


async def test_all_pairs_has_strengths_and_a_full_matrix(api: Api) -> None:
    result = (await api.post("/rank", body(4, method="all_pairs"))).json()
    matrix = result["win_matrix"]
    assert all(row["strength"] is not None and row["stderr"] > 0 for row in result["results"])
    for i in range(4):
        assert matrix[i][i] is None
        for j in range(i):
            assert matrix[i][j] == 1 - matrix[j][i]
        assert result["results"][i]["score"] == pytest.approx(sum(p for p in matrix[i] if p is not None) / 3)


async def test_input_order_changes_no_scores(api: Api) -> None:
    one = (await api.post("/rank", body(5, method="all_pairs"))).json()
    turned = {"prompt": PROMPT, "responses": [f"answer number {i}" for i in reversed(range(5))], "method": "all_pairs"}
    other = (await api.post("/rank", turned)).json()
    scores = {row["index"]: row["score"] for row in one["results"]}
    assert {4 - row["index"]: row["score"] for row in other["results"]} == pytest.approx(scores, abs=1e-12)


async def test_a_budget_stops_the_plan(api: Api) -> None:
    result = (await api.post("/rank", body(6, method="all_pairs", max_comparisons=4))).json()
    assert (result["comparisons"], result["stopped"]) == (4, "budget")


async def test_adaptive_says_how_sure_it_is(api: Api) -> None:
    result = (await api.post("/rank", body(16, method="adaptive", goal="best", confidence=0.9))).json()
    assert result["comparisons"] < 120
    assert result["stopped"] == "decided"
    assert all(row["strength"] is not None and row["stderr"] > 0 for row in result["results"])


async def test_adaptive_keeps_its_budget(api: Api) -> None:
    result = (await api.post("/rank", body(16, method="adaptive", max_comparisons=20))).json()
    assert (result["comparisons"], result["stopped"]) == (20, "budget")


async def test_a_failed_comparison_fails_the_ranking(api: Api) -> None:
    api.engine.options = options(fault="nan")
    reply = await api.post("/rank", body(3))
    assert reply.status_code == 502


@pytest.mark.parametrize(
    "wrong",
    [
        {"goal": "top_k"},
        {"top_k": 2},
        {"goal": "top_k", "top_k": 4},
        {"method": "comparator_sort"},
        {"confidence": 1.0},
        {"confidence": 0.5},
        {"confidence": "0.9"},
        {"responses": []},
        {"responses": ["x"] * 65},
        {"responses": ["x", " "]},
        {"max_comparisons": 0},
    ],
)
async def test_options_that_do_not_fit_are_refused(api: Api, wrong: dict[str, object]) -> None:
    reply = await api.post("/rank", body(3) | wrong)
    assert reply.status_code == 422

from __future__ import annotations

import asyncio
import itertools
import statistics
from typing import Any

import pytest

from service.errors import StoreUnavailable
from service.stores.memory import MemoryStore
from tests.service.routes.test_compare import nan_for
from tests.support.failure_properties import a_failed_row_has_no_numbers_and_enters_no_window
from tests.support.serving import Api, options, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

_names = (f"run-{i}" for i in itertools.count())


def reference_items(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{i}", "prompt": f"Question {i}", "response": f"answer {i}", "reference": f"reference {i}"}
        for i in range(start, start + n)
    ]


def groups(n: int, size: int) -> list[dict[str, Any]]:
    return [
        {"id": f"g{g}", "prompt": f"Task {g}", "responses": [f"try {i} of {g}" for i in range(size)]} for g in range(n)
    ]


def normalize(**more: Any) -> dict[str, Any]:
    return {"queue": next(_names), "min_count": 2, **more}


async def test_references_score_as_compare_does(api: Api) -> None:
    (item,) = reference_items(1)
    row = (await api.post("/score", {"items": [item]})).json()["results"][0]
    pair = {"prompt": item["prompt"], "response_a": item["response"], "response_b": item["reference"]}
    verdict = (await api.post("/compare", pair)).json()
    assert (row["id"], row["score"], row["margin"]) == ("r0", verdict["p_first"], verdict["margin"])
    assert row["reward"] == row["score"]
    assert row["clipped"] is False


async def test_groups_score_by_mean_win_probability(api: Api) -> None:
    (group,) = groups(1, 4)
    reply = (await api.post("/score", {"groups": [group]})).json()
    ranked = await api.post(
        "/rank", {"prompt": group["prompt"], "responses": group["responses"], "method": "all_pairs"}
    )
    assert [row["score"] for row in reply["results"]] == [row["score"] for row in ranked.json()["results"]]
    assert reply["usage"]["comparisons"] == 6
    assert sum(row["score"] for row in reply["results"]) == pytest.approx(2.0)


async def test_rows_are_flat_and_in_request_order(api: Api) -> None:
    body = {"groups": [*groups(2, 3), {"prompt": "Other", "responses": ["x", "y"]}]}
    rows = (await api.post("/score", body)).json()["results"]
    places = [(row["id"], row["group"], row["index"]) for row in rows]
    assert places == [*(("g0", 0, i) for i in range(3)), *(("g1", 1, i) for i in range(3)), (None, 2, 0), (None, 2, 1)]


async def test_swiss_asks_n_log_n_pairs(api: Api) -> None:
    reply = (await api.post("/score", {"groups": groups(1, 16), "method": "swiss"})).json()
    assert reply["usage"]["comparisons"] <= 40
    assert len(reply["results"]) == 16
    assert all(row["status"] == "ok" for row in reply["results"])
    assert sum(row["score"] for row in reply["results"]) / 16 == pytest.approx(0.5, abs=1e-12)


async def test_pivot_asks_n_minus_one_pairs(api: Api) -> None:
    reply = (await api.post("/score", {"groups": groups(1, 8), "method": "pivot"})).json()
    assert reply["usage"]["comparisons"] == 7
    assert reply["results"][0]["score"] == 0.5


async def test_scalar_judges_score_single_responses(api: Api) -> None:
    items = [{"prompt": f"Question {i}", "response": "answer"} for i in range(3)]
    for body in ({"items": items}, {"items": items, "judge": "scalar"}):
        reply = (await api.post("/score", body)).json()
        assert reply["judge_version"]["judge"] == "scalar"
        assert all(row["status"] == "ok" and row["margin"] is None for row in reply["results"])


async def test_a_pairwise_judge_says_that_it_needs_a_reference(api: Api) -> None:
    reply = await api.post("/score", {"judge": "gram", "items": [{"prompt": "Q", "response": "A"}]})
    assert reply.status_code == 422
    assert "reference" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"items": []},
        {"groups": []},
        {"items": reference_items(1), "groups": groups(1, 2)},
        {"items": [*reference_items(1), {"prompt": "Q", "response": "A"}]},
        {"groups": groups(1, 1)},
        {"groups": groups(1, 65)},
        {"groups": groups(1, 2), "method": "knockout"},
        {"items": reference_items(1), "method": "pivot"},
        {"items": [reference_items(1)[0] | {"cohort": {"group_id": "g", "size": 2, "index": 0}}]},
        {"items": reference_items(1), "normalize": {"queue": "q" * 129}},
        {"items": reference_items(1), "normalize": {"queue": ""}},
        {"items": reference_items(1), "normalize": {"queue": "a b"}},
        {"items": reference_items(1), "normalize": {}},
        {"items": reference_items(1), "normalize": {"queue": "q", "window": 0}},
        {"items": reference_items(1), "normalize": {"queue": "q", "scale": 0}},
        {"items": reference_items(1), "normalize": {"queue": "q", "clip": -1}},
    ],
)
async def test_exactly_one_mode_with_sane_options(api: Api, wrong: dict[str, Any]) -> None:
    reply = await api.post("/score", wrong)
    assert reply.status_code == 422, reply.text
    assert not [q for q in (await api.client.get("/queues")).json()["queues"] if q["name"] == "q"]


async def test_rewards_use_the_window_after_the_commit(api: Api) -> None:
    wanted = normalize(scale=10.0)
    reply = (await api.post("/score", {"items": reference_items(5), "normalize": wanted})).json()
    scores = [row["score"] for row in reply["results"]]
    mean, std = statistics.fmean(scores), statistics.pstdev(scores)
    assert [row["reward"] for row in reply["results"]] == pytest.approx([10 * (s - mean) / std for s in scores])
    queue = reply["queue"]
    assert (queue["seq_first"], queue["seq_last"], queue["count"]) == (1, 5, 5)
    assert (queue["mean"], queue["std"]) == pytest.approx((mean, std))
    assert queue["normalized"] is True
    second = (await api.post("/score", {"items": reference_items(3, 5), "normalize": wanted})).json()["queue"]
    assert (second["seq_first"], second["seq_last"], second["count"]) == (6, 8, 8)
    assert second["epoch"] == queue["epoch"]


async def test_a_young_window_gives_scores(api: Api) -> None:
    reply = (await api.post("/score", {"items": reference_items(3), "normalize": {"queue": next(_names)}})).json()
    assert reply["queue"]["normalized"] is False
    assert all(row["reward"] == row["score"] for row in reply["results"])


async def test_a_constant_window_is_degenerate(api: Api) -> None:
    same = [{"prompt": "Q", "response": "x", "reference": "x"}] * 4
    reply = (await api.post("/score", {"items": same, "normalize": normalize()})).json()
    assert [row["reward"] for row in reply["results"]] == [0.0] * 4
    assert reply["queue"]["degenerate"] is True


async def test_clipping_is_said(api: Api) -> None:
    wanted = normalize(clip=0.5, scale=2.0)
    rows = (await api.post("/score", {"items": reference_items(12), "normalize": wanted})).json()["results"]
    assert any(row["clipped"] for row in rows)
    assert all(abs(row["reward"]) == 1.0 for row in rows if row["clipped"])


async def test_update_false_reads_and_writes_nothing(api: Api) -> None:
    wanted = normalize()
    first = (await api.post("/score", {"items": reference_items(6), "normalize": wanted})).json()["queue"]
    reply = await api.post("/score", {"items": reference_items(2, 6), "normalize": wanted | {"update": False}})
    read = reply.json()["queue"]
    assert (read["mean"], read["std"], read["count"]) == (first["mean"], first["std"], 6)
    assert (read["seq_first"], read["seq_last"]) == (None, None)
    (queue,) = (await api.client.get(f"/queues/{wanted['queue']}")).json()["queues"]
    assert queue["seq_last"] == 6


async def test_reading_a_queue_that_is_not_there_gives_scores(api: Api) -> None:
    wanted = normalize(update=False)
    reply = (await api.post("/score", {"items": reference_items(2), "normalize": wanted})).json()
    assert reply["queue"]["epoch"] is None
    assert reply["queue"]["normalized"] is False
    assert (await api.client.get(f"/queues/{wanted['queue']}")).status_code == 404


@pytest.mark.parametrize("update", [True, False])
async def test_another_window_conflicts(api: Api, update: bool) -> None:
    wanted = normalize(window=50)
    await api.post("/score", {"items": reference_items(2), "normalize": wanted})
    body = {"items": reference_items(2), "normalize": wanted | {"window": 60, "update": update}}
    reply = await api.post("/score", body)
    assert reply.status_code == 409
    assert reply.json()["error"]["details"] == {"window": 50}


async def test_kinds_of_score_never_share_a_window(api: Api) -> None:
    wanted = normalize()
    await api.post("/score", {"items": reference_items(2), "normalize": wanted})
    await api.post("/score", {"groups": groups(1, 2), "normalize": wanted})
    await api.post("/score", {"items": [{"prompt": "Q", "response": "A"}], "normalize": wanted})
    queues = (await api.client.get(f"/queues/{wanted['queue']}")).json()["queues"]
    assert {queue["score_kind"] for queue in queues} == {"reference", "group", "single"}


async def test_a_failed_row_has_no_numbers_and_enters_no_window(api: Api) -> None:
    await a_failed_row_has_no_numbers_and_enters_no_window(api, next(_names))


async def test_a_failed_comparison_fails_its_group_whole(api: Api) -> None:
    api.engine.options = options(fault=nan_for("try 1 of 0"))
    rows = (await api.post("/score", {"groups": groups(2, 3), "normalize": normalize()})).json()["results"]
    assert [row["status"] for row in rows] == ["failed"] * 3 + ["ok"] * 3
    assert all(row["score"] is None and row["reward"] is None for row in rows[:3])


async def test_nothing_but_failures_commits_nothing(api: Api) -> None:
    api.engine.options = options(fault="nan")
    wanted = normalize()
    reply = await api.post("/score", {"items": reference_items(2), "normalize": wanted})
    assert reply.status_code == 200
    assert reply.json()["queue"]["seq_first"] is None
    assert (await api.client.get(f"/queues/{wanted['queue']}")).status_code == 404


async def test_a_keyed_request_counts_once(api: Api) -> None:
    wanted, calls = normalize(), api.engine.calls
    body = {"items": reference_items(4), "normalize": wanted}
    first = await api.post("/score", body, **{"Idempotency-Key": wanted["queue"]})
    asked = api.engine.calls
    again = [await api.post("/score", body, **{"Idempotency-Key": wanted["queue"]}) for _ in range(3)]
    assert asked > calls
    assert api.engine.calls == asked
    assert {reply.content for reply in again} == {first.content}
    (queue,) = (await api.client.get(f"/queues/{wanted['queue']}")).json()["queues"]
    assert queue["seq_last"] == 4


async def test_a_key_with_another_body_conflicts(api: Api) -> None:
    key = next(_names)
    await api.post("/score", {"items": reference_items(1)}, **{"Idempotency-Key": key})
    reply = await api.post("/score", {"items": reference_items(2)}, **{"Idempotency-Key": key})
    assert reply.status_code == 409
    assert reply.json()["error"]["retryable"] is False


@pytest.mark.parametrize("key", ["", "x" * 256, "white space", "caf\u00e9"])
async def test_a_key_is_short_and_printable(api: Api, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1"), "Content-Type": "application/json"}
    reply = await api.client.post("/score", content=b'{"items": []}', headers=headers)  # type: ignore[arg-type]
    assert reply.status_code == 422


async def test_concurrent_duplicates_join_the_first(api: Api) -> None:
    wanted = normalize()
    api.engine.options = options(delay_s=0.05)
    before = api.engine.calls
    body = {"items": reference_items(3), "normalize": wanted}
    replies = await asyncio.gather(
        *(api.post("/score", body, **{"Idempotency-Key": wanted["queue"]}) for _ in range(8))
    )
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert api.engine.calls == before + 6
    (queue,) = (await api.client.get(f"/queues/{wanted['queue']}")).json()["queues"]
    assert queue["seq_last"] == 3


async def test_a_duplicate_takes_over_when_the_first_fails(api: Api) -> None:
    wanted = normalize()
    body = {"items": reference_items(2), "normalize": wanted}
    api.engine.options = options(delay_s=0.3)
    first = asyncio.create_task(api.post("/score", body, **{"Idempotency-Key": wanted["queue"], "X-Deadline-Ms": "50"}))
    await asyncio.sleep(0.01)
    second = await api.post("/score", body, **{"Idempotency-Key": wanted["queue"]})
    assert (await first).status_code == 504
    assert second.status_code == 200
    (queue,) = (await api.client.get(f"/queues/{wanted['queue']}")).json()["queues"]
    assert queue["seq_last"] == 2


async def test_failed_requests_are_not_remembered(api: Api) -> None:
    wanted = normalize(window=50)
    await api.post("/score", {"items": reference_items(2), "normalize": wanted})
    key = {"Idempotency-Key": wanted["queue"]}
    other = {"items": reference_items(2), "normalize": wanted | {"window": 60}}
    assert (await api.post("/score", other, **key)).status_code == 409
    fixed = {"items": reference_items(2), "normalize": wanted}
    assert (await api.post("/score", fixed, **key)).status_code == 200


class Flaky(MemoryStore):
    """A store that loses the connection at a chosen step."""

    broken: str | None = None

    async def commit(self, *args: Any, **named: Any) -> Any:
        if self.broken == "before commit":
            raise StoreUnavailable("The store is away.")
        return await super().commit(*args, **named)

    async def finish(self, *args: Any, **named: Any) -> Any:
        if self.broken == "after commit":
            raise StoreUnavailable("The store is away.")
        return await super().finish(*args, **named)


@pytest.mark.parametrize(("broken", "counted"), [("before commit", 0), ("after commit", 3)])
async def test_a_store_that_goes_away_is_503_and_the_retry_counts_once(broken: str, counted: int) -> None:
    store = Flaky()
    body = {"items": reference_items(3), "normalize": {"queue": "q", "min_count": 2}}
    key = {"Idempotency-Key": "k"}
    async with serving(store=store) as api:
        store.broken = broken
        reply = await api.post("/score", body, **key)
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert reply.json()["error"]["code"] == "store_unavailable"
        assert sum(queue.seq_last for queue in await store.list_queues()) == counted
        store.broken, judged = None, api.engine.calls
        api.engine.options = options(label_logits=lambda _: [3.0, 0.0])  # a second judgment would differ
        retried = (await api.post("/score", body, **key)).json()
        assert retried["queue"]["seq_last"] == 3
        if counted:
            assert api.engine.calls == judged
            plain = await api.post("/score", {"items": body["items"]})
            assert [r["score"] for r in retried["results"]] != [r["score"] for r in plain.json()["results"]]


async def test_scores_without_a_queue_need_no_store() -> None:
    store = Flaky()
    async with serving(store=store) as api:
        store.broken = "before commit"
        assert (await api.post("/score", {"items": reference_items(1)})).status_code == 200


async def test_a_dead_engine_fails_the_request_and_counts_nothing() -> None:
    async with serving() as api:
        await api.post("/score", {"items": reference_items(1), "normalize": {"queue": "q"}})
        api.engine.die()
        reply = await api.post("/score", {"items": reference_items(3), "normalize": {"queue": "q"}})
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "engine_dead"
        assert (await api.client.get("/queues/q")).json()["queues"][0]["seq_last"] == 1


async def test_sqlite_queues_survive_a_restart(tmp_path: Any) -> None:
    overrides = {"store": {"type": "sqlite", "path": str(tmp_path / "state" / "rewards.sqlite")}}
    body = {"items": reference_items(3), "normalize": {"queue": "q", "min_count": 2}}
    async with serving(overrides) as api:
        first = await api.post("/score", body, **{"Idempotency-Key": "k"})
    async with serving(overrides) as api:
        again = await api.post("/score", body, **{"Idempotency-Key": "k"})
        more = (await api.post("/score", body)).json()["queue"]
    assert again.content == first.content
    assert (more["epoch"], more["seq_first"]) == (first.json()["queue"]["epoch"], 4)

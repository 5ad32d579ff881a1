"""Cohort mode of /score on the fake engine: groups whose members arrive by themselves."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from service.auth import hash_key
from service.stores.memory import MemoryStore
from tests.support.serving import Api, options, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "What is the capital of Ireland?"
SOON_MS = 50
_names = (f"group-{i}" for i in itertools.count())


def member(group: str, index: int, size: int = 4, /, **changes: Any) -> dict[str, Any]:
    """An item; `changes` may name a field of the item or of its cohort."""
    item: dict[str, Any] = {"id": f"r{index}", "prompt": PROMPT, "response": f"answer {index}"}
    cohort: dict[str, Any] = {"group_id": group, "size": size, "index": index}
    for name, value in changes.items():
        (item if name in item else cohort)[name] = value
    return item | {"cohort": cohort}


async def send(api: Api, item: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return await api.client.post("/score", json={"items": [item], **more}, headers=headers)


async def gather(api: Api, items: Iterable[dict[str, Any]], **more: Any) -> list[httpx.Response]:
    return await asyncio.gather(*(send(api, item, **more) for item in items))


async def begun(api: Api, item: dict[str, Any], **more: Any) -> asyncio.Task[httpx.Response]:
    """A request whose member waits in its group."""
    before = waiting(api)
    task = asyncio.create_task(send(api, item, **more))
    await until(lambda: waiting(api) == before + 1)
    return task


def waiting(api: Api) -> int:
    return int(api.app.state.service.cohorts.waiting)


def outcomes(api: Api) -> dict[str, float]:
    counter = api.app.state.gate.metrics.cohorts
    return {outcome: counter.labels(outcome)._value.get() for outcome in ("complete", "partial", "failed")}


def rows(replies: Iterable[httpx.Response]) -> list[dict[str, Any]]:
    return [row for reply in replies for row in reply.json()["results"]]


async def in_one_group(api: Api, size: int, **more: Any) -> list[dict[str, Any]]:
    """The same rollouts as group mode judges them."""
    group = {"prompt": PROMPT, "responses": [f"answer {index}" for index in range(size)]}
    return rows([await api.post("/score", {"groups": [group], **more})])


async def test_members_get_the_scores_of_group_mode(api: Api) -> None:
    group, before = next(_names), outcomes(api)
    replies = await gather(api, [member(group, index) for index in (2, 0, 3, 1)])
    assert {reply.status_code for reply in replies} == {200}
    found = sorted(rows(replies), key=lambda row: row["index"])
    expected = await in_one_group(api, 4)
    for row in (*found, *expected):
        del row["id"]
    assert found == expected
    assert [row["index"] for row in rows(replies)] == [2, 0, 3, 1]
    assert sum(reply.json()["usage"]["comparisons"] for reply in replies) == 6, "counted in the reply that judged"
    assert outcomes(api) == before | {"complete": before["complete"] + 1}


async def test_one_commit_a_group_and_every_member_gets_its_numbers(api: Api) -> None:
    group, normalize = next(_names), {"queue": next(_names), "min_count": 2, "scale": 10.0}
    replies = await gather(api, [member(group, index) for index in range(4)], normalize=normalize)
    queues = [reply.json()["queue"] for reply in replies]
    assert queues == [queues[0]] * 4
    assert (queues[0]["seq_first"], queues[0]["seq_last"], queues[0]["count"]) == (1, 4, 4)
    expected = await in_one_group(api, 4, normalize=normalize | {"queue": next(_names)})
    assert [row["reward"] for row in rows(replies)] == [row["reward"] for row in expected]


async def test_a_read_only_group_writes_nothing(api: Api) -> None:
    group, name = next(_names), next(_names)
    normalize = {"queue": name, "min_count": 2, "update": False}
    (reply, _) = await gather(api, [member(group, index, 2) for index in range(2)], normalize=normalize)
    assert reply.json()["queue"]["seq_first"] is None
    assert (await api.client.get(f"/queues/{name}")).status_code == 404


async def test_a_duplicate_joins_and_gets_equal_bytes(api: Api) -> None:
    group, normalize = next(_names), {"queue": next(_names), "min_count": 2}
    first = await begun(api, member(group, 0, 2), normalize=normalize)
    second = await begun(api, member(group, 0, 2), normalize=normalize)
    last = await send(api, member(group, 1, 2), normalize=normalize)
    late = await send(api, member(group, 0, 2), normalize=normalize)
    same = [reply.json() for reply in (await first, await second, late)]
    assert same[0]["results"] == same[1]["results"] == same[2]["results"]
    assert {reply["queue"]["seq_last"] for reply in (*same, last.json())} == {2}
    assert late.json()["usage"]["comparisons"] == 0


@pytest.mark.parametrize(
    ("changes", "more", "clash"),
    [
        ({"response": "another"}, {}, "response"),
        ({"size": 3}, {}, "size"),
        ({"prompt": "Another question?"}, {}, "prompt"),
        ({"prompt": [{"role": "system", "content": PROMPT}]}, {}, "prompt"),
        ({}, {"normalize": {"queue": "another-normalize"}}, "rules"),
    ],
)
async def test_a_member_that_does_not_fit_harms_nobody(
    api: Api, changes: dict[str, Any], more: dict[str, Any], clash: str
) -> None:
    group = next(_names)
    first = await begun(api, member(group, 0, 2))
    refused = await send(api, member(group, 0, 2) | member(group, 0, 2, **changes), **more)
    assert refused.status_code == 409, refused.text
    error = refused.json()["error"]
    assert (error["code"], error["details"], error["retryable"]) == ("conflict", {"clash": clash}, False)
    last = await send(api, member(group, 1, 2))
    assert (await first).status_code == last.status_code == 200
    assert sum(row["score"] for row in rows([await first, last])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 1},
        {"size": 65},
        {"index": 2, "size": 2},
        {"index": -1},
        {"index": 64, "size": 64},
        {"index": 1.0},
        {"group_id": ""},
        {"group_id": "g" * 257},
        {"group_id": "\ud800"},
        {"attempt": -1},
        {"deadline_ms": 0},
        {"deadline_ms": 600_001},
        {"quorum": 2},
        {"response": " "},
    ],
)
async def test_the_schema_refuses_nonsense(api: Api, wrong: dict[str, Any]) -> None:
    reply = await api.send("/score", json.dumps({"items": [member("g", 0, **wrong)]}).encode())
    assert reply.status_code == 422, reply.text
    assert waiting(api) == 0


@pytest.mark.parametrize(
    "items",
    [
        [member("g", 0) | {"reference": "x"}],
        [member("g", 0), {"prompt": "Q", "response": "A"}],
        [member("g", 0), {"prompt": "Q", "response": "A", "reference": "B"}],
    ],
)
async def test_all_items_are_of_one_mode(api: Api, items: list[dict[str, Any]]) -> None:
    assert (await api.post("/score", {"items": items})).status_code == 422


async def test_a_new_attempt_is_another_group(api: Api) -> None:
    group = next(_names)
    old = await begun(api, member(group, 0, 2))
    fresh = await gather(api, [member(group, i, 2, attempt=1, response=f"new {i}") for i in range(2)])
    assert {reply.status_code for reply in fresh} == {200}
    assert not old.done()
    await send(api, member(group, 1, 2))
    assert (await old).status_code == 200


async def test_a_member_that_never_comes_is_left_out(api: Api) -> None:
    group, before = next(_names), outcomes(api)
    items = [member(group, index, 3, deadline_ms=SOON_MS) for index in (0, 2)]
    found = rows(await gather(api, items))
    assert [row["index"] for row in found] == [0, 2]
    assert sum(row["score"] for row in found) == pytest.approx(1.0)
    assert outcomes(api) == before | {"partial": before["partial"] + 1}
    late = await send(api, member(group, 1, 3))
    assert (late.status_code, late.json()["error"]["details"]) == (409, {"clash": "closed"})
    again = await send(api, items[0])
    assert again.json()["results"] == [found[0]]


async def test_below_the_quorum_everybody_fails_and_learns_who_was_missing(api: Api) -> None:
    group, before = next(_names), outcomes(api)
    reply = await send(api, member(group, 1, 4, deadline_ms=SOON_MS))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["retryable"]) == (504, "cohort_incomplete", True)
    assert error["details"] == {"missing": "0, 2, 3", "size": 4}
    assert outcomes(api) == before | {"failed": before["failed"] + 1}
    retry = await begun(api, member(group, 1, 4))
    rest = await gather(api, [member(group, index, 4) for index in (0, 2, 3)])
    assert {reply.status_code for reply in (*rest, await retry)} == {200}, "the next round takes up what was there"


async def test_the_policy_fail_judges_complete_groups_only() -> None:
    async with serving({"cohorts": {"policy": "fail", "deadline_ms": SOON_MS}}) as api:
        replies = await gather(api, [member("g", index, 4) for index in (0, 1, 3)])
        assert {reply.json()["error"]["details"]["missing"] for reply in replies} == {"2"}
        assert api.engine.calls == 0


async def test_the_earliest_deadline_is_the_groups(api: Api) -> None:
    group = next(_names)
    patient = await begun(api, member(group, 0, 3))
    hasty = await send(api, member(group, 1, 3, deadline_ms=SOON_MS))
    assert (await patient).status_code == hasty.status_code == 200


async def test_a_group_never_outlives_the_request(api: Api) -> None:
    reply = await send(api, member(next(_names), 0, 3), headers={"X-Deadline-Ms": "200"})
    assert reply.json()["error"]["code"] == "cohort_incomplete", "not deadline_exceeded: there was time to say it"


async def test_a_caller_who_left_has_left_its_response(api: Api) -> None:
    group = next(_names)
    gone = await begun(api, member(group, 0, 2))
    gone.cancel()
    await until(lambda: waiting(api) == 0)
    reply = await send(api, member(group, 1, 2))
    assert reply.status_code == 200
    assert (await send(api, member(group, 0, 2))).json()["results"][0]["score"] == pytest.approx(
        1 - reply.json()["results"][0]["score"]
    )


async def test_another_waiter_takes_over_when_the_judge_is_cancelled(api: Api) -> None:
    group, normalize = next(_names), {"queue": next(_names), "min_count": 2}
    first = await begun(api, member(group, 0, 2), normalize=normalize)
    api.engine.options = options(delay_s=30)
    judge = asyncio.create_task(send(api, member(group, 1, 2), normalize=normalize))
    await until(lambda: api.engine.in_flight == 2)
    api.engine.options = options()
    judge.cancel()
    assert (await first).json()["queue"]["seq_last"] == 2
    again = await send(api, member(group, 1, 2), normalize=normalize)
    assert again.json()["queue"] == (await first).json()["queue"]


async def test_a_failed_judgment_is_everybodys_and_no_number(api: Api) -> None:
    group = next(_names)
    api.engine.options = options(fault="nan")
    replies = await gather(api, [member(group, index, 3) for index in range(3)])
    assert {(reply.status_code, row["status"], row["score"]) for reply in replies for row in rows([reply])} == {
        (200, "failed", None)
    }
    assert {row["error"]["code"] for row in rows(replies)} == {"non_finite_score"}
    api.engine.options = options()
    assert (await send(api, member(group, 1, 3))).json()["results"][0]["status"] == "ok", "a retry judges again"


async def test_many_members_in_one_request_and_several_groups(api: Api) -> None:
    one, two = next(_names), next(_names)
    items = [member(one, 0, 2), member(two, 1, 2), member(one, 1, 2), member(two, 0, 2), member(one, 1, 2)]
    normalize = {"queue": next(_names), "min_count": 2}
    reply = (await api.post("/score", {"items": items, "normalize": normalize})).json()
    assert [(row["group"], row["index"]) for row in reply["results"]] == [(0, 0), (1, 1), (0, 1), (1, 0), (0, 1)]
    assert reply["queue"] is None
    by_group = {row["group"]: row["queue"] for row in reply["results"]}
    assert {(queue["seq_first"], queue["seq_last"]) for queue in by_group.values()} == {(1, 2), (3, 4)}
    assert all(row["queue"] == by_group[row["group"]] for row in reply["results"])


async def test_a_conflict_among_several_items_marks_its_row(api: Api) -> None:
    group = next(_names)
    items = [member(group, 0, 2), member(group, 0, 2, response="another"), member(group, 1, 2)]
    found = (await api.post("/score", {"items": items})).json()["results"]
    assert [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert found[1]["error"]["code"] == "conflict"


async def test_an_idempotency_key_repeats_the_reply(api: Api) -> None:
    group, normalize = next(_names), {"queue": next(_names), "min_count": 2}
    keys = [{"Idempotency-Key": f"{group}-{index}"} for index in range(2)]
    sent = [send(api, member(group, index, 2), keys[index], normalize=normalize) for index in range(2)]
    replies = await asyncio.gather(*sent)
    again = await send(api, member(group, 0, 2), keys[0], normalize=normalize)
    assert again.content == replies[0].content
    other = await send(api, member(group, 1, 2), keys[0], normalize=normalize)
    assert other.status_code == 409


async def test_a_group_counted_once_is_not_counted_with_other_members() -> None:
    """The group was forgotten, its commit was not."""
    store = MemoryStore()
    normalize = {"queue": "q", "min_count": 2}
    async with serving(store=store) as api:
        await gather(api, [member("g", index, 2) for index in range(2)], normalize=normalize)
        api.app.state.service.cohorts._store._cohorts.clear()
        same = await gather(api, [member("g", index, 2) for index in range(2)], normalize=normalize)
        assert {reply.json()["queue"]["seq_last"] for reply in same} == {2}
        assert api.engine.calls == 2, "the stored reply"
        api.app.state.service.cohorts._store._cohorts.clear()
        others = await gather(api, [member("g", i, 2, response=f"x{i}") for i in range(2)], normalize=normalize)
        assert {reply.status_code for reply in others} == {409}
        (queue,) = (await api.client.get("/queues")).json()["queues"]
        assert queue["seq_last"] == 2


@pytest.mark.parametrize("limits", [{"max_groups": 1}, {"max_bytes": 4000}])
async def test_bounded_memory_is_an_overload(limits: dict[str, int]) -> None:
    async with serving({"cohorts": limits}) as api:
        first = await begun(api, member("g0", 0, 2))
        refused = await send(api, member("g1", 0, 2, response="x" * 3000))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert "retry-after" in refused.headers
        assert (await send(api, member("g0", 1, 2))).status_code == (await first).status_code == 200


async def test_draining_releases_those_who_wait_and_finishes_what_is_judged() -> None:
    async with serving() as api:
        lonely = await begun(api, member("open", 0, 2))
        api.engine.options = options(delay_s=0.2)
        judged = asyncio.create_task(gather(api, [member("full", index, 2) for index in range(2)]))
        await until(lambda: api.engine.in_flight == 2)
        api.admission.drain(10)
        refused = await asyncio.wait_for(lonely, 5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert {reply.status_code for reply in await judged} == {200}


async def test_an_engine_that_died_fails_every_waiter_and_hangs_none() -> None:
    async with serving() as api:
        first = await begun(api, member("g", 0, 2))
        api.engine.die()
        last = await send(api, member("g", 1, 2))
        assert {reply.json()["error"]["code"] for reply in (await first, last)} == {"engine_dead"}


async def test_tenants_do_not_meet() -> None:
    keys = [{"id": name, "sha256": hash_key(name)} for name in ("one", "two")]
    async with serving({"auth": {"keys": keys}}) as api:
        as_one, as_two = ({"Authorization": f"Bearer {name}"} for name in ("one", "two"))
        first = await begun(api, member("g", 0, 2), headers=as_one)
        stranger = await begun(api, member("g", 1, 2, deadline_ms=SOON_MS), headers=as_two)
        assert (await stranger).json()["error"]["details"]["missing"] == "0"
        assert not first.done()
        await send(api, member("g", 1, 2), as_one)
        assert (await first).status_code == 200

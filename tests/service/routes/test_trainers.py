"""The routes in trainers' own formats on the fake engine: their shapes, and what each kind of failure becomes there."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx
import pytest

from service.errors import StoreUnavailable
from service.stores.memory import MemoryStore
from tests.support.policy_templates import POLICIES
from tests.support.serving import Api, options, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION, ANSWER, REFERENCE = "What is 7 + 5?", "12, because 7 + 5 = 12.", "It is 13."
TEMPLATED = POLICIES["chatml"].render([{"role": "user", "content": QUESTION}])
QUERY = f"{TEMPLATED}{ANSWER}<|im_end|>"
LOGS = {"ok", "consistent", "flagged", "normalized", "margin"}
JUDGE = [{"name": "gram", "family": "gram"}]


def compat(**settings: Any) -> dict[str, Any]:
    return {"compat": settings, "judges": JUDGE}


async def reward(api: Api, query: list[str], prompts: list[str], labels: list[Any]) -> dict[str, Any]:
    reply = await api.post("/get_reward", {"query": query, "prompts": prompts, "labels": labels})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    sizes = {len(found["rewards"]), len(found["scores"]), *map(len, found["extra_logs"].values())}
    assert sizes == {len(query)}
    assert found["extra_logs"].keys() == LOGS
    assert all(math.isfinite(x) for column in (found["rewards"], *found["extra_logs"].values()) for x in column)
    assert all(0 <= score <= 1 for score in found["scores"])
    return found


async def natively(api: Api, response: str = ANSWER, reference: str = REFERENCE) -> dict[str, Any]:
    """The same rollout through /score."""
    item = {"prompt": QUESTION, "response": response, "reference": reference}
    row: dict[str, Any] = (await api.post("/score", {"items": [item]})).json()["results"][0]
    return row


# --- OpenRLHF


async def test_one_sample_is_judged_as_the_question_and_the_answer_in_it(api: Api) -> None:
    found, row = await reward(api, [QUERY], [TEMPLATED], [REFERENCE]), await natively(api)
    assert found["rewards"] == found["scores"] == [row["score"]]
    logs = {"ok": [1.0], "consistent": [float(row["consistent"])], "flagged": [0.0], "normalized": [0.0]}
    assert found["extra_logs"] == {**logs, "margin": [row["margin"]]}


@pytest.mark.parametrize("name", POLICIES)
async def test_every_template_is_undone(api: Api, name: str) -> None:
    policy = POLICIES[name]
    prompt = policy.render([{"role": "user", "content": QUESTION}])
    found = await reward(api, [prompt + ANSWER + policy.end], [prompt], [REFERENCE])
    assert found["scores"] == [(await natively(api))["score"]]


@pytest.mark.parametrize("cut", [1, 20, len(TEMPLATED) - 24])
async def test_a_prompt_that_was_cut_at_its_left_is_judged_whole(api: Api, cut: int) -> None:
    found = await reward(api, [QUERY[cut:]], [TEMPLATED], [REFERENCE])
    assert found["scores"] == [(await natively(api))["score"]]


async def test_the_first_versions_send_queries_alone(api: Api) -> None:
    reply = await api.post("/get_reward", {"query": [QUERY, f"{TEMPLATED}{REFERENCE}<|im_end|>"]})
    scores = reply.json()["scores"]
    group = {"prompt": QUESTION, "responses": [ANSWER, REFERENCE]}
    rows = (await api.post("/score", {"groups": [group]})).json()["results"]
    assert scores == [row["score"] for row in rows]


async def test_nothing_is_answered_with_nothing(api: Api) -> None:
    assert await reward(api, [], [], []) == {
        "rewards": [],
        "scores": [],
        "extra_logs": {name: [] for name in sorted(LOGS)},
    }


async def test_equal_prompts_of_a_body_are_groups_and_order_is_kept(api: Api) -> None:
    """The batches of versions before 0.9.1; labels that are no texts are no references."""
    other = POLICIES["chatml"].render([{"role": "user", "content": "And 7 + 6?"}])
    prompts = [TEMPLATED, other, TEMPLATED, other, TEMPLATED]
    query = [f"{prompt}answer {number}<|im_end|>" for number, prompt in enumerate(prompts)]
    found = await reward(api, query, prompts, [None, "", {"id": 1}, "  ", 7])
    groups = [
        {"prompt": QUESTION, "responses": ["answer 0", "answer 2", "answer 4"]},
        {"prompt": "And 7 + 6?", "responses": ["answer 1", "answer 3"]},
    ]
    rows = [row["score"] for row in (await api.post("/score", {"groups": groups})).json()["results"]]
    assert found["scores"] == [rows[0], rows[3], rows[1], rows[4], rows[2]]


async def test_a_group_larger_than_a_judgment_is_cut_into_equal_ones(api: Api) -> None:
    query = [f"{TEMPLATED}answer {number}" for number in range(66)]
    found = await reward(api, query, [TEMPLATED] * 66, [])
    responses = [f"answer {number}" for number in range(33)]
    rows = (await api.post("/score", {"groups": [{"prompt": QUESTION, "responses": responses}]})).json()["results"]
    assert found["scores"][:33] == [row["score"] for row in rows]


async def test_without_anything_to_compare_with_the_judgment_has_failed(api: Api) -> None:
    found = await reward(api, [QUERY], [TEMPLATED], [""])
    assert (found["rewards"], found["scores"], found["extra_logs"]["ok"]) == ([0.5], [0.5], [0.0])


@pytest.mark.parametrize(
    ("query", "prompt"),
    [
        ("another text", TEMPLATED),
        (TEMPLATED + "<|im_end|>", TEMPLATED),
        (TEMPLATED + " \u200b", TEMPLATED),
        ("x", ""),
        (" " + ANSWER, " "),
        (f"{TEMPLATED}{'long ' * 60_000}", TEMPLATED),
        ("<|im_start|>wizard\nx<|im_end|>\ny", "<|im_start|>wizard\nx<|im_end|>\n"),
        (f"{TEMPLATED}{'tokens ' * 6_000}", TEMPLATED),
    ],
    ids=["other", "empty", "invisible", "no prompt", "blank prompt", "too long", "role", "token limit"],
)
async def test_what_cannot_be_judged_is_a_neutral_number_that_says_so_and_spoils_nothing(
    api: Api, query: str, prompt: str
) -> None:
    found = await reward(api, [QUERY, query], [TEMPLATED, prompt], [REFERENCE, REFERENCE])
    row = await natively(api)
    assert found["scores"] == [row["score"], 0.5]
    assert found["rewards"] == found["scores"]
    assert found["extra_logs"]["ok"] == [1.0, 0.0]


@pytest.mark.parametrize("fault", ["nan", "abort"])
async def test_a_judges_failure_is_marked_and_counted(api: Api, fault: Any) -> None:
    api.engine.options = options(fault=fault)
    counter = api.app.state.gate.metrics.judging.failures
    code = {"nan": "non_finite_score", "abort": "judgment_failed"}[fault]
    before = counter.labels("gram", code)._value.get()
    found = await reward(api, [QUERY], [TEMPLATED], [REFERENCE])
    assert (found["rewards"], found["extra_logs"]["ok"]) == ([0.5], [0.0])
    assert counter.labels("gram", code)._value.get() == before + 1


async def test_a_failed_group_is_neutral_for_all_of_its_members(api: Api) -> None:
    api.engine.options = options(fault="nan")
    found = await reward(api, [f"{TEMPLATED}answer {i}" for i in range(3)], [TEMPLATED] * 3, [])
    assert found["extra_logs"]["ok"] == [0.0] * 3
    assert found["rewards"] == [0.5] * 3


@pytest.mark.parametrize(
    "body",
    [
        {"query": "text"},
        {"query": [1]},
        {"query": ["a"], "prompts": ["a", "b"]},
        {"query": ["a", "b"], "labels": ["a"]},
        {"prompts": []},
        [],
    ],
)
async def test_a_body_of_another_shape_is_refused(api: Api, body: Any) -> None:
    assert (await api.post("/get_reward", body)).status_code == 422


async def test_half_characters_are_mended_and_unknown_fields_ignored(api: Api) -> None:
    text = json.dumps({"query": [TEMPLATED + "\ud83d"], "prompts": [TEMPLATED], "labels": ["\ud83d"], "new": 1})
    reply = await api.send("/get_reward", text.encode())
    assert reply.json()["extra_logs"]["ok"] == [1.0]


async def test_a_dead_engine_is_an_error_of_the_request() -> None:
    async with serving({"judges": JUDGE}) as api:
        api.engine.die()
        for path, body in BODIES.items():
            reply = await api.post(path, body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead"), path


async def test_a_store_that_is_down_is_an_error_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("The store is away.")

    store = MemoryStore()
    async with serving(compat(queue="run"), store=store) as api:
        monkeypatch.setattr(store, "commit", refuse)
        for path in ("/get_reward", "/remote_rm"):
            reply = await api.post(path, BODIES[path])
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable"), path


# --- the queue


async def test_rewards_are_normalized_by_the_configured_queue_and_scores_are_not() -> None:
    async with serving(compat(queue="run", min_count=3, scale=10.0, window=8)) as api:
        replies = [await reward(api, [f"{TEMPLATED}answer {i}<|im_end|>"], [TEMPLATED], [REFERENCE]) for i in range(5)]
        scores = [reply["scores"][0] for reply in replies]
        assert [reply["rewards"][0] for reply in replies[:2]] == scores[:2]
        assert [reply["extra_logs"]["normalized"][0] for reply in replies] == [0.0, 0.0, 1.0, 1.0, 1.0]
        mean = math.fsum(scores) / 5
        std = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / 5)
        assert replies[4]["rewards"][0] == pytest.approx(10 * (scores[4] - mean) / std)
        (queue,) = (await api.client.get("/queues/run")).json()["queues"]
        assert (queue["seq_last"], queue["score_kind"], queue["window"]) == (5, "reference", 8)


async def test_a_failure_is_zero_once_rewards_are_normalized_and_enters_no_queue() -> None:
    async with serving(compat(queue="run", min_count=2)) as api:
        assert (await reward(api, ["x"], [TEMPLATED], [""]))["rewards"] == [0.5]
        for number in range(2):
            await reward(api, [f"{TEMPLATED}answer {number}"], [TEMPLATED], [REFERENCE])
        found = await reward(api, ["x"], [TEMPLATED], [""])
        assert (found["rewards"], found["scores"]) == ([0.0], [0.5])
        assert (found["extra_logs"]["ok"], found["extra_logs"]["normalized"]) == ([0.0], [1.0])
        mixed = await reward(api, ["x", f"{TEMPLATED}answer 3"], [TEMPLATED] * 2, [REFERENCE] * 2)
        assert mixed["rewards"][0] == 0.0
        (queue,) = (await api.client.get("/queues/run")).json()["queues"]
        assert queue["seq_last"] == 3


async def test_a_queue_of_another_window_is_a_conflict_for_the_operator() -> None:
    async with serving(compat(queue="run", window=8)) as api:
        item = {"prompt": QUESTION, "response": ANSWER, "reference": REFERENCE}
        await api.post("/score", {"items": [item], "normalize": {"queue": "run", "window": 9}})
        assert (await api.post("/get_reward", BODIES["/get_reward"])).status_code == 409


# --- cohorts


async def post_one(api: Api, number: int | str, prompt: str = TEMPLATED) -> dict[str, Any]:
    return await reward(api, [f"{prompt}answer {number}<|im_end|>"], [prompt], [""])


async def test_single_posts_of_one_prompt_become_a_group() -> None:
    async with serving(compat(cohort_size=4, queue="run", min_count=2)) as api:
        replies = await asyncio.gather(*(post_one(api, number) for number in (2, 0, 3, 1)))
        responses = [f"answer {number}" for number in (2, 0, 3, 1)]
        normalize = {"queue": "other", "min_count": 2}
        body = {"groups": [{"prompt": QUESTION, "responses": responses}], "normalize": normalize}
        rows = (await api.post("/score", body)).json()["results"]
        assert [reply["scores"][0] for reply in replies] == [row["score"] for row in rows]
        assert [reply["rewards"][0] for reply in replies] == [row["reward"] for row in rows]
        (queue,) = (await api.client.get("/queues/run")).json()["queues"]
        assert (queue["seq_last"], queue["score_kind"]) == (4, "group")


async def test_groups_of_a_prompt_follow_one_another_and_prompts_do_not_mix() -> None:
    other = POLICIES["chatml"].render([{"role": "user", "content": "And 7 + 6?"}])
    async with serving(compat(cohort_size=2)) as api:
        jobs = [post_one(api, number, prompt) for number in range(4) for prompt in (TEMPLATED, other)]
        replies = await asyncio.gather(*jobs)
        assert all(reply["extra_logs"]["ok"] == [1.0] for reply in replies)
        for of_one_prompt in (replies[::2], replies[1::2]):
            assert sum(reply["scores"][0] for reply in of_one_prompt) == pytest.approx(2.0), "two groups of two"
        again = await asyncio.gather(post_one(api, 0), post_one(api, 1))  # the next epoch draws the same
        assert sum(reply["scores"][0] for reply in again) == pytest.approx(1.0)


async def test_equal_rollouts_of_a_group_are_two_members() -> None:
    async with serving(compat(cohort_size=3)) as api:
        replies = await asyncio.gather(*(post_one(api, number) for number in (1, 1, 2)))
        scores = [reply["scores"][0] for reply in replies]
        assert scores[0] == scores[1]
        assert sum(scores) == pytest.approx(1.5)


async def test_a_rollout_sent_again_after_its_connection_broke_is_one_member() -> None:
    async with serving(compat(cohort_size=2)) as api:
        lost = asyncio.create_task(post_one(api, 0))
        await until(lambda: api.app.state.service.cohorts.waiting == 1)
        lost.cancel()
        await until(lambda: api.app.state.service.cohorts.waiting == 0)
        again = asyncio.create_task(post_one(api, 0))
        await until(lambda: api.app.state.service.cohorts.waiting == 1)
        assert not again.done()
        replies = await asyncio.gather(again, post_one(api, 1))
        assert sum(reply["scores"][0] for reply in replies) == pytest.approx(1.0)


async def test_after_the_deadline_those_who_came_are_judged() -> None:
    async with serving(compat(cohort_size=4, cohort_deadline_ms=60)) as api:
        replies = await asyncio.gather(post_one(api, 0), post_one(api, 1))
        assert sum(reply["scores"][0] for reply in replies) == pytest.approx(1.0)
        late = await post_one(api, 2)
        assert late["extra_logs"]["ok"] == [0.0], "alone in the group it began"


async def test_a_rollout_nobody_joins_fails_at_the_deadline_and_not_for_good() -> None:
    async with serving(compat(cohort_size=2, cohort_deadline_ms=40)) as api:
        found = await post_one(api, 0)
        assert (found["rewards"], found["extra_logs"]["ok"]) == ([0.5], [0.0])
        replies = await asyncio.gather(post_one(api, 0), post_one(api, 1))
        assert all(reply["extra_logs"]["ok"] == [1.0] for reply in replies)


async def test_a_label_spares_the_wait() -> None:
    async with serving(compat(cohort_size=8)) as api:
        found = await reward(api, [QUERY], [TEMPLATED], [REFERENCE])
        assert found["extra_logs"]["ok"] == [1.0]


async def test_members_that_wait_are_released_by_shutdown() -> None:
    async with serving(compat(cohort_size=2)) as api:
        waiting = asyncio.create_task(api.post("/get_reward", {**BODIES["/get_reward"], "labels": [""]}))
        await until(lambda: api.app.state.service.cohorts.waiting == 1)
        api.admission.drain(5.0)
        reply = await waiting
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")


# --- references


async def test_labels_may_be_something_else_than_references() -> None:
    async with serving(compat(labels="ignore")) as api:
        assert (await reward(api, [QUERY], [TEMPLATED], ["12"]))["extra_logs"]["ok"] == [0.0]


async def test_a_stored_reference_serves_prompts_without_a_label() -> None:
    async with serving({"judges": JUDGE}) as api:
        put = await api.client.put("/references", json={"items": [{"prompt": QUESTION, "reference": REFERENCE}]})
        assert put.json() == {"stored": 1, "total": 1}
        expected = (await natively(api))["score"]
        assert (await reward(api, [QUERY], [TEMPLATED], [""]))["scores"] == [expected]
        assert (await api.post("/remote_rm", {"prompt": QUESTION, "response": ANSWER})).json() == expected
        found = (await api.post("/classify", {"model": "x", "input": QUERY + "\n"})).json()
        assert found["data"][0]["probs"] == [expected]


# --- room


async def test_a_trainer_waits_for_room_where_others_are_refused() -> None:
    async with serving({"judges": JUDGE, "limits": {"max_prompts": 2, "max_waiting": 0}}) as api:
        api.engine.options = options(delay_s=0.05)
        jobs = [asyncio.create_task(post_alone(api, number)) for number in range(6)]
        await until(lambda: api.admission.in_line == 5)
        refused = await api.post("/score", {"items": [{"prompt": "q", "response": "r", "reference": "s"}]})
        assert refused.status_code == 503
        assert [reply.status_code for reply in await asyncio.gather(*jobs)] == [200] * 6
        assert (api.admission.held, api.admission.in_line) == (0, 0)


async def post_alone(api: Api, number: int, **headers: str) -> httpx.Response:
    query = f"{TEMPLATED}answer {number}<|im_end|>"
    body = {"query": [query], "prompts": [TEMPLATED], "labels": [REFERENCE]}
    return await api.post("/get_reward", body, **headers)


async def test_who_waited_until_the_deadline_is_told_to_come_again() -> None:
    async with serving({"judges": JUDGE, "limits": {"max_prompts": 2}, "compat": {"max_waiting": 1}}) as api:
        api.engine.options = options(fault="hang")
        first = asyncio.create_task(post_alone(api, 0))
        await until(lambda: api.admission.held == 2)
        second = asyncio.create_task(post_alone(api, 1, **{"X-Deadline-Ms": "200"}))
        await until(lambda: api.admission.in_line == 1)
        third = await post_alone(api, 2)
        assert (third.status_code, third.json()["error"]["code"]) == (503, "overloaded")
        reply = await second
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        first.cancel()
        await until(lambda: api.admission.running == 0)


async def test_those_in_line_when_the_service_drains_are_served_while_there_is_time() -> None:
    async with serving({"judges": JUDGE, "limits": {"max_prompts": 2}}) as api:
        api.engine.options = options(delay_s=0.02)
        jobs = [asyncio.create_task(post_alone(api, number)) for number in range(4)]
        await until(lambda: api.admission.in_line == 3)
        api.admission.drain(20.0)
        assert [reply.status_code for reply in await asyncio.gather(*jobs)] == [200] * 4
        late = await post_alone(api, 5)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")


async def test_those_in_line_when_the_time_to_drain_is_over_are_told() -> None:
    async with serving({"judges": JUDGE, "limits": {"max_prompts": 2}}) as api:
        api.engine.options = options(fault="hang")
        jobs = [asyncio.create_task(post_alone(api, number)) for number in range(3)]
        await until(lambda: api.admission.in_line == 2)
        api.admission.drain(0.0)
        assert {reply.json()["error"]["code"] for reply in await asyncio.gather(*jobs)} == {"draining"}
        assert (api.admission.held, api.admission.in_line) == (0, 0)


async def test_the_deadline_of_these_routes_is_their_own() -> None:
    hurry = {"judges": JUDGE, "compat": {"deadline_ms": 60}}
    async with serving(hurry) as api:
        api.engine.options = options(fault="hang")
        reply = await post_alone(api, 0)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_equal_posts_are_judged_once() -> None:
    async with serving({"judges": JUDGE, "cache": {}}) as api:
        api.engine.options = options(delay_s=0.02)
        before = api.engine.calls
        replies = await asyncio.gather(*(post_alone(api, number % 3) for number in range(30)))
        later = await post_alone(api, 0)
        assert api.engine.calls == before + 2 * 3
        assert len({reply.text for reply in (*replies, later)}) == 3


# --- slime


async def test_slime_gets_a_bare_number_or_an_object(api: Api) -> None:
    row = await natively(api)
    body = {"prompt": TEMPLATED, "response": ANSWER, "label": REFERENCE}
    reply = await api.post("/remote_rm", body)
    assert reply.json() == row["score"]
    assert reply.headers["content-type"] == "application/json"
    named = (await api.client.post("/remote_rm?reply=object", json=body)).json()
    assert named.keys() == {"reward", "score"} | LOGS
    assert (named["reward"], named["ok"], named["margin"]) == (row["score"], 1.0, row["margin"])


@pytest.mark.parametrize(
    "prompt",
    [
        QUESTION,
        [{"role": "user", "content": QUESTION}],
        [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        [{"role": "User", "content": QUESTION, "name": "x"}],
    ],
)
async def test_slimes_prompt_may_be_a_text_or_messages(api: Api, prompt: Any) -> None:
    body = {"prompt": prompt, "response": ANSWER + "<|im_end|>", "label": REFERENCE}
    assert (await api.post("/remote_rm", body)).json() == (await natively(api))["score"]


@pytest.mark.parametrize("more", [{"response": ""}, {"prompt": [{"role": "wizard", "content": "x"}]}, {"label": None}])
async def test_slime_gets_a_neutral_number_for_a_failure(api: Api, more: dict[str, Any]) -> None:
    body = {"prompt": QUESTION, "response": ANSWER, "label": REFERENCE} | more
    assert (await api.post("/remote_rm", body)).json() == 0.5
    named = (await api.client.post("/remote_rm?reply=object", json=body)).json()
    assert (named["reward"], named["score"], named["ok"]) == (0.5, 0.5, 0.0)


# --- verl


CONVERSATION = POLICIES["chatml"].render(
    [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}], generation_prompt=False
)


async def test_classify_has_vllms_shape() -> None:
    async with serving({"judges": [{"name": "scalar", "family": "scalar"}]}) as api:
        body = {"model": "/models/reward", "input": CONVERSATION, "use_activation": False}
        found = (await api.post("/classify", body)).json()
        raw = (await api.post("/score", {"items": [{"prompt": QUESTION, "response": ANSWER}]})).json()["results"][0]
        assert found["data"] == [{"index": 0, "label": "ok", "probs": [raw["score"]], "num_classes": 1}]
        assert (found["object"], found["model"]) == ("list", "scalar")
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0
        for word in ("use_activation", "activation"):
            again = (await api.post("/classify", {"model": "x", "input": [CONVERSATION], word: True})).json()
            assert again["data"][0]["probs"] == [pytest.approx(1 / (1 + math.exp(-raw["score"])))]
        turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        chat = (await api.post("/classify", {"model": "x", "messages": turns, "use_activation": False})).json()
        assert chat["data"] == found["data"]


async def test_classify_marks_failures_and_chooses_judges_by_name(api: Api) -> None:
    found = (await api.post("/classify", {"model": "scalar", "input": [CONVERSATION, "no chat"]})).json()
    assert [row["label"] for row in found["data"]] == ["ok", "failed"]
    assert found["data"][1]["probs"] == [0.5]
    assert found["model"] == "scalar"
    pairwise = (await api.post("/classify", {"model": "unknown", "input": CONVERSATION})).json()
    assert (pairwise["model"], pairwise["data"][0]["label"]) == ("gram", "failed")


async def test_a_scalar_judge_rewards_with_its_raw_score_and_fails_with_its_zero() -> None:
    async with serving({"judges": [{"name": "scalar", "family": "scalar"}]}) as api:
        found = await reward(api, [QUERY, "x"], [TEMPLATED] * 2, ["", ""])
        raw = (await api.post("/score", {"items": [{"prompt": QUESTION, "response": ANSWER}]})).json()["results"][0]
        assert found["rewards"] == [raw["score"], 0.0]
        assert found["scores"] == [pytest.approx(1 / (1 + math.exp(-raw["score"]))), 0.5]


# --- every route


BODIES: dict[str, dict[str, Any]] = {
    "/get_reward": {"query": [QUERY], "prompts": [TEMPLATED], "labels": [REFERENCE]},
    "/remote_rm": {"prompt": QUESTION, "response": ANSWER, "label": REFERENCE},
    "/rerank": {"query": QUESTION, "documents": [ANSWER, REFERENCE]},
}


async def test_the_configured_judge_answers_where_a_format_names_none() -> None:
    judges = [{"name": "one", "family": "gram"}, {"name": "two", "family": "gram_r2"}]
    async with serving({"judges": judges, "compat": {"judge": "two"}}) as api:
        await api.post("/get_reward", BODIES["/get_reward"])
        exposed = (await api.client.get("/metrics")).text
        assert 'gram_comparisons_total{judge="two"} 1.0' in exposed

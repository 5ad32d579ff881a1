"""Every method against the real application on the fake engine, by both clients, in good times and bad ones."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gram_client import (
    Client,
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    EngineUnusable,
    FailedJudgment,
    Group,
    InvalidRequest,
    Member,
    Normalize,
    NotFound,
    Overloaded,
    Pair,
    Rationale,
    Reference,
    Referenced,
    Retries,
    ScoringError,
    Single,
    Text,
    Unauthorized,
)
from service.admission import Admission
from service.auth import hash_key
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, Fault
from tests.support.both_clients import KINDS, Kind, ask
from tests.support.serving import Api, listening, options, until

ROOT = Path(__file__).resolve().parents[2]
ASKED = ("p", "a", "b")
NOT_OURS = {"/get_reward", "/remote_rm", "/classify", "/rerank", "/v1/rerank", "/v2/rerank", "/startupz"}
NOT_OURS |= {"/admin/weights", "/admin/adapters", "/admin/adapters/{name}"}
"""Wire formats of particular trainers, a probe that says what /readyz says, and what operators do from a shell."""

both = pytest.mark.parametrize("kind", KINDS)


async def _ask(kind: Kind, api: Api | str, method: str, *arguments: Any, **named: Any) -> Any:
    """In a thread, so that the service's own loop goes on."""
    return await asyncio.to_thread(ask, kind, api if isinstance(api, str) else api.url, method, *arguments, **named)


def _fails(word: str) -> FakeEngine:
    """An engine that cannot judge prompts with this word."""
    needle = word.encode()

    def fault(request: EngineRequest) -> Fault | None:
        return "nan" if needle in bytes(i for i in request.prompt_ids if i < 256) else None

    return FakeEngine(options(fault=fault))


@both
async def test_judging(kind: Kind) -> None:
    async with listening() as api:
        verdict = await _ask(kind, api, "compare", "What is 7 + 5?", "12", "13")
        assert verdict.ok
        assert 0 < verdict.p_first < 1
        assert verdict.judge_version.judge == "gram"
        many = await _ask(kind, api, "compare_many", [Pair("p", "a", "b", "x"), ("p", "", "b"), ("p", "b", "a")])
        assert [(one.status, one.id) for one in many] == [("ok", "x"), ("failed", None), ("ok", None)]
        assert many[0].p_first == 1 - many[2].p_first
        ranking = await _ask(kind, api, "rank", [{"role": "user", "content": "q", "name": "n"}], ["a", "b", "c"])
        assert sorted(ranking.order) == [0, 1, 2]
        assert ranking.order == tuple(sorted(range(3), key=lambda i: -ranking.scores[i]))
        assert ranking.usage.comparisons == ranking.comparisons == 3


@both
async def test_rationales(kind: Kind) -> None:
    async with listening() as api:
        whole = await _ask(kind, api, "rationale", *ASKED, votes=2, judge="gram_r2")
        assert len(whole.rationales) == 4
        assert whole.rationales[0].sections["conclusion"]
        assert whole.votes.a + whole.votes.b + whole.votes.invalid == 4
        *texts, last = await _ask(kind, api, "stream_rationale", *ASKED, judge="gram_r2")
        assert isinstance(last, Rationale)
        for order in ("ab", "ba"):
            written = "".join(text.text for text in texts if isinstance(text, Text) and text.order == order)
            assert written == next(one.text for one in last.rationales if one.order == order)


@both
async def test_scores(kind: Kind) -> None:
    async with listening() as api:
        groups = [Group("p", ["a", "b", "c"], "one"), Group("p", ["a", ""]), Group("q", ["a", "b"])]
        scores = await _ask(kind, api, "score_groups", groups, client={"max_chunk": 3})
        assert [(row.group, row.index, row.ok) for row in scores.rows] == [
            *((0, 0, True), (0, 1, True), (0, 2, True)),
            *((1, 0, False), (1, 1, False)),
            *((2, 0, True), (2, 1, True)),
        ]
        assert [len(rows) for rows in scores.by_group()] == [3, 2, 2]
        assert math.isclose(sum(row.score for row in scores.by_group()[0]), 1.5)
        assert [row.id for row in scores.rows[:3]] == ["one"] * 3
        with pytest.raises(InvalidRequest):
            scores.raise_failures()
        single = await _ask(kind, api, "score_single", [Single("p", "a"), Single("p", "b")], judge="scalar")
        assert all(row.ok for row in single.rows)
        with pytest.raises(InvalidRequest, match="reference"):
            await _ask(kind, api, "score_single", [Single("p", "a")], judge="gram")
        assert await _ask(kind, api, "put_references", [Reference("p", "b"), ("q", "c")]) == 2
        stored = await _ask(kind, api, "score_single", [Single("p", "a")], judge="gram")
        assert stored.scores == (await _ask(kind, api, "score_references", [Referenced("p", "a", "b")])).scores


@both
async def test_chunks_answer_as_one_request_does(kind: Kind) -> None:
    async with listening() as api:
        items = [Referenced(f"p{i}", "a", "b", str(i)) for i in range(50)]
        whole = await _ask(kind, api, "score_references", items)
        parts = await _ask(kind, api, "score_references", items, client={"max_chunk": 7, "concurrency": 3})
        assert parts.scores == whole.scores
        assert [row.id for row in parts.rows] == [str(i) for i in range(50)]
        assert parts.usage.comparisons == whole.usage.comparisons == 50


@both
async def test_rewards_and_queues(kind: Kind) -> None:
    async with listening() as api:
        queue = Normalize("run", window=50, scale=10.0, min_count=4)
        items = [Referenced(f"p{i}", "a", "b") for i in range(20)]
        first = await _ask(kind, api, "score_references", items, normalize=queue, idempotency_key="step-1")
        again = await _ask(kind, api, "score_references", items, normalize=queue, idempotency_key="step-1")
        assert first == again
        assert (first.queue.seq_first, first.queue.seq_last, first.queue.normalized) == (1, 20, True)
        with pytest.raises(Conflict):
            await _ask(kind, api, "score_references", items[:3], normalize=queue, idempotency_key="step-1")
        assert [one.count for one in await _ask(kind, api, "queues")] == [20]
        (state,) = await _ask(kind, api, "queue", "run")
        assert state.health["comparisons"] == 20
        kept = await _ask(kind, api, "export_queue", "run", score_kind="reference")
        assert await _ask(kind, api, "delete_queue", "run") == 1
        with pytest.raises(NotFound):
            await _ask(kind, api, "queue", "run")
        assert (await _ask(kind, api, "import_queue", "run", kept)).count == 20
        with pytest.raises(Conflict):
            await _ask(kind, api, "import_queue", "run", kept)


@both
async def test_cohorts_of_separate_calls(kind: Kind) -> None:
    async with listening() as api:
        members = [Member("p", f"r{i}", "step-1", 3, i) for i in range(3)]
        alone = await asyncio.gather(*(_ask(kind, api, "score_cohort", member) for member in members))
        together = await _ask(kind, api, "score_groups", [Group("p", ["r0", "r1", "r2"])])
        assert [scores.rows[0].score for scores in alone] == together.scores
        again = await _ask(kind, api, "score_cohort", members[1])
        assert again.rows[0].score == together.scores[1]
        with pytest.raises(Conflict):
            await _ask(kind, api, "score_cohort", Member("p", "another", "step-1", 3, 1))


@both
async def test_an_incomplete_cohort_is_an_error(kind: Kind) -> None:
    async with listening({"cohorts": {"policy": "fail"}}) as api:
        with pytest.raises(DeadlineExceeded) as caught:
            member = Member("p", "a", "alone", 4, 2, deadline_ms=100)
            await _ask(kind, api, "score_cohort", member, client={"retries": Retries(attempts=1)})
        assert caught.value.code == "cohort_incomplete"
        assert caught.value.details["size"] == 4


@both
async def test_around_the_judging(kind: Kind) -> None:
    async with listening() as api:
        models = await _ask(kind, api, "models")
        assert models.default.name == "gram"
        assert {judge.name for judge in models.judges if judge.writes_rationale} == {"gram_r2", "rm_r1"}
        assert await _ask(kind, api, "ready")
        assert await _ask(kind, api, "alive")
        assert "gram_prompts_inside" in await _ask(kind, api, "metrics")


# --- bad days ------------------------------------------------------------------------------------------------------


@both
async def test_failed_items_are_rows_and_single_failures_are_raised(kind: Kind) -> None:
    async with listening(engine=_fails("UNJUDGEABLE")) as api:
        good, bad = await _ask(kind, api, "compare_many", [ASKED, ("p", "UNJUDGEABLE", "b")])
        assert (good.ok, bad.ok, bad.p_first) == (True, False, None)
        assert bad.error.code == "non_finite_score"
        with pytest.raises(EngineUnusable) as caught:
            await _ask(kind, api, "compare", "p", "UNJUDGEABLE", "b")
        assert isinstance(caught.value, FailedJudgment)
        queue = Normalize("run")
        items = [Referenced("p", "a", "b"), Referenced("p", "UNJUDGEABLE", "b"), Referenced("p", "", "b")]
        scores = await _ask(kind, api, "score_references", items, normalize=queue)
        assert [row.ok for row in scores.rows] == [True, False, False]
        assert scores.rewards[1:] == [None, None]
        assert scores.queue.count == 1


@both
async def test_an_overloaded_service_is_waited_for(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow request holds all the room; the service's Retry-After is obeyed and the second one gets in."""
    monkeypatch.setattr(Admission, "_retry_after_s", lambda self: 1)
    engine = FakeEngine(options(delay_s=0.4))
    async with listening({"limits": {"max_prompts": 2, "max_waiting": 0}}, engine) as api:
        slow = asyncio.ensure_future(_ask(kind, api, "compare", *ASKED))
        await until(lambda: api.admission.held > 0)
        with pytest.raises(Overloaded) as caught:
            await _ask(kind, api, "compare", *ASKED, client={"retries": Retries(attempts=1)})
        assert caught.value.retry_after_s == 1
        patient = Retries(attempts=3, first_wait_s=0.0, max_wait_s=0.0)
        assert (await _ask(kind, api, "compare", *ASKED, client={"retries": patient, "timeout_s": 30.0})).ok
        assert (await slow).ok


@both
async def test_a_slow_service_answers_within_the_deadline_or_not_at_all(kind: Kind) -> None:
    async with listening(engine=FakeEngine(options(delay_s=1.0))) as api:
        with pytest.raises(DeadlineExceeded):
            await _ask(kind, api, "compare", *ASKED, timeout_s=0.5)
        assert (await _ask(kind, api, "compare", *ASKED)).ok
        await until(lambda: api.admission.running == 0)  # the one that was given up is not judged on


@both
async def test_an_engine_that_dies_is_an_error_never_a_score(kind: Kind) -> None:
    engine = FakeEngine(options(delay_s=0.2))
    async with listening(engine=engine) as api:
        once = {"retries": Retries(attempts=1)}
        running = asyncio.ensure_future(_ask(kind, api, "score_groups", [Group("p", ["a", "b"])], client=once))
        await until(lambda: api.admission.held > 0)
        engine.die()
        with pytest.raises(ScoringError) as caught:
            await running
        assert isinstance(caught.value, Overloaded | ConnectionLost)
        assert not await _ask(kind, api, "ready")


@both
async def test_a_server_that_is_gone_is_an_error(kind: Kind) -> None:
    async with listening() as api:
        url = api.url
        assert (await _ask(kind, url, "compare", *ASKED)).ok
    with pytest.raises(ConnectionLost):
        await _ask(kind, url, "score_groups", [Group("p", ["a", "b"])])
    assert not await _ask(kind, url, "ready")


async def test_a_server_that_comes_back_is_asked_on_by_the_same_client() -> None:
    """Its old connections are dead; only the retry knows."""
    async with listening() as api:
        with Client(api.url, retries=Retries(attempts=1)) as judge:
            assert (await asyncio.to_thread(judge.compare, *ASKED)).ok
            client = judge._link._http()
            for connection in client._transport._pool.connections:  # type: ignore[attr-defined]
                connection._connection._network_stream.get_extra_info("socket").shutdown(2)
            assert (await asyncio.to_thread(judge.compare, *ASKED)).ok


@both
async def test_keys(kind: Kind) -> None:
    keys = [{"id": "t", "sha256": hash_key("good"), "scopes": ["score"]}]
    async with listening({"auth": {"keys": keys}}) as api:
        assert (await _ask(kind, api, "compare", *ASKED, client={"api_key": "good"})).ok
        for key, method in ((None, "models"), ("bad", "models"), ("good", "queues")):
            with pytest.raises(Unauthorized):
                await _ask(kind, api, method, client={"api_key": key})


# --- completeness --------------------------------------------------------------------------------------------------


def test_every_endpoint_has_a_method() -> None:
    """Every path of the API description is asked for somewhere in the request builders."""
    paths = set(json.loads((ROOT / "openapi.json").read_text())["paths"])
    source = (ROOT / "client/gram_client/request.py").read_text() + (ROOT / "client/gram_client/client.py").read_text()
    ours = {path for path in paths if f'"{path}"' in source}
    ours |= {
        path for path in paths if path.startswith("/queues/{name}") and path.removeprefix("/queues/{name}") in source
    }
    assert paths - ours <= NOT_OURS

"""Other weights under a running service: who is judged by which, what is refused, and what happens when they fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import startup
from service.auth import hash_key
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine
from service.types import Completion
from tests.service.engines.test_checkpoints import write
from tests.support.serving import BODIES, PAIR, Api, options, serving, until

GROUP = {"groups": [{"prompt": "p", "responses": ["a", "b"]}], "normalize": {"queue": "q", "min_count": 2}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer's own tests run all samples."""
    monkeypatch.setattr(startup, "SELF_TEST_SAMPLES", 20)


class Moody(FakeEngine):
    """Answers badly with the weights named here, cannot load those that are too heavy, and waits while it is held."""

    bad: frozenset[str] = frozenset()
    heavy: frozenset[str] = frozenset()
    held: asyncio.Event | None = None

    async def reload(self, model: str | None, version: str | None) -> None:
        if Path(model or "").name in self.heavy:
            raise RuntimeError("out of memory")
        await super().reload(model, version)

    async def complete(self, request: EngineRequest) -> Completion:
        done = await super().complete(request)
        if self.held is not None:
            await self.held.wait()
        if Path(self.options.model).name in self.bad and request.task == "label":
            return Completion("length", 1, label_logprobs=(float("nan"),) * len(request.label_ids))
        return done


def folders(root: Path) -> dict[str, Any]:
    """Checkpoints one, two and bad; adapters tuned and other; one folder outside; where they lie, as settings."""
    for number, name in enumerate(("one", "two", "bad", "heavy"), 1):
        write(root / "checkpoints" / name, {"w": (number,)})
    for number, name in enumerate(("tuned", "other"), 1):
        write(root / "adapters" / name, {"w": (number,)})
    write(root / "outside")
    (root / "checkpoints" / "link-in").symlink_to(root / "checkpoints" / "one")
    (root / "checkpoints" / "link-out").symlink_to(root / "outside")
    where = {"checkpoints": str(root / "checkpoints"), "adapters": str(root / "adapters"), "wait_s": 5}
    return {"weights": where}


def moody(**changes: Any) -> Moody:
    engine = Moody(options(**changes))
    engine.bad, engine.heavy = frozenset({"bad"}), frozenset({"heavy"})
    return engine


async def version_of(api: Api, judge: str = "gram") -> str:
    reply = await api.post("/compare", PAIR | {"judge": judge})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["judge_version"]["weight_version"])


async def change(api: Api, checkpoint: str, **more: Any) -> httpx.Response:
    return await api.post("/admin/weights", {"checkpoint": checkpoint} | more)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# --- what a change does ---------------------------------------------------------------------------------------------


async def test_new_weights_answer_and_sign_every_route(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        before = {route: (await api.post(route, body)).json() for route, body in BODIES.items()}
        reply = await change(api, "one", version="v2")
        assert reply.status_code == 200
        assert {judge["weight_version"] for judge in reply.json()["judges"]} == {"v2"}
        after = {route: (await api.post(route, body)).json() for route, body in BODIES.items()}
        assert {body["judge_version"]["weight_version"] for body in before.values()} == {"fake-1"}
        assert {body["judge_version"]["weight_version"] for body in after.values()} == {"v2"}
        assert before["/compare"]["p_first"] != after["/compare"]["p_first"]
        listed = (await api.client.get("/models")).json()["judges"]
        assert {judge["weight_version"] for judge in listed} == {"v2"}


async def test_versions_come_from_the_content_where_nobody_names_them(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        versions = []
        for name in ("one", "two", "one"):
            assert (await change(api, name)).status_code == 200
            versions.append(await version_of(api))
        assert versions[0] == versions[2] != versions[1]


async def test_a_manifest_names_the_version_and_its_self_test_decides(tmp_path: Path) -> None:
    overrides = folders(tmp_path)
    test = {"prompt": "2 + 2 = ?", "chosen": "4", "rejected": "5", "min_p": 0.6}
    limits = {"max_prompt_tokens": 20000, "max_rationale_tokens": 0}
    judge = {"name": "gram", "family": "gram", "template": "eval", "labels": ["A", "B"], "self_test": test} | limits

    def label_logits(request: EngineRequest) -> list[float]:
        """Right about the sum with every checkpoint but two, whose answers depend on the order only."""
        text = bytes(i for i in request.prompt_ids if i < 256).decode()
        first = "Answer]\n4\n" in text.partition("The Start of Assistant B")[0]
        right = [4.0, 0.0] if first else [0.0, 4.0]
        return right if "2 + 2" in text and Path(engine.options.model).name != "two" else [0.0, 1.0]

    engine = moody(label_logits=label_logits)
    for name in ("one", "two"):
        manifest = {"format": 1, "version": f"judge-{name}", "judges": [judge]}
        (tmp_path / "checkpoints" / name / "judge.json").write_text(json.dumps(manifest))
    overrides["judges"] = [{"name": "gram", "family": "gram"}]
    async with serving(overrides, engine) as api:
        assert (await change(api, "one")).status_code == 200
        assert await version_of(api) == "judge-one"
        refused = await change(api, "two")
        assert code(refused) == (409, "not_applied")
        assert "self-test" in refused.json()["error"]["message"]
        assert await version_of(api) == "judge-one"


async def test_requests_inside_finish_on_the_old_weights_and_later_ones_wait(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody(delay_s=0.2)) as api:
        inside = [asyncio.create_task(api.post("/compare", PAIR | {"prompt": f"q{i}"})) for i in range(5)]
        await until(lambda: api.engine.in_flight == 10)
        changing = asyncio.create_task(change(api, "one", version="v2"))
        await until(lambda: bool(api.app.state.gate.exchange.is_changing))
        late = [asyncio.create_task(api.post("/compare", PAIR | {"prompt": f"q{i}"})) for i in range(5)]
        assert (await changing).status_code == 200
        assert {(await task).json()["judge_version"]["weight_version"] for task in inside} == {"fake-1"}
        assert {(await task).json()["judge_version"]["weight_version"] for task in late} == {"v2"}


async def test_a_stream_begun_on_the_old_weights_ends_on_them(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody(token_delay_s=0.01)) as api:
        body = PAIR | {"judge": "gram_r2", "stream": True}
        async with api.client.stream("POST", "/rationale", json=body) as reply:
            events = [event async for event in reply.aiter_lines()]
        assert '"weight_version": "fake-1"' in " ".join(events)
        streaming = asyncio.create_task(api.post("/rationale", body))
        await until(lambda: api.app.state.gate.exchange.waiting_for == 1)
        assert (await change(api, "one", version="v2")).status_code == 200
        assert '"weight_version": "fake-1"' in (await streaming).text


async def test_each_version_has_a_reward_window_of_its_own(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        counts = []
        for version in (None, "v2"):
            if version is not None:
                assert (await change(api, "one", version=version)).status_code == 200
            for _ in range(2):
                counts.append((await api.post("/score", GROUP)).json()["queue"]["count"])
        assert counts == [2, 4, 2, 4]
        queues = (await api.client.get("/queues/q")).json()["queues"]
        assert sorted(queue["weight_version"] for queue in queues) == ["fake-1", "v2"]


async def test_a_group_that_waits_for_members_moves_to_the_new_weights(tmp_path: Path) -> None:
    def member(index: int) -> dict[str, Any]:
        cohort = {"group_id": "g", "size": 2, "index": index}
        return {"items": [{"prompt": "p", "response": f"r{index}", "cohort": cohort}]}

    async with serving(folders(tmp_path), moody()) as api:
        first = asyncio.create_task(api.post("/score", member(0)))
        await until(lambda: api.app.state.service.cohorts.waiting == 1)
        assert (await change(api, "one", version="v2")).status_code == 200
        await until(lambda: api.app.state.service.cohorts.waiting == 1)
        second = await api.post("/score", member(1))
        both = [(await first).json(), second.json()]
        assert {body["judge_version"]["weight_version"] for body in both} == {"v2"}
        assert [body["results"][0]["status"] for body in both] == ["ok", "ok"]


async def test_answers_of_the_old_weights_are_forgotten(tmp_path: Path) -> None:
    """The same version said again for other servers' weights would be the one case that no key tells apart."""
    async with serving(folders(tmp_path) | {"cache": {"entries": 1000}}, moody()) as api:
        cache = api.app.state.service.engine.answers
        await version_of(api)
        assert len(cache) == 2
        assert (await change(api, "one", version="v2")).status_code == 200
        assert len(cache) < 5  # one probe a judge at most, none of the old answers
        before = api.engine.calls
        await version_of(api)
        assert api.engine.calls == before + 2


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../outside", "/etc", "..", ".", "", "a/b", "one\x00", "x" * 200, "-rf", "~", "one/../two", "%2e%2e"]
)
async def test_paths_are_no_names(tmp_path: Path, name: str) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        for reply in (await change(api, name), await api.post("/admin/adapters", {"name": name})):
            assert reply.status_code == 422
        assert await version_of(api) == "fake-1"


async def test_links_lead_within_the_directory_only(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        assert code(await change(api, "link-out")) == (404, "not_found")
        assert code(await change(api, "nowhere")) == (404, "not_found")
        assert (await change(api, "link-in")).status_code == 200


async def test_without_a_directory_nothing_can_be_loaded() -> None:
    async with serving() as api:
        assert code(await change(api, "one")) == (409, "not_applied")
        assert code(await api.post("/admin/adapters", {"name": "tuned"})) == (409, "not_applied")


async def test_only_the_admin_scope_opens_these_routes(tmp_path: Path) -> None:
    keys = [
        {"id": scope, "sha256": hash_key(f"key-{scope}"), "scopes": [scope]}
        for scope in ("score", "queue", "metrics", "admin")
    ]
    async with serving(folders(tmp_path) | {"auth": {"keys": keys}}, moody()) as api:
        for scope in ("score", "queue", "metrics", ""):
            headers = {"Authorization": f"Bearer key-{scope}"}
            status = 403 if scope else 401
            assert (await api.post("/admin/weights", {"checkpoint": "one"}, **headers)).status_code == status
            assert (await api.post("/admin/adapters", {"name": "tuned"}, **headers)).status_code == status
            assert (await api.client.delete("/admin/adapters/tuned", headers=headers)).status_code == status
            assert (await api.client.get("/admin/weights", headers=headers)).status_code == status
        headers = {"Authorization": "Bearer key-admin"}
        assert (await api.post("/admin/weights", {"checkpoint": "one"}, **headers)).status_code == 200


async def test_one_version_never_means_two_sets_of_weights(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        assert (await change(api, "one", version="v2")).status_code == 200
        assert code(await change(api, "two", version="v2")) == (409, "not_applied")
        assert (await change(api, "one", version="v2")).status_code == 200  # the same weights once more


async def test_a_checkpoint_with_other_judges_is_refused(tmp_path: Path) -> None:
    entry = {"family": "gram", "template": "eval", "labels": ["A", "B"]}
    limits = {"max_prompt_tokens": 20000, "max_rationale_tokens": 0}
    for name, judge in (("one", "mine"), ("two", "yours")):
        manifest = {"format": 1, "version": name, "judges": [entry | limits | {"name": judge}]}
        (folders(tmp_path) if name == "one" else None)
        (tmp_path / "checkpoints" / name / "judge.json").write_text(json.dumps(manifest))
    where = {"weights": {"checkpoints": str(tmp_path / "checkpoints")}}
    first = {"engine": {"type": "fake", "model": str(tmp_path / "checkpoints" / "one")}, "judges": []}
    async with serving(where | first, FakeEngine(options(model=first["engine"]["model"]))) as api:  # type: ignore[index]
        refused = await change(api, "two")
        assert code(refused) == (409, "not_applied")
        assert "yours" in refused.json()["error"]["message"]


async def test_a_broken_manifest_is_refused_and_told_to_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        (tmp_path / "checkpoints" / "one" / "judge.json").write_text("{")
        refused = await change(api, "one")
        assert code(refused) == (409, "not_applied")
        assert str(tmp_path) not in refused.text
        assert "judge.json" in caplog.text
        assert await version_of(api) == "fake-1"


async def test_changes_come_one_at_a_time(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody(delay_s=0.1)) as api:
        first = asyncio.create_task(change(api, "one"))
        await until(lambda: bool(api.app.state.service.weights.is_busy))
        assert code(await change(api, "two")) == (409, "not_applied")
        assert (await first).status_code == 200


async def test_requests_that_do_not_end_keep_their_weights(tmp_path: Path) -> None:
    overrides = folders(tmp_path)
    overrides["weights"]["wait_s"] = 0.05
    engine = moody()
    async with serving(overrides, engine) as api:
        engine.held = asyncio.Event()
        inside = asyncio.create_task(api.post("/compare", PAIR))
        await until(lambda: api.app.state.gate.exchange.waiting_for == 1)
        reply = await change(api, "one")
        assert code(reply) == (503, "overloaded")
        assert reply.headers["Retry-After"]
        engine.held.set()
        assert (await inside).json()["judge_version"]["weight_version"] == "fake-1"
        assert await version_of(api) == "fake-1"


# --- what fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bad", "heavy"])
async def test_weights_that_fail_are_rolled_back(tmp_path: Path, name: str) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        before = (await api.post("/compare", PAIR)).json()
        refused = await change(api, name)
        assert code(refused) == (409, "not_applied")
        assert refused.json()["error"]["details"] == {"rolled_back": True}
        assert (await api.post("/compare", PAIR)).json()["p_first"] == before["p_first"]
        assert await version_of(api) == "fake-1"
        status = (await api.client.get("/admin/weights")).json()
        assert (status["last"]["outcome"], status["changing"]) == ("rolled_back", False)
        assert (await change(api, "one")).status_code == 200


async def test_nobody_sees_an_answer_of_weights_that_were_refused(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody(delay_s=0.02)) as api:
        changing = asyncio.create_task(change(api, "bad"))
        replies = []
        while not changing.done():
            replies.append(await api.post("/compare", PAIR))
        assert {reply.status_code for reply in replies} == {200}
        assert {reply.json()["judge_version"]["weight_version"] for reply in replies} == {"fake-1"}


async def test_without_any_weights_that_answer_the_service_is_dead(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        assert (await change(api, "one")).status_code == 200
        api.engine.bad, api.engine.heavy = frozenset({"two"}), frozenset({"one"})  # type: ignore[attr-defined]
        assert code(await change(api, "two")) == (503, "engine_dead")
        assert code(await api.post("/compare", PAIR)) == (503, "engine_dead")
        assert (await api.client.get("/livez")).status_code == 503


async def test_a_change_goes_on_when_its_caller_has_left(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody(delay_s=0.2)) as api:
        body = {"checkpoint": "one", "version": "v2"}
        assert code(await api.post("/admin/weights", body, **{"X-Deadline-Ms": "200"})) == (504, "deadline_exceeded")
        await until(lambda: not api.app.state.service.weights.is_busy)
        assert await version_of(api) == "v2"


# --- adapters -------------------------------------------------------------------------------------------------------


async def test_adapters_come_and_go(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        base = (await api.post("/compare", PAIR)).json()
        reply = await api.post("/admin/adapters", {"name": "tuned", "judge": "mine"})
        assert reply.status_code == 200
        (judge,) = reply.json()["judges"]
        assert judge["judge"] == "mine"
        tuned = (await api.post("/compare", PAIR | {"judge": "mine"})).json()
        assert tuned["judge_version"]["weight_version"] == judge["weight_version"] != "fake-1"
        assert tuned["p_first"] != base["p_first"]
        assert await version_of(api) == "fake-1"
        assert (await api.client.get("/admin/weights")).json()["added"] == ["tuned"]
        assert (await api.client.delete("/admin/adapters/tuned")).status_code == 200
        assert code(await api.post("/compare", PAIR | {"judge": "mine"})) == (404, "unknown_judge")
        assert code(await api.client.delete("/admin/adapters/tuned")) == (404, "not_found")


async def test_an_adapter_of_the_same_name_with_other_weights_is_another_version(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        versions = []
        for _ in range(2):
            reply = await api.post("/admin/adapters", {"name": "tuned"})
            versions.append(reply.json()["judges"][0]["weight_version"])
            await api.client.delete("/admin/adapters/tuned")
            (tmp_path / "adapters" / "tuned" / "model.safetensors").unlink()
            (tmp_path / "adapters" / "tuned" / "config.json").unlink()
            (tmp_path / "adapters" / "tuned").rmdir()
            write(tmp_path / "adapters" / "tuned", {"w": (7,)})
        assert versions[0] != versions[1]


async def test_an_adapter_stays_over_a_change_of_its_base(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        await api.post("/admin/adapters", {"name": "tuned"})
        before = await version_of(api, "tuned")
        assert (await change(api, "one", version="v2")).status_code == 200
        assert await version_of(api, "tuned") == before.replace("fake-1", "v2")


async def test_names_are_taken_once(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        assert code(await api.post("/admin/adapters", {"name": "tuned", "judge": "gram"})) == (409, "not_applied")
        assert (await api.post("/admin/adapters", {"name": "tuned"})).status_code == 200
        assert code(await api.post("/admin/adapters", {"name": "tuned", "judge": "x"})) == (409, "not_applied")
        assert code(await api.post("/admin/adapters", {"name": "other", "like": "nobody"})) == (404, "not_found")


async def test_an_adapter_waits_for_its_last_request_before_it_goes(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody(delay_s=0.1)) as api:
        await api.post("/admin/adapters", {"name": "tuned"})
        inside = asyncio.create_task(api.post("/compare", PAIR | {"judge": "tuned"}))
        await until(lambda: api.engine.in_flight == 2)
        assert (await api.client.delete("/admin/adapters/tuned")).status_code == 200
        assert (await inside).status_code == 200


async def test_changes_are_counted_and_judges_shown(tmp_path: Path) -> None:
    async with serving(folders(tmp_path), moody()) as api:
        await change(api, "one", version="v2")
        await change(api, "bad")
        text = (await api.client.get("/metrics")).text
        assert 'gram_weight_changes_total{kind="weights",outcome="applied"} 1.0' in text
        assert 'gram_weight_changes_total{kind="weights",outcome="rolled_back"} 1.0' in text
        assert 'judge="gram",template_hash=' in text
        assert 'weight_version="v2"} 1.0' in text
        assert 'weight_version="fake-1"' not in text

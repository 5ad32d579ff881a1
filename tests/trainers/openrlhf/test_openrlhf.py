"""OpenRLHF's own rollout client against the service: what its trainer gets, on good days and bad ones.

The client runs in a program of its own (`benchmarks.openrlhf_clients`); the service runs here, on the fake engine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.processes import Worker
from benchmarks.rollouts import Job, Rewarded, Rollout
from service.auth import hash_key
from tests.support.policy_templates import POLICIES
from tests.support.serving import Api, listening, options

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

JUDGE = {"judges": [{"name": "gram", "family": "gram"}]}
QUESTION, REFERENCE = "What is 7 + 5?", "It is 13."
LOGS = {"ok", "consistent", "flagged", "normalized", "margin"}


@pytest.fixture(scope="module")
def clients() -> Iterator[Worker]:
    if importlib.util.find_spec("openrlhf") is None:
        script = Path(__file__).with_name("install.sh")
        pytest.skip(f"OpenRLHF's client is not installed; run: sh {script} {sys.executable}")
    with Worker("benchmarks.openrlhf_clients") as worker:
        assert worker.receive(240) == "0.11.2"
        yield worker


def templated(question: str = QUESTION, name: str = "chatml") -> str:
    return POLICIES[name].render([{"role": "user", "content": question}])


def rollout(number: int | str, label: Any = REFERENCE, name: str = "chatml", question: str = QUESTION) -> Rollout:
    return Rollout(templated(question, name), f"answer {number}{POLICIES[name].end}", label)


async def sent(
    clients: Worker, api: Api, rollouts: Sequence[Rollout], max_length: int = 10_000, url: str = ""
) -> list[Rewarded]:
    """All at the same time."""
    job = Job([url or f"{api.url}/get_reward"], rollouts, len(rollouts), max_length)
    rewarded, _ = await asyncio.to_thread(clients.ask, job, 120.0)
    found: list[Rewarded] = rewarded
    assert len(found) == len(rollouts)
    return found


def posts(api: Api) -> dict[str, float]:
    """Requests by status: what OpenRLHF tries again comes twice."""
    samples = [one for family in api.app.state.gate.metrics.requests.collect() for one in family.samples]
    return {one.labels["status"]: one.value for one in samples if one.labels["route"] == "/get_reward"}


async def natively(api: Api, numbers: Sequence[int | str]) -> list[float]:
    items = [{"prompt": QUESTION, "response": f"answer {n}", "reference": REFERENCE} for n in numbers]
    return [row["score"] for row in (await api.post("/score", {"items": items})).json()["results"]]


def as_tensors(one: Rewarded) -> dict[str, torch.Tensor]:
    """What OpenRLHF makes of a rollout's numbers (trainer/ppo_utils/samples_generator.py); a text raises here."""
    return {
        "reward": torch.tensor([one.reward]),
        "score": torch.tensor([one.scores]),
        **{key: torch.tensor([value]) for key, value in one.extra_logs.items()},
    }


async def test_rewards_arrive_as_tensors_of_one_shape_and_in_order(clients: Worker) -> None:
    async with listening(JUDGE) as api:
        found = await sent(clients, api, [rollout(n) for n in range(8)] + [rollout(8, label="")])
        assert [one.reward for one in found[:8]] == [[score] for score in await natively(api, range(8))]
        assert (found[8].reward, found[8].extra_logs["ok"]) == ([0.5], [0.0])
        tensors = [as_tensors(one) for one in found]
        assert {frozenset(one) for one in tensors} == {frozenset({"reward", "score"} | LOGS)}
        assert {tensor.shape for one in tensors for tensor in one.values()} == {torch.Size([1, 1])}
        assert torch.cat([one["reward"] for one in tensors]).isfinite().all()
        assert posts(api) == {"200": 9.0}


@pytest.mark.parametrize("name", ["llama-3.1", "mistral-v7", "gemma"])
async def test_prompts_that_openrlhf_cuts_at_their_left_are_judged_whole(clients: Worker, name: str) -> None:
    whole = rollout(1, name=name)
    async with listening(JUDGE) as api:
        found = await sent(clients, api, [whole], len(whole.prompt) + len(whole.response) - 15)
        assert found[0].reward == await natively(api, [1])


async def test_samples_of_a_prompt_become_its_group(clients: Worker) -> None:
    async with listening({**JUDGE, "compat": {"cohort_size": 4}}) as api:
        questions = ("What is 7 + 5?", "And 7 + 6?")
        found = await sent(clients, api, [rollout(n, "", question=q) for n in range(4) for q in questions])
        groups = [{"prompt": q, "responses": [f"answer {n}" for n in range(4)]} for q in questions]
        rows = (await api.post("/score", {"groups": groups})).json()["results"]
        for number, _ in enumerate(questions):
            assert [one.reward for one in found[number::2]] == [[row["score"]] for row in rows[4 * number :][:4]]


async def test_a_key_in_the_url_opens_the_service(clients: Worker) -> None:
    key = "a-key-for-a-trainer"
    auth = {"auth": {"keys": [{"id": "trainer", "sha256": hash_key(key), "scopes": ["score"]}]}}
    async with listening({**JUDGE, **auth}) as api:
        (found,) = await sent(clients, api, [rollout(1)], url=f"http://:{key}@{api.url[7:]}/get_reward")
        assert found.extra_logs["ok"] == [1.0]


async def test_a_failed_judgment_is_a_number_that_says_so(clients: Worker) -> None:
    async with listening(JUDGE) as api:
        api.engine.options = options(fault="nan")
        (found,) = await sent(clients, api, [rollout(1)])
        assert (found.reward, found.scores, found.extra_logs["ok"]) == ([0.5], [0.5], [0.0])
        assert posts(api) == {"200": 1.0}


async def test_a_crowd_waits_in_line_and_nobody_tries_twice(clients: Worker) -> None:
    async with listening({**JUDGE, "limits": {"max_prompts": 2}}) as api:
        api.engine.options = options(delay_s=0.01)
        found = await sent(clients, api, [rollout(n) for n in range(48)])
        api.engine.options = options()
        assert [one.reward for one in found] == [[score] for score in await natively_in_turn(api, range(48))]
        assert posts(api) == {"200": 48.0}


async def natively_in_turn(api: Api, numbers: Sequence[int]) -> list[float]:
    return [score for number in numbers for score in await natively(api, [number])]


async def test_a_dead_engine_is_five_tries_and_no_reward(clients: Worker) -> None:
    """OpenRLHF goes on with None, and fails later: it is told the truth as long as it asks."""
    async with listening(JUDGE) as api:
        api.engine.die()
        (found,) = await sent(clients, api, [rollout(1)])
        assert (found.reward, found.extra_logs) == (None, {})
        assert posts(api) == {"503": 5.0}

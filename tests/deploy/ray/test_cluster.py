"""Two replicas on one machine, with Redis: what a caller sees, what they share, and what happens when one dies."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.deploy.ray.conftest import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PAIR = {"prompt": "What is 7 + 5?", "response_a": "12", "response_b": "13"}
SLOW = {"type": "fake", "max_model_len": 32_768, "delay_s": 0.25}
Until = Callable[..., None]


@pytest.fixture(scope="module")
def two(cluster: Cluster) -> Cluster:
    """One replica, which load makes two: prompts inside are over four, for longer than a second."""
    cluster.deploy(SLOW, min_replicas=1, max_replicas=2, target_prompts=4, upscale_delay_s=1)
    assert cluster.running() == 1
    answers = Counter[int]()

    def ask(_: int) -> None:
        with cluster.client() as client:
            answers[client.post("/compare", json=PAIR).status_code] += 1

    give_up_at = time.monotonic() + 300  # the second replica starts while the first is under load
    with ThreadPoolExecutor(32) as pool:
        while cluster.running() < 2 and time.monotonic() < give_up_at:
            list(pool.map(ask, range(32)))
    assert cluster.running() == 2, "prompts inside did not bring a second replica"
    assert set(answers) == {200}, "scaling lost requests"
    return cluster


def births(cluster: Cluster) -> set[str]:
    """When the replicas that answered were born: each has metrics of its own."""
    found = set()
    for _ in range(40):
        with cluster.client() as client:
            text = client.get("/metrics").text
        found |= set(re.findall(r"^gram_cohort_assembly_seconds_created (\S+)$", text, re.MULTILINE))
    return found


def test_load_brings_a_second_replica_and_both_answer(two: Cluster) -> None:
    assert len(births(two)) == 2
    assert len(two.replicas()) == 2


def test_every_replica_gives_the_same_answer(two: Cluster) -> None:
    def ask(_: int) -> float:
        with two.client() as client:
            return float(client.post("/compare", json=PAIR).json()["p_first"])

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(64)))) == 1


def test_reward_queues_are_shared(two: Cluster) -> None:
    """Forty commits through whichever replica: one queue that misses nothing and counts nothing twice."""

    def score(number: int) -> tuple[int, int]:
        body = {
            "items": [{"prompt": "q", "response": f"r{number}", "reference": "s"}],
            "normalize": {"queue": "shared", "window": 1000},
        }
        with two.client() as client:
            queue = client.post("/score", json=body).json()["queue"]
        return queue["seq_first"], queue["seq_last"]

    with ThreadPoolExecutor(16) as pool:
        entries = sorted(pool.map(score, range(40)))
    first = entries[0][0]
    assert entries == [(first + i, first + i) for i in range(40)]


def test_members_of_a_group_meet_wherever_they_land(two: Cluster) -> None:
    def member(place: int) -> dict[str, Any]:
        cohort = {"group_id": f"g{place // 4}", "size": 4, "index": place % 4}
        body = {"items": [{"prompt": "q", "response": f"answer {place % 4}", "cohort": cohort}]}
        with two.client() as client:
            (row,) = client.post("/score", json=body).json()["results"]
        return dict(row)

    with ThreadPoolExecutor(32) as pool:
        rows = list(pool.map(member, range(32)))
    assert {row["status"] for row in rows} == {"ok"}
    groups = {tuple(row["score"] for row in rows[start : start + 4]) for start in range(0, 32, 4)}
    assert len(groups) == 1, "equal groups have equal scores, whoever judged them"


def test_a_caller_that_leaves_takes_its_prompts_along(two: Cluster, until: Until) -> None:
    with two.client() as client, pytest.raises(Exception, match="timed out"):
        client.post("/rank", json={"prompt": "q", "responses": [f"r{i}" for i in range(40)]}, timeout=0.3)

    def inside() -> set[str]:
        with two.client() as client:
            texts = [client.get("/metrics").text for _ in range(16)]
        return {value for text in texts for value in re.findall(r"^gram_prompts_inside (\S+)$", text, re.MULTILINE)}

    until(lambda: inside() == {"0.0"}, 20)


def test_a_replica_that_dies_is_replaced_and_callers_that_try_again_lose_nothing(two: Cluster, until: Until) -> None:
    victim = two.replicas()[0]

    def ask(number: int) -> int:
        if number == 8:
            victim.kill()
        with two.client() as client:
            for _ in range(100):
                answer = client.post("/compare", json=PAIR)
                if answer.status_code == 200:
                    return 200
                assert answer.status_code in (500, 502, 503), answer.text
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(32))) == {200}
    until(lambda: two.running() == 2 and len(two.replicas()) == 2, 120)
    assert len(births(two)) == 2

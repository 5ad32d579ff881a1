"""The demo judge on real vLLM engines, one for each of two replicas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.settings import demo_model
from tests.deploy.ray.conftest import Cluster

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def test_two_replicas_judge_alike_and_leave_no_engine_behind(cluster: Cluster) -> None:
    engine = {"type": "vllm", "model": demo_model(), "device": "cpu", "dtype": "float32"}
    cluster.deploy(engine | {"kv_cache_bytes": 64 * 2**20}, min_replicas=2, max_replicas=2)
    assert cluster.running() == 2
    engines = [child for replica in cluster.replicas() for child in replica.children(recursive=True)]
    assert len(engines) >= 4, "each replica has an engine core and a worker"

    def ask(number: int) -> float:
        body = {"prompt": "Compute 1 + 5.", "response_a": "6", "response_b": str(7 + number % 2)}
        with cluster.client() as client:
            return float(client.post("/compare", json=body).json()["p_first"])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(32)))
    assert len(set(answers[0::2])) == len(set(answers[1::2])) == 1, "float32 answers are the same bits everywhere"
    assert min(answers) > 0.5, "six is right"
    cluster.deploy({"type": "fake"}, min_replicas=1, max_replicas=1)
    assert not [process for process in engines if process.is_running()]

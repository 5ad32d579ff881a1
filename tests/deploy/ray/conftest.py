"""A Ray cluster in this process's children, with Serve on a free loopback port."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import: nothing is told to anybody

import httpx
import psutil
import pytest
import ray
from ray import serve

from deploy.ray.application import NAME, build
from tests.support.redis_server import RedisServer, free_port

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Cluster:
    """The running application. ``args`` are what it was last deployed with."""

    redis: RedisServer
    port: int
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, engine: dict[str, Any], **options: Any) -> None:
        """Replace what runs; returns when its first replicas are ready."""
        settings = {
            "engine": engine,
            "store": {"type": "redis", "url": self.redis.url},
            "auth": {"allow_unauthenticated": True},
            "cache": {"entries": 0},
        }
        self.args = {"settings": settings, "num_cpus": 0.1, "drain_s": 2.0} | options
        serve.run(build(self.args), name=NAME, route_prefix="/")

    def running(self) -> int:
        deployment = serve.status().applications[NAME].deployments[NAME]
        return int(deployment.replica_states.get("RUNNING", 0))

    def replicas(self) -> list[psutil.Process]:
        """Their processes, by the name that Ray gives them."""
        children = psutil.Process().children(recursive=True)
        return [child for child in children if "ServeReplica" in " ".join(_command(child))]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    path = f"{ROOT}:{ROOT / 'client'}"
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield Cluster(redis, port)
    finally:
        serve.shutdown()
        ray.shutdown()
        redis.stop()


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition; fail when it does not come."""

    def wait(true: Callable[[], bool], seconds: float = 60.0) -> None:
        give_up_at = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < give_up_at, "it did not come to pass"
            time.sleep(0.25)

    return wait

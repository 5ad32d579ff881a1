"""The whole service in its own process on real vLLM: judges on one engine, repeatable answers, a killed engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.support.serving import BODIES, PAIR, ROUTES
from tests.support.tiny_model import write_tiny_checkpoints

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]

PATIENT = {"X-Deadline-Ms": "300000"}
"""For generations on busy machines."""
CONFIG = """
[engine]
model = "{model}"
device = "cpu"
dtype = "float32"
max_model_len = 3072
[engine.adapters]
tuned = "{adapter}"
[store]
path = "{state}/rewards.sqlite"
[cache]
entries = 0  # what is asked again is to be computed again
[[judges]]
name = "gram"
family = "gram"
min_label_mass = 0
[[judges]]
name = "tuned"
family = "gram"
adapter = "tuned"
min_label_mass = 0
[[judges]]
name = "writer"
family = "gram_r2"
max_rationale_tokens = 96
min_label_mass = 0
[[judges]]
name = "reasoner"
family = "rm_r1"
template = "reasoner"
max_rationale_tokens = 32
on_budget = "answer"
min_label_mass = 0
"""


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    client: httpx.AsyncClient

    def children(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, root: Path) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    made = write_tiny_checkpoints(folder / "tiny")
    model = folder / "model"
    shutil.copytree(made.causal, model)
    described = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (model / "config.json").write_text(json.dumps(described))
    config = folder / "service.toml"
    config.write_text(CONFIG.format(model=model, adapter=made.adapter, state=folder))
    command = [sys.executable, "-m", "service", "serve", "--config", str(config), "--port", "0"]
    with (folder / "log").open("w") as log, _process(command, root, log) as process:
        url = await asyncio.to_thread(_ready, process, folder / "log")
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            yield Served(process, client)


@contextmanager
def _process(command: list[str], root: Path, log: TextIO) -> Iterator[subprocess.Popen[str]]:
    """Nothing of it is left behind, whatever a test did to it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRAM_")}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()


def _ready(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Ready at (http://[\d.:]+)", line):
            return found[1]
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "/rationale"])
async def test_every_route_answers(served: Served, route: str) -> None:
    assert (await served.client.post(route, json=BODIES[route])).status_code == 200


async def test_a_rationale_without_a_verdict_is_no_number(served: Served) -> None:
    """The random model writes none."""
    reply = await served.client.post("/rationale", json=PAIR, headers=PATIENT)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "invalid_verdict")
    shown = reply.json()["error"]["details"]["rationales"]
    assert [(r["order"], r["verdict"], r["tokens"], r["finish_reason"]) for r in shown] == [
        ("ab", "invalid", 96, "length"),
        ("ba", "invalid", 96, "length"),
    ]


@pytest.mark.parametrize("judge", ["writer", "reasoner"])
async def test_a_judge_that_must_answer_at_its_budget_does(served: Served, judge: str) -> None:
    """Greedy: the same alone, turned round and streamed. By vote: early stopping, on what the model samples."""
    body = PAIR | {"judge": judge, "max_rationale_tokens": 12, "on_budget": "answer"}
    turned = body | {"response_a": PAIR["response_b"], "response_b": PAIR["response_a"]}
    one, other = [(await served.client.post("/rationale", json=b, headers=PATIENT)).json() for b in (body, turned)]
    assert [(r["forced"], r["tokens"], r["finish_reason"]) for r in one["rationales"]] == [(True, 12, "length")] * 2
    assert one["p_first"] == 1 - other["p_first"] != 0.5
    streamed = (await served.client.post("/rationale", json=body | {"stream": True}, headers=PATIENT)).text
    last = json.loads(streamed.strip().rpartition("data: ")[2])
    names = ("p_first", "margin", "rationales")
    assert [last[name] for name in names] == [one[name] for name in names]
    voted = (await served.client.post("/rationale", json=body | {"votes": 4, "stop_when_decided": True})).json()
    assert sum(voted["votes"].values()) == 8
    assert len(voted["rationales"]) == 8 - voted["votes"]["skipped"]
    assert len({r["text"] for r in voted["rationales"]}) > 1


async def test_adapters_are_judges_of_their_own(served: Served) -> None:
    base, tuned = [(await served.client.post("/compare", json=PAIR | {"judge": n})).json() for n in ("gram", "tuned")]
    assert base["p_first"] != tuned["p_first"]
    assert base["judge_version"]["weight_version"] != tuned["judge_version"]["weight_version"]


async def test_swapped_responses_are_exact_complements(served: Served) -> None:
    swapped = PAIR | {"response_a": PAIR["response_b"], "response_b": PAIR["response_a"]}
    one, other = [(await served.client.post("/compare", json=pair)).json() for pair in (PAIR, swapped)]
    assert one["p_first"] == 1 - other["p_first"] != 0.5
    assert one["margin"] == -other["margin"]


async def test_alone_batched_and_cached_agree_bit_for_bit(served: Served) -> None:
    pairs = [PAIR | {"prompt": f"What is {i} + {i}?", "response_a": f"{2 * i}"} for i in range(16)]
    batch = (await served.client.post("/compare", json={"items": pairs})).json()["results"]
    alone = [(await served.client.post("/compare", json=pair)).json() for pair in pairs]
    names = ("p_first", "margin", "p_ab", "p_ba", "label_mass")
    assert all(row["usage"]["cached_tokens"] > 500 for row in alone)
    assert [[row[n] for n in names] for row in batch] == [[row[n] for n in names] for row in alone]


async def test_too_long_is_refused_and_never_cut(served: Served) -> None:
    reply = await served.client.post("/compare", json=PAIR | {"response_a": "word " * 3000})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "token_limit")
    assert reply.json()["error"]["details"]["field"] == "response_a"


async def test_engine_metrics_stand_beside_ours(served: Served) -> None:
    text = (await served.client.get("/metrics")).text
    assert "vllm:prefix_cache_hits_total" in text
    assert 'gram_requests_total{route="/compare",status="200"}' in text


async def test_hanging_up_empties_the_engine(served: Served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await served.client.post("/rationale", json=PAIR | {"votes": 16}, timeout=0.3)
    await _until_metric(served, "gram_engine_unfinished", 0.0)


async def test_zz_a_killed_engine_is_noticed_within_five_seconds_and_replaced(served: Served) -> None:
    """Last in the file: it ends the service."""
    before = (await served.client.post("/compare", json=PAIR)).json()
    body = PAIR | {"votes": 16}
    calls = (served.client.post("/rationale", json=body, headers=PATIENT) for _ in range(3))
    inside = [asyncio.create_task(_timed(call)) for call in calls]
    await _until_metric(served, "gram_engine_unfinished", 96.0)
    core = next(child for child in served.children() if "EngineCore" in _name(child) or "EngineCore" in _title(child))
    core.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    while (await served.client.get("/readyz")).status_code == 200:
        await asyncio.sleep(0.05)
    assert time.monotonic() - killed < 5
    for ended_at, reply in await asyncio.gather(*inside):
        assert ended_at - killed < 5
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")
    assert (await served.client.get("/livez")).status_code == 200
    refused = await served.client.post("/compare", json=PAIR)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_dead")
    await _until_metric(served, 'gram_engine_restarts_total{outcome="started"}', 1.0, seconds=180)
    after = (await served.client.post("/compare", json=PAIR)).json()
    assert {**after, "usage": None} == {**before, "usage": None}
    served.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.process.wait, 60) == 0


async def test_zz_a_killed_service_leaves_no_process(tmp_path: Path, root: Path) -> None:
    """SIGKILL while the engine loads, when all of its processes run and none can know of its parent otherwise."""
    made = write_tiny_checkpoints(tmp_path / "tiny")
    arguments = ["--model", str(made.causal), "--family", "gram", "--store", "memory", "--port", "0"]
    command = [sys.executable, "-m", "service", "serve", *arguments]
    with (tmp_path / "log").open("w") as log, _process(command, root, log) as process:
        children = await asyncio.to_thread(_engine_of, process)
        process.kill()
        _, left = await asyncio.to_thread(psutil.wait_procs, children, 10)
        alive = [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        for child in alive:
            child.kill()
    assert not alive  # a dead one may stay listed where process 1 of a container buries nobody


def _engine_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All children, as soon as the core and its worker are among them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
        names = " ".join(_name(child) for child in children)
        if "Worker" in names and "Engine" in names:
            return children
        time.sleep(0.2)
    raise AssertionError("the engine's processes did not appear")


async def _timed(call: Any) -> tuple[float, httpx.Response]:
    reply = await call
    return time.monotonic(), reply


def _name(process: psutil.Process) -> str:
    """Nothing of a process that is gone meanwhile, as the small ones that vLLM asks are."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _title(process: psutil.Process) -> str:
    """As `_name`."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


async def _until_metric(served: Served, name: str, value: float, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while f"{name} {value}\n" not in (await served.client.get("/metrics")).text:
            await asyncio.sleep(0.05)

"""Other weights, adapters and traces on real vLLM: one engine, compared with plain forward passes at every step.

The tests run in file order on one service, whose engine is started once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from service import startup
from service.app import build_app
from service.settings import load_settings
from service.types import Comparison, Prompt, Response
from tests.architecture.test_dashboards import declared

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]
BODY = {"judge": "gram", "prompt": "Which answer is better?", "response_a": "This one is good.", "response_b": "No."}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PATIENT = {"X-Deadline-Ms": "300000"}


@dataclass
class World:
    """A running service on the tiny model, its folders, and what a collector of traces received."""

    app: Any
    client: httpx.AsyncClient
    folder: Path
    made: TinyCheckpoints
    spans: list[bytes]

    async def compare(self, judge: str = "gram") -> dict[str, Any]:
        reply = await self.client.post("/compare", json=BODY | {"judge": judge}, headers=PATIENT)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def change(self, checkpoint: str, **more: Any) -> httpx.Response:
        return await self.client.post("/admin/weights", json={"checkpoint": checkpoint} | more, headers=PATIENT)

    def expected(self, checkpoint: Path, adapter: Path | None = None) -> float:
        """p_ab of the pair by plain forward passes: no engine, no cache, nothing of ours but the prompt."""
        import torch
        from peft import PeftModel
        from transformers import Qwen3ForCausalLM

        judge = self.app.state.service.scorer.judges["gram"]
        pair = Comparison(Prompt.from_text(BODY["prompt"]), Response(BODY["response_a"]), Response(BODY["response_b"]))
        ids = judge.tokenizer.encode(judge.family.render(pair))
        model = Qwen3ForCausalLM.from_pretrained(checkpoint)
        model = PeftModel.from_pretrained(model, adapter) if adapter else model
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        return float(torch.softmax(logits[list(judge.label_ids)], dim=-1)[0])


def _write(folder: Path) -> TinyCheckpoints:
    """Checkpoints first, second and broken of one shape, one of another; adapters soft and hard."""
    import torch
    from safetensors.torch import load_file, save_file

    from tests.support.tiny_model import write_tiny_checkpoints

    made = write_tiny_checkpoints(folder / "tiny")
    for name, source in (
        ("first", made.causal),
        ("second", made.causal),
        ("other", made.causal),
        ("broken", made.broken),
    ):
        shutil.copytree(source, folder / "checkpoints" / name)
        described = json.loads((folder / "checkpoints" / name / "config.json").read_text())
        described["max_position_embeddings"] = 4096
        (folder / "checkpoints" / name / "config.json").write_text(json.dumps(described))
    for name in ("second", "other"):
        file = folder / "checkpoints" / name / "model.safetensors"
        weights = load_file(file)
        head = -weights["lm_head.weight"]  # prefers what the first one does not
        weights["lm_head.weight"] = head if name == "second" else torch.cat([head, head], dim=1)
        save_file(weights, file, metadata={"format": "pt"})
    for name, scale in (("soft", 1.0), ("hard", -2.0)):
        shutil.copytree(made.adapter, folder / "adapters" / name)
        file = folder / "adapters" / name / "adapter_model.safetensors"
        save_file({key: scale * value for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("weights")
    made = _write(folder)
    spans: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length"))
        spans.append(await reader.readexactly(int(length)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    collector = await asyncio.start_server(collect, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    engine = {"type": "vllm", "model": str(folder / "checkpoints" / "first"), "device": "cpu", "dtype": "float32"}
    engine |= {"max_model_len": 2048, "kv_cache_bytes": 64 * 2**20, "max_adapters": 2, "max_adapter_rank": 8}
    settings = load_settings(
        None,
        {
            "engine": engine,
            "store": {"type": "memory"},
            "judges": [{"name": "gram", "family": "gram", "min_label_mass": 0}],
            "weights": {"checkpoints": str(folder / "checkpoints"), "adapters": str(folder / "adapters")},
            "tracing": {"endpoint": f"http://127.0.0.1:{port}/v1/traces"},
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "SELF_TEST_SAMPLES", 20)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        app = build_app(settings)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=300) as client:
                yield World(app, client, folder, made, spans)
    collector.close()
    await collector.wait_closed()


async def test_new_weights_answer_as_plain_forward_passes_of_them_do(world: World) -> None:
    """Twice each way: the same prompt comes again, so an answer from an old prefix cache would show."""
    paths = {name: world.folder / "checkpoints" / name for name in ("first", "second")}
    expected = {name: world.expected(path) for name, path in paths.items()}
    assert abs(expected["first"] - expected["second"]) > 0.05
    before = await world.compare()
    assert before["p_ab"] == pytest.approx(expected["first"], abs=1e-4)
    versions = [before["judge_version"]["weight_version"]]
    for name in ("second", "first", "second"):
        reply = await world.change(name)
        assert reply.status_code == 200, reply.text
        after = await world.compare()
        assert after["p_ab"] == pytest.approx(expected[name], abs=1e-4)
        versions.append(after["judge_version"]["weight_version"])
    assert versions[0] == versions[2] != versions[1] == versions[3]


async def test_what_does_not_fit_is_refused_untouched_and_what_is_broken_rolled_back(world: World) -> None:
    before = await world.compare()
    refused = await world.change("other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_applied")
    assert "another shape" in refused.json()["error"]["message"]
    broken = await world.change("broken")
    assert broken.status_code == 409, broken.text
    assert broken.json()["error"]["details"] == {"rolled_back": True}
    assert (await world.compare())["p_ab"] == before["p_ab"]


async def test_requests_of_a_busy_service_are_signed_by_the_weights_that_judged_them(world: World) -> None:
    """Every answer is one of the two that there are, with the right name under it."""
    expected = {}
    for name in ("first", "second"):
        assert (await world.change(name, version=name)).status_code == 200
        expected[name] = (await world.compare())["p_ab"]
    signed: list[tuple[str, float]] = []
    stop = asyncio.Event()

    async def ask(number: int) -> None:
        while not stop.is_set():
            pair = BODY | {"prompt": BODY["prompt"] + " " * number}
            reply = (await world.client.post("/compare", json=pair if number else BODY, headers=PATIENT)).json()
            if not number:
                signed.append((reply["judge_version"]["weight_version"], reply["p_ab"]))

    askers = [asyncio.create_task(ask(number)) for number in range(4)]
    for name in ("first", "second", "first"):
        assert (await world.change(name, version=name)).status_code == 200
    stop.set()
    await asyncio.gather(*askers)
    assert {name for name, _ in signed} == {"first", "second"}
    for name, p_ab in signed:
        assert p_ab == pytest.approx(expected[name], abs=1e-5)


async def test_adapters_come_and_go_and_one_name_never_means_two(world: World) -> None:
    base = world.folder / "checkpoints" / "first"
    adapters = world.folder / "adapters"
    expected = {name: world.expected(base, adapters / name) for name in ("soft", "hard")}
    plain = (await world.compare())["p_ab"]
    assert plain == pytest.approx(world.expected(base), abs=1e-4)
    versions = []
    for source in ("soft", "hard"):
        shutil.copytree(adapters / source, adapters / "mine", dirs_exist_ok=True)
        reply = await world.client.post("/admin/adapters", json={"name": "mine"}, headers=PATIENT)
        assert reply.status_code == 200, reply.text
        tuned = await world.compare("mine")
        assert tuned["p_ab"] == pytest.approx(expected[source], abs=1e-3)
        assert (await world.compare())["p_ab"] == plain
        versions.append(tuned["judge_version"]["weight_version"])
        assert (await world.client.delete("/admin/adapters/mine", headers=PATIENT)).status_code == 200
    assert versions[0] != versions[1]


async def test_an_adapter_stays_over_a_change_of_its_base(world: World) -> None:
    assert (await world.client.post("/admin/adapters", json={"name": "hard"}, headers=PATIENT)).status_code == 200
    assert (await world.change("second", version="second")).status_code == 200
    expected = world.expected(world.folder / "checkpoints" / "second", world.folder / "adapters" / "hard")
    assert (await world.compare("hard"))["p_ab"] == pytest.approx(expected, abs=1e-3)
    assert (await world.client.delete("/admin/adapters/hard", headers=PATIENT)).status_code == 200


async def test_the_engines_spans_are_part_of_the_callers_trace(world: World) -> None:
    headers = PATIENT | {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    body = BODY | {"prompt": "Another question, asked once?"}
    assert (await world.client.post("/compare", json=body, headers=headers)).status_code == 200
    async with asyncio.timeout(30):
        while not any(b"llm_request" in batch and bytes.fromhex(TRACE) in batch for batch in world.spans):
            await asyncio.sleep(0.1)
    ours = [batch for batch in world.spans if b"gram-service" in batch and bytes.fromhex(TRACE) in batch]
    assert ours
    assert not any(b"asked once" in batch for batch in world.spans)


async def test_the_metrics_that_dashboards_show_are_the_engines(world: World, root: Path) -> None:
    """`tests/golden/vllm_metrics.json` lists them with their labels, for tests without an engine."""
    live = declared(world.app.state.gate.metrics.registry)
    listed = json.loads((root / "tests/golden/vllm_metrics.json").read_text(encoding="utf-8"))
    assert {name: sorted(live.get(name, ())) for name in listed} == listed

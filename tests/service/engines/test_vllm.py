"""What only the in-process vLLM shows: scalar heads, broken weights, a killed engine process, its metrics.

The engine is started twice here, each time for a module's worth of tests; the last test kills it.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from service.engines.base import EngineRequest
from service.errors import EngineDead, InvalidInput, StartupError

if TYPE_CHECKING:
    from service.engines.vllm import VllmEngine
    from tests.support.tiny_model import TinyCheckpoints

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
SMALL_CACHE = 64 * 2**20


async def test_what_cannot_be_loaded_stops_the_start(tmp_path: Path, tiny_checkpoints: TinyCheckpoints) -> None:
    from service.engines.vllm import VllmEngine, VllmOptions

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartupError, match="There is no model"):
        await VllmEngine(VllmOptions("/nowhere")).start()
    with pytest.raises(StartupError, match="could not load"):
        await VllmEngine(VllmOptions(str(tmp_path))).start()
    with pytest.raises(StartupError, match=r"adapter_config\.json"):
        await VllmEngine(VllmOptions(str(tiny_checkpoints.causal), adapters={"a": str(tmp_path)})).start()
    with pytest.raises(StartupError, match="device 'cuda'"):
        await VllmEngine(VllmOptions(str(tiny_checkpoints.causal), device="cuda")).start()


async def test_scalar_heads(tiny_checkpoints: TinyCheckpoints) -> None:
    """One start for all that concerns them: agreement, batches, the cache, refusals, metrics in the given registry."""
    from service.engines.vllm import VllmEngine, VllmOptions
    from tests.support.tiny_model import reference_score

    registry = CollectorRegistry()
    model = str(tiny_checkpoints.classifier)
    engine = VllmEngine(VllmOptions(model, dtype="float32", runner="pooling", kv_cache_bytes=SMALL_CACHE), registry)
    await engine.start()
    assert gc.get_freeze_count() > 0
    prompts = [tiny_checkpoints.encode(f"How good is answer {i}? " + "very " * 40) for i in range(8)]
    requests = [EngineRequest(prompt, "scalar") for prompt in prompts]
    alone = [await engine.complete(request) for request in requests]
    together = await asyncio.gather(*map(engine.complete, requests))
    assert [done.score for done in alone] == [done.score for done in together]
    assert together[0].cached_tokens > 0
    for prompt, done in zip(prompts, alone, strict=True):
        assert done.score == pytest.approx(reference_score(tiny_checkpoints, prompt), abs=1e-3)
    with pytest.raises(InvalidInput):
        await engine.complete(EngineRequest(prompts[0], "label", label_ids=(1, 2)))
    exposed = generate_latest(registry).decode()
    assert 'vllm:request_success_total{engine="0"' in exposed
    assert "vllm:" not in generate_latest(REGISTRY).decode()
    await engine.close()
    assert generate_latest(registry) == b""
    assert gc.get_freeze_count() == 0


@pytest.mark.timeout(600)
async def test_a_group_stays_on_one_data_parallel_rank(tiny_checkpoints: TinyCheckpoints) -> None:
    """Two ranks, each with a cache of its own: every group's prefix is computed once, and both ranks have groups."""
    from service.engines.vllm import VllmEngine, VllmOptions

    registry = CollectorRegistry()
    options = VllmOptions(
        str(tiny_checkpoints.causal), dtype="float32", data_parallel_size=2, kv_cache_bytes=SMALL_CACHE
    )
    engine = VllmEngine(options, registry)
    await engine.start()
    for group in range(6):
        prefix = (10 + group,) * 200
        asked = [
            EngineRequest((*prefix, 20 + n), "label", label_ids=(1, 2), affinity=bytes([group]) * 16) for n in range(6)
        ]
        done = await asyncio.gather(*map(engine.complete, asked))
        assert sorted(one.cached_tokens for one in done) == [0, 192, 192, 192, 192, 192]
    counted = [f'vllm:request_success_total{{engine="{rank}",finished_reason="length"' for rank in (0, 1)]
    served = [line for line in generate_latest(registry).decode().splitlines() if line.startswith(tuple(counted))]
    assert len(served) == 2
    assert all(float(line.rsplit(" ", 1)[1]) >= 6 for line in served)
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken(tiny_checkpoints: TinyCheckpoints) -> AsyncIterator[VllmEngine]:
    """An engine whose model answers NaN."""
    from service.engines.vllm import VllmEngine, VllmOptions

    engine = VllmEngine(VllmOptions(str(tiny_checkpoints.broken), dtype="float32", kv_cache_bytes=SMALL_CACHE))
    await engine.start()
    yield engine
    await engine.close()


async def test_broken_weights_answer_nan_and_the_engine_lives(
    broken: VllmEngine, tiny_checkpoints: TinyCheckpoints
) -> None:
    request = EngineRequest(tiny_checkpoints.encode("A or B?"), "label", label_ids=(1, 2))
    reads = await asyncio.gather(*(broken.complete(request) for _ in range(4)))
    assert all(math.isnan(value) for done in reads for value in done.label_logprobs)
    await broken.check()


async def test_a_killed_engine_process_is_an_error_within_seconds(
    broken: VllmEngine, tiny_checkpoints: TinyCheckpoints
) -> None:
    """Requests in flight and later ones raise, `check` fails, and after `close` no process of the engine is left."""
    workers = [c for c in psutil.Process().children(recursive=True) if c.name().startswith("VLLM") and _computes(c)]
    cores = [worker for worker in workers if worker.name().startswith("VLLM::Engine")]
    prompt = tiny_checkpoints.encode("Go on")
    running = [
        asyncio.create_task(broken.complete(EngineRequest(prompt, "generate", max_tokens=400))) for _ in range(4)
    ]
    await asyncio.sleep(0.1)
    killed = time.monotonic()
    cores[0].kill()
    outcomes = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [EngineDead] * 4
    with pytest.raises(EngineDead):
        await broken.check()
    with pytest.raises(EngineDead):
        await broken.complete(EngineRequest(prompt, "label", label_ids=(1, 2)))
    assert time.monotonic() - killed < 5
    assert broken.progress.unfinished == 0
    await broken.close()
    await asyncio.to_thread(_wait_for_the_end, workers)
    assert [worker for worker in workers if _computes(worker)] == []


def _wait_for_the_end(workers: list[psutil.Process]) -> None:
    """The kernel takes its time to free the memory of a killed process."""
    deadline = time.monotonic() + 10
    while any(map(_computes, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _computes(process: psutil.Process) -> bool:
    """Not gone, nor waiting to be buried by its parent (some containers have nobody who does)."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

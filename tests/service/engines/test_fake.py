"""What only the fake can do; what it shares with every engine is in tests/contract/test_engine_contract.py."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time

import pytest

from service.engines.base import EngineRequest, TextDelta
from service.engines.fake import FakeEngine, FakeOptions, decode_bytes, encode_bytes
from service.errors import EngineDead, JudgmentFailed
from service.judging.registry import get_family

PROMPT = tuple(encode_bytes("Which one, A or B?"))
LABEL = EngineRequest(PROMPT, "label", label_ids=(65, 66))
WRITE = EngineRequest(PROMPT, "generate", max_tokens=500)


async def _started(options: FakeOptions | None = None) -> FakeEngine:
    engine = FakeEngine(options)
    await engine.start()
    return engine


async def _answers() -> str:
    engine = await _started()
    return repr([await engine.complete(request) for request in (LABEL, WRITE, EngineRequest(PROMPT, "scalar"))])


def test_answers_are_the_same_in_every_process() -> None:
    script = f"import asyncio\nfrom {__name__} import _answers\nprint(asyncio.run(_answers()))"
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == asyncio.run(_answers())


async def test_different_prompts_get_different_answers() -> None:
    engine = await _started()
    reads = {
        (await engine.complete(EngineRequest((i,), "label", label_ids=(65, 66)))).label_logprobs for i in range(99)
    }
    masses = [math.exp(a) + math.exp(b) for a, b in reads]
    assert len(reads) == 99
    assert all(0.9 < mass < 1 for mass in masses)
    assert 20 < sum(a > b for a, b in reads) < 80


@pytest.mark.parametrize("family", ["gram_r2", "rm_r1"])
async def test_default_texts_are_judgments_of_the_family(family: str) -> None:
    engine = await _started(FakeOptions(answer="gram_r2" if family == "gram_r2" else "rm_r1"))
    verdicts = set()
    for i in range(30):
        done = await engine.complete(EngineRequest((*PROMPT, i), "generate", max_tokens=1000))
        verdicts.add(get_family(family).parse(done.text).verdict)
    assert len(verdicts) == 2
    assert "invalid" not in verdicts


async def test_greedy_repeats_itself_and_samples_differ() -> None:
    engine = await _started()
    greedy = {(await engine.complete(WRITE)).text for _ in range(20)}
    sampled = EngineRequest(PROMPT, "generate", max_tokens=500, temperature=1.0)
    votes = {(await engine.complete(sampled)).text for _ in range(20)}
    assert (len(greedy), len(votes)) == (1, 2)


async def test_hooks_decide_labels_texts_and_scores() -> None:
    engine = await _started(
        FakeOptions(
            label_logits=lambda request: (2.0, 0.0), script=lambda request: "Said so.", score=lambda request: 1.5
        )
    )
    a, b = (await engine.complete(LABEL)).label_logprobs
    assert a - b == pytest.approx(2.0)
    assert (await engine.complete(WRITE)).text == "Said so."
    assert (await engine.complete(EngineRequest(PROMPT, "scalar"))).score == 1.5


async def test_faults_are_those_of_real_engines() -> None:
    nan = await _started(FakeOptions(fault="nan"))
    assert all(math.isnan(x) for x in (await nan.complete(LABEL)).label_logprobs)
    aborting = await _started(FakeOptions(fault="abort"))
    with pytest.raises(JudgmentFailed):
        await aborting.complete(LABEL)
    await aborting.check()
    dying = await _started(FakeOptions(fault="die"))
    with pytest.raises(EngineDead):
        await dying.complete(LABEL)
    with pytest.raises(EngineDead):
        await dying.check()


async def test_a_fault_can_be_for_one_request_only() -> None:
    engine = await _started(FakeOptions(fault=lambda request: "abort" if request.task == "generate" else None))
    with pytest.raises(JudgmentFailed):
        await engine.complete(WRITE)
    assert (await engine.complete(LABEL)).label_logprobs


async def test_a_hung_engine_looks_healthy_but_stalls_until_it_dies() -> None:
    engine = await _started(FakeOptions(fault="hang"))
    stuck = asyncio.create_task(engine.complete(LABEL))
    await asyncio.sleep(0.05)
    await engine.check()
    assert engine.progress.stalled_s(time.monotonic() + 60) > 59
    assert engine.in_flight == 1
    engine.die()
    with pytest.raises(EngineDead):
        await asyncio.wait_for(stuck, 1)


async def test_counts_calls_and_aborts() -> None:
    engine = await _started(FakeOptions(fault="hang", keep_requests=True))
    stuck = asyncio.create_task(engine.complete(LABEL))
    await asyncio.sleep(0.01)
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    assert (engine.calls, engine.aborted, engine.in_flight, engine.requests) == (1, 1, 0, [LABEL])


async def test_streams_slowly_when_told_to() -> None:
    engine = await _started(FakeOptions(script=lambda request: "one two three", token_delay_s=0.02))
    began = time.monotonic()
    pieces = [item.text async for item in engine.stream(WRITE) if isinstance(item, TextDelta)]
    assert pieces == ["one ", "two ", "three"]
    assert time.monotonic() - began >= 0.06


async def test_the_cache_forgets_the_least_recently_used() -> None:
    engine = await _started(FakeOptions(cache_blocks=4))

    async def cached(first: int) -> int:
        return (await engine.complete(EngineRequest((first,) * 65, "label", label_ids=(65,)))).cached_tokens

    assert [await cached(1), await cached(1), await cached(2), await cached(3), await cached(1)] == [0, 64, 0, 0, 0]


def test_bytes_are_the_default_vocabulary() -> None:
    assert decode_bytes([*encode_bytes("Grüße"), 300]) == "Grüße"

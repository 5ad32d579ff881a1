"""What only the reference engine shows; the rest is in tests/contract/test_engine_contract.py."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.engines.base import EngineRequest
from service.errors import EngineDead, InvalidInput, StartupError

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints

pytestmark = pytest.mark.slow


async def test_scalar_reads_are_the_heads_raw_output(tiny_checkpoints: TinyCheckpoints) -> None:
    from service.engines.transformers import TransformersEngine, TransformersOptions
    from tests.support.tiny_model import reference_score

    engine = TransformersEngine(TransformersOptions(str(tiny_checkpoints.classifier), runner="pooling"))
    await engine.start()
    prompt = tiny_checkpoints.encode("How good is this?")
    done = await engine.complete(EngineRequest(prompt, "scalar"))
    assert done.score == pytest.approx(reference_score(tiny_checkpoints, prompt), abs=1e-5)
    with pytest.raises(InvalidInput):
        await engine.complete(EngineRequest(prompt, "label", label_ids=(1, 2)))
    await engine.close()


async def test_broken_weights_answer_nan(tiny_checkpoints: TinyCheckpoints) -> None:
    from service.engines.transformers import TransformersEngine, TransformersOptions

    engine = TransformersEngine(TransformersOptions(str(tiny_checkpoints.broken)))
    await engine.start()
    done = await engine.complete(EngineRequest(tiny_checkpoints.encode("A or B?"), "label", label_ids=(1, 2)))
    assert all(math.isnan(value) for value in done.label_logprobs)
    await engine.close()


async def test_what_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    from service.engines.transformers import TransformersEngine, TransformersOptions

    with pytest.raises(StartupError, match="There is no model"):
        await TransformersEngine(TransformersOptions("/nowhere")).start()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartupError, match="Could not load"):
        await TransformersEngine(TransformersOptions(str(tmp_path))).start()


async def test_texts_written_together_are_those_written_alone(tiny_checkpoints: TinyCheckpoints) -> None:
    """To the last token, sampled and greedy, whoever comes and goes beside them, and with other adapters waiting."""
    from service.engines.transformers import TransformersEngine, TransformersOptions

    adapters = {"lora": str(tiny_checkpoints.adapter)}
    engine = TransformersEngine(TransformersOptions(str(tiny_checkpoints.causal), adapters=adapters, rows=4))
    await engine.start()
    requests = [
        EngineRequest(
            tiny_checkpoints.encode("Which is better? " * (1 + 3 * i)),
            "generate",
            max_tokens=10 + 7 * i,
            temperature=0.0 if i % 3 == 0 else 1.0,
            top_p=0.95,
            seed=i,
            adapter="lora" if i % 4 == 3 else None,
        )
        for i in range(9)
    ]
    alone = [await engine.complete(request) for request in requests]
    assert [len(done.token_ids) for done in alone] == [request.max_tokens for request in requests]
    reads = [EngineRequest(request.prompt_ids, "label", label_ids=(1, 2)) for request in requests]
    read_alone = [await engine.complete(read) for read in reads]
    for order in (requests, requests[::-1], requests[4:] + requests[:4]):
        left = asyncio.create_task(engine.complete(replace(requests[8], max_tokens=300)))
        together = asyncio.gather(*map(engine.complete, [*order, *reads]))
        await asyncio.sleep(0.05)
        left.cancel()
        found = await together
        assert {r.max_tokens: done for r, done in zip(order, found[:9], strict=True)} == {
            r.max_tokens: done for r, done in zip(requests, alone, strict=True)
        }
        assert list(found[9:]) == read_alone
    single = TransformersEngine(TransformersOptions(str(tiny_checkpoints.causal), adapters=adapters))
    await single.start()
    for i in (0, 3, 6):
        assert (await single.complete(requests[i])).token_ids == alone[i].token_ids
    await single.close()
    running = [asyncio.create_task(engine.complete(replace(request, max_tokens=400))) for request in requests]
    await asyncio.sleep(0.05)
    await engine.close()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {EngineDead}


async def test_prompts_that_begin_alike_are_read_once(tiny_checkpoints: TinyCheckpoints) -> None:
    """Known beginnings are counted, kept apart by tenant and adapter, forgotten in the end, and never move a bit."""
    from service.engines import transformers_prefixes as prefixes
    from service.engines.transformers import TransformersEngine, TransformersOptions

    where, adapters = str(tiny_checkpoints.causal), {"lora": str(tiny_checkpoints.adapter)}
    plain = TransformersEngine(TransformersOptions(where, adapters=adapters))
    engine = TransformersEngine(TransformersOptions(where, adapters=adapters, reuse_prefixes=True))
    await asyncio.gather(plain.start(), engine.start())
    shared = tiny_checkpoints.encode("Please act as an impartial judge of two responses. " * 4)
    rest = tiny_checkpoints.encode("Which of them is better? " * 4)
    assert len(rest) > prefixes.REST
    prompts = [shared + rest[i:] for i in range(8)] + [rest[:3], shared, rest]
    requests = [EngineRequest(ids, "label", label_ids=(1, 2), adapter=a) for a in (None, "lora") for ids in prompts]
    first = [await engine.complete(request) for request in requests]
    for request, done in zip(requests, first, strict=True):
        wanted = (await plain.complete(request)).label_logprobs
        assert done.label_logprobs == pytest.approx(wanted, abs=1e-4)
    cut = (len(shared) + len(rest) - prefixes.REST) // prefixes.BLOCK * prefixes.BLOCK
    assert first[0].cached_tokens == 0 and first[len(prompts)].cached_tokens == 0, "adapters share nothing"
    assert first[1].cached_tokens >= min(len(shared), cut) // prefixes.BLOCK * prefixes.BLOCK > 0
    for salt in (None, "a", "b"):
        again = [await engine.complete(replace(request, cache_salt=salt)) for request in reversed(requests)]
        assert [done.label_logprobs for done in reversed(again)] == [done.label_logprobs for done in first]
        assert (again[1].cached_tokens == 0) == (salt is not None), "tenants share nothing"
    for i in range(prefixes.KEPT + 1):
        await engine.complete(EngineRequest((i + 3,) * (prefixes.REST + prefixes.BLOCK), "label", label_ids=(1, 2)))
    forgotten = await engine.complete(requests[0])
    assert forgotten == first[0], "read anew, to the same bits"
    await asyncio.gather(plain.close(), engine.close())

"""What every engine promises (`service.engines.base.Engine`), asked of all of them, with a reference to agree with.

Each engine is started once. The tests of one engine run in file order and the last one closes it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from service.engines.base import Engine, EngineRequest, Repetition, TextDelta, goes_round
from service.engines.deduplicated import DeduplicatedEngine
from service.engines.fake import FakeEngine, FakeOptions, Fault, encode_bytes
from service.engines.remote import RemoteEngine, RemoteOptions
from service.errors import EngineDead, InvalidInput, NotFound, TokenLimitExceeded
from service.types import Completion
from tests.support.vllm_server import StubServer, real_server

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MAX_MODEL_LEN = 512
ENDING_PROMPT = "This text comes to its"
"""Both as `tests.support.tiny_model` has them, which only real engines import: it loads torch."""

LONG = 400
"""Tokens of a generation that is still running when a test cancels it; the fake engine takes it as a sign to hang."""

ENGINES = [
    "fake",
    "deduplicated",
    "remote-stub",
    pytest.param("transformers", marks=pytest.mark.slow),
    pytest.param("vllm", marks=pytest.mark.vllm),
    pytest.param("remote", marks=pytest.mark.vllm),
]


@dataclass(frozen=True)
class Case:
    """A started engine. ``reference`` answers reads and likelihoods by other means; the fake has no ``vocabulary``.

    ``caches`` prefixes in whole blocks; ``remembers`` whole answers; takes ``seeds``; ``scores`` texts
    although adapters are loaded.
    """

    engine: Engine
    encode: Callable[[str], tuple[int, ...]]
    reference: Callable[[EngineRequest], Awaitable[tuple[float, ...]]]
    caches: bool = True
    vocabulary: int | None = None
    remembers: bool = False
    seeds: bool = True
    scores: bool = True

    def label(self, text: str, ids: tuple[int, ...] = (), adapter: str | None = None) -> EngineRequest:
        ids = ids or self.encode("A") + self.encode("B")
        return EngineRequest(self.encode(text), "label", label_ids=ids, adapter=adapter)

    def likelihood(self, text: str, scored_from: int, adapter: str | None = None) -> EngineRequest:
        return EngineRequest(self.encode(text), "likelihood", scored_from=scored_from, adapter=adapter)

    def write(self, text: str, max_tokens: int, temperature: float = 0.0, stop: tuple[str, ...] = ()) -> EngineRequest:
        return EngineRequest(
            self.encode(text), "generate", max_tokens=max_tokens, temperature=temperature, stop=stop, top_p=0.95
        )


def _fake() -> FakeEngine:
    def fault(request: EngineRequest) -> Fault | None:
        return "hang" if request.max_tokens == LONG else None

    return FakeEngine(FakeOptions(max_model_len=MAX_MODEL_LEN, adapters={"lora": "v1"}, fault=fault))


async def _fake_reference(request: EngineRequest) -> tuple[float, ...]:
    engine = _fake()
    await engine.start()
    done = await engine.complete(request)
    return done.label_logprobs if done.log_likelihood is None else (done.log_likelihood,)


def _encode_fake(text: str) -> tuple[int, ...]:
    return tuple(encode_bytes(text))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Case]:
    with ExitStack() as stack:
        if request.param == "fake":
            made = Case(_fake(), _encode_fake, _fake_reference)
        elif request.param == "deduplicated":
            made = Case(DeduplicatedEngine(_fake(), 1000, 10**6), _encode_fake, _fake_reference, remembers=True)
        elif request.param == "remote-stub":
            stub = StubServer(_fake())
            await stub.engine.start()
            stack.callback(stub.start().stop)
            made = Case(
                RemoteEngine(RemoteOptions((stub.url,))), _encode_fake, _fake_reference, seeds=False, scores=False
            )
        else:
            checkpoints: TinyCheckpoints = request.getfixturevalue("tiny_checkpoints")
            made = _real(request.param, checkpoints, stack, tmp_path_factory.mktemp("server"))
        await made.engine.start()
        yield made
        await made.engine.close()


def _real(name: str, made: TinyCheckpoints, stack: ExitStack, folder: Path) -> Case:
    from tests.support.tiny_model import reference_likelihood, reference_logprobs

    async def reference(request: EngineRequest) -> tuple[float, ...]:
        if request.task == "likelihood":
            adapted = request.adapter is not None
            return (reference_likelihood(made, request.prompt_ids, request.scored_from, adapted),)
        return reference_logprobs(made, request.prompt_ids, request.label_ids, request.adapter is not None)

    model, adapters = str(made.causal), {"lora": str(made.adapter)}
    engine: Engine
    if name == "transformers":
        from service.engines.transformers import TransformersEngine, TransformersOptions

        engine = TransformersEngine(TransformersOptions(model, adapters=adapters))
    elif name == "vllm":
        from service.engines.vllm import VllmEngine, VllmOptions

        engine = VllmEngine(VllmOptions(model, dtype="float32", adapters=adapters, kv_cache_bytes=64 * 2**20))
    else:
        url = stack.enter_context(real_server(made, folder / "server.log"))
        engine = RemoteEngine(RemoteOptions((url,), model))
    alone = name == "transformers"  # the others' seeds are refused on a CPU that splits prompts over steps
    return Case(engine, made.encode, reference, not alone, made.vocabulary, seeds=alone, scores=alone)


async def test_says_what_it_serves(case: Case) -> None:
    info = case.engine.info
    assert info.max_model_len == MAX_MODEL_LEN
    assert info.weight_version
    assert info.version_of("lora") != info.version_of(None)
    await case.engine.check()
    assert case.engine.progress.unfinished == 0
    assert case.engine.progress.stalled_s(time.monotonic() + 1000) == 0.0


async def test_label_reads_are_log_probabilities_in_request_order(case: Case) -> None:
    done = await case.engine.complete(case.label("Which is better, A or B?"))
    a, b = done.label_logprobs
    assert math.exp(a) + math.exp(b) <= 1 + 1e-6
    assert a < 0 and b < 0 and a != b
    assert (done.prompt_tokens, done.token_ids, done.text) == (len(case.encode("Which is better, A or B?")), (), "")
    swapped = await case.engine.complete(case.label("Which is better, A or B?", case.encode("BA")))
    assert swapped.label_logprobs == pytest.approx((b, a), abs=1e-6)


async def test_label_masses_are_shares_of_the_whole_vocabulary(case: Case) -> None:
    """All of the vocabulary sums to one; the fake's labels, as a trained judge's, to a little less."""
    vocabulary, total = case.vocabulary or 128, 0.0
    for start in range(0, vocabulary, 128):
        request = case.label("All of them", tuple(range(start, min(start + 128, vocabulary))))
        total += math.fsum(map(math.exp, (await case.engine.complete(request)).label_logprobs))
    assert total == pytest.approx(1.0, abs=1e-4) if case.vocabulary else 0.9 < total < 1


@pytest.mark.parametrize("adapter", [None, "lora"])
async def test_label_reads_agree_with_the_reference(case: Case, adapter: str | None) -> None:
    for text in ("Which is better, A or B?", "x", "The judge reads " * 20):
        request = case.label(text, adapter=adapter)
        read = (await case.engine.complete(request)).label_logprobs
        assert read == pytest.approx(await case.reference(request), abs=1e-3)


async def test_an_adapter_is_another_judge(case: Case) -> None:
    plain, adapted = case.label("A or B?"), case.label("A or B?", adapter="lora")
    reads = [(await case.engine.complete(request)).label_logprobs for request in (plain, adapted, plain)]
    assert reads[0] != reads[1]
    assert reads[0] == reads[2]


async def test_answers_do_not_depend_on_company(case: Case) -> None:
    """Alone, cached, in a batch with other widths and with generations: the same bits, in float32."""
    texts = [f"Question {i}: is it A or B? " + "because " * (3 * i) for i in range(8)]
    alone = [(await case.engine.complete(case.label(text))).label_logprobs for text in texts]
    wide = [case.label(text, tuple(case.encode(c)[0] for c in "CDEFGHI")) for text in texts]
    others = [*wide, *(case.write(text, 4, temperature=1.0) for text in texts)]
    batch = await asyncio.gather(*(case.engine.complete(r) for r in [*map(case.label, texts), *others]))
    assert [done.label_logprobs for done in batch[: len(texts)]] == alone
    assert len(set(alone)) == len(texts)


@pytest.mark.parametrize("adapter", [None, "lora"])
async def test_likelihoods_agree_with_the_reference(case: Case, adapter: str | None) -> None:
    """Asked beside label reads and texts, which need other things of the same forward pass.

    vLLM's logits with adapters would end it (tests/training/generation scores without): it refuses, and lives.
    """
    asked = [
        case.likelihood("Which is better, A or B? A is better, for B is wrong.", scored_from, adapter)
        for scored_from in (1, 7, len(case.encode("Which is better, A or B? A is better, for B is wrong.")) - 1)
    ]
    asked.append(case.likelihood("The judge reads " * 20, 9, adapter))
    if not case.scores:
        for request in asked:
            with pytest.raises(InvalidInput, match="merge"):
                await case.engine.complete(request)
        await case.engine.complete(case.label("Still there?"))
        return
    company = [case.label("A or B?"), case.write("Go on and on", 6), case.write("Go on", 6, temperature=1.0)]
    found = await asyncio.gather(*map(case.engine.complete, [*asked, *company]))
    for request, done in zip(asked, found, strict=False):
        assert done.log_likelihood is not None and done.log_likelihood < 0
        assert (done.log_likelihood,) == pytest.approx(await case.reference(request), abs=1e-3)
        assert done.scored_tokens == len(request.prompt_ids) - request.scored_from
        assert (done.token_ids, done.text, done.label_logprobs) == ((), "", ())


async def test_likelihoods_add_up_and_do_not_depend_on_company(case: Case) -> None:
    if not case.scores:
        return
    text = "Which is better, A or B? A is better, for B is wrong."
    ids = case.encode(text)
    whole, tail = case.likelihood(text, 3), case.likelihood(text, 11)
    first = replace(whole, prompt_ids=ids[:11])
    alone = [(await case.engine.complete(request)).log_likelihood for request in (whole, first, tail)]
    assert alone[0] == pytest.approx((alone[1] or 0) + (alone[2] or 0), abs=1e-4)
    together = await asyncio.gather(*map(case.engine.complete, (tail, first, whole)))
    assert [done.log_likelihood for done in together] == alone[::-1]


async def test_a_label_is_as_likely_as_its_token(case: Case) -> None:
    """The two tasks read the same distribution. The fake has none: its answers are hashes, of different things."""
    if case.vocabulary is None or not case.scores:
        return
    read = await case.engine.complete(case.label("Is it A or B?"))
    prompt = case.encode("Is it A or B?")
    request = EngineRequest(prompt + case.encode("A"), "likelihood", scored_from=len(prompt))
    done = await case.engine.complete(request)
    assert done.log_likelihood == pytest.approx(read.label_logprobs[0], abs=1e-4)


async def test_a_seed_repeats_a_sampled_text_in_any_company(case: Case) -> None:
    """Or the engine refuses it, and lives."""
    length = 24 if case.vocabulary else 350  # the fake's texts differ at their end
    sampled = [replace(case.write(f"Go on {i % 2}", length, temperature=1.0), seed=i) for i in range(6)]
    if not case.seeds:
        for request in sampled[:2]:
            with pytest.raises(InvalidInput, match="seed"):
                await case.engine.complete(request)
            with pytest.raises(InvalidInput, match="seed"):
                await anext(case.engine.stream(request))
        greedy = await case.engine.complete(replace(sampled[0], temperature=0.0))
        assert greedy.token_ids == (await case.engine.complete(replace(sampled[0], temperature=0.0, seed=7))).token_ids
        return
    alone = [(await case.engine.complete(request)).token_ids for request in sampled]
    others = [case.write(f"Go on {i}", 5 + i, temperature=1.0) for i in range(4)]
    together = await asyncio.gather(*map(case.engine.complete, [*others, *reversed(sampled)]))
    assert [done.token_ids for done in together[:3:-1]] == alone
    assert len(set(alone)) > 1
    *_, last = [item async for item in case.engine.stream(sampled[3])]
    assert isinstance(last, Completion) and last.token_ids == alone[3]


async def test_a_generation_ends_at_its_token_limit(case: Case) -> None:
    done = await case.engine.complete(case.write("Go on and on", 6))
    assert (done.finish_reason, len(done.token_ids)) == ("length", 6)


async def test_a_generation_ends_at_the_end_of_sequence(case: Case) -> None:
    done = await case.engine.complete(case.write(ENDING_PROMPT, 300))
    assert done.finish_reason == "stop"
    assert len(done.token_ids) < 300
    assert "<|im_end|>" not in done.text


async def test_a_generation_ends_at_a_stop_string_and_keeps_it(case: Case) -> None:
    free = await case.engine.complete(case.write("Go on and on", 40))
    stop = free.text[10:13]
    done = await case.engine.complete(case.write("Go on and on", 40, stop=("never written", stop)))
    assert done.finish_reason == "stop"
    assert done.text == free.text[: free.text.index(stop) + 3]


async def test_a_generation_ends_at_the_end_of_the_context(case: Case) -> None:
    prompt = (case.encode("word ") * MAX_MODEL_LEN)[: MAX_MODEL_LEN - 3]
    done = await case.engine.complete(EngineRequest(prompt, "generate", max_tokens=40, temperature=0.0))
    assert (done.finish_reason, len(done.token_ids)) == ("length", 3)


async def test_a_generation_that_goes_round_is_stopped_at_once(case: Case) -> None:
    """With its own reason, at the first token at which the rule holds; a rule that never holds changes nothing."""
    request = case.write("Go on and on", 200)
    free = await case.engine.complete(request)
    rule = Repetition(times=2, shortest=1, longest=8)
    end = next(n for n in range(1, len(free.token_ids)) if goes_round(free.token_ids[:n], rule))
    stopped = await case.engine.complete(replace(request, repetition=rule))
    assert (stopped.finish_reason, stopped.token_ids) == ("repetition", free.token_ids[:end])
    assert free.text.startswith(stopped.text.rstrip("\ufffd"))
    *_, last = [item async for item in case.engine.stream(replace(request, repetition=rule))]
    assert isinstance(last, Completion)
    assert (last.finish_reason, last.token_ids) == ("repetition", stopped.token_ids)
    rare = await case.engine.complete(replace(request, repetition=Repetition(times=100, shortest=100, longest=199)))
    assert (rare.finish_reason, rare.token_ids) == (free.finish_reason, free.token_ids)


async def test_a_stream_is_the_completion_in_pieces(case: Case) -> None:
    request = case.write("Go on and on", 40)
    items = [item async for item in case.engine.stream(request)]
    pieces, last = items[:-1], items[-1]
    assert isinstance(last, Completion)
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == last.text
    whole = await case.engine.complete(request)
    assert (last.text, last.token_ids, last.finish_reason) == (whole.text, whole.token_ids, whole.finish_reason)


async def test_a_prompt_may_fill_the_context_but_not_exceed_it(case: Case) -> None:
    ids = case.encode("word ") * MAX_MODEL_LEN
    request = case.label("x")
    await case.engine.complete(replace(request, prompt_ids=ids[: MAX_MODEL_LEN - 1]))
    with pytest.raises(TokenLimitExceeded) as caught:
        await case.engine.complete(replace(request, prompt_ids=ids[:MAX_MODEL_LEN]))
    assert caught.value.details == {"tokens": MAX_MODEL_LEN, "limit": MAX_MODEL_LEN - 1}
    with pytest.raises(TokenLimitExceeded):
        await anext(case.engine.stream(replace(request, task="generate", prompt_ids=ids[:MAX_MODEL_LEN])))


async def test_refuses_what_it_cannot_answer(case: Case) -> None:
    good = case.label("x")
    bad = [replace(good, prompt_ids=()), replace(good, label_ids=()), replace(good, label_ids=(3, 3))]
    bad += [replace(good, label_ids=tuple(range(129))), case.write("x", 0)]
    text = case.write("x", 5, temperature=1.0)
    bad += [case.likelihood("xyz", 0), case.likelihood("xyz", 3), replace(text, seed=-1), replace(text, seed=2**63)]
    bad += [replace(case.write("x", 9), repetition=rule) for rule in (Repetition(1), Repetition(4, 5, 4))]
    for request in bad:
        with pytest.raises(InvalidInput):
            await case.engine.complete(request)
    with pytest.raises(NotFound):
        await case.engine.complete(case.label("x", adapter="nobody"))
    assert case.engine.progress.unfinished == 0


async def test_cached_tokens_are_whole_blocks_of_the_same_tenant(case: Case) -> None:
    request = case.label("A prompt that nobody asked before, long enough for several blocks. " * 6)
    request = replace(request, cache_salt="one")
    cached = [(await case.engine.complete(request)).cached_tokens for _ in range(2)]
    cached.append((await case.engine.complete(replace(request, cache_salt="two"))).cached_tokens)
    blocks = (len(request.prompt_ids) - 1) // 32 * 32 if case.caches else 0
    blocks = len(request.prompt_ids) if case.remembers else blocks
    assert cached == [0, blocks, 0]


async def test_cancelling_aborts_inside_the_engine(case: Case) -> None:
    """One abandoned completion, one abandoned stream, one that somebody still waits for."""

    async def drain() -> None:
        async for _ in case.engine.stream(case.write("Stream on", LONG, temperature=1.0)):
            pass

    abandoned = [
        asyncio.create_task(case.engine.complete(case.write("Write on", LONG, temperature=1.0))),
        asyncio.create_task(drain()),
    ]
    await asyncio.sleep(0.2)
    for task in abandoned:
        task.cancel()
    outcomes = await asyncio.gather(*abandoned, return_exceptions=True)
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert case.engine.progress.unfinished == 0
    assert math.isfinite((await case.engine.complete(case.label("Still there?"))).label_logprobs[0])


async def test_leaving_a_stream_early_frees_the_engine(case: Case) -> None:
    async with aclosing(case.engine.stream(case.write("Go on and on", 200))) as stream:
        assert isinstance(await anext(stream), TextDelta)
    assert case.engine.progress.unfinished == 0
    await case.engine.complete(case.label("Still there?"))


async def test_close_is_final(case: Case) -> None:
    """The last test: requests in flight end as errors, never as cut completions, and closing twice is fine."""
    running = [asyncio.create_task(case.engine.complete(case.write(f"Go on {i}", LONG, 1.0))) for i in range(8)]
    await asyncio.sleep(0.05)
    await case.engine.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
    finished = [o for o in outcomes if isinstance(o, Completion)]
    assert all(o.finish_reason == "stop" for o in finished)
    assert all(isinstance(o, EngineDead | Completion) for o in outcomes)
    assert len(finished) < len(outcomes)
    await case.engine.close()
    with pytest.raises(EngineDead):
        await case.engine.complete(case.label("x"))
    with pytest.raises(EngineDead):
        await anext(case.engine.stream(case.write("x", 5)))
    with pytest.raises(EngineDead):
        await case.engine.check()
    assert case.engine.progress.unfinished == 0

"""Routing, failover and refusals of the remote engine, against quick doubles of vLLM's server on real sockets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.engines.base import EngineRequest, TextDelta
from service.engines.fake import FakeEngine, FakeOptions, encode_bytes
from service.engines.remote import RemoteEngine, RemoteOptions
from service.errors import (
    EngineDead,
    InvalidInput,
    JudgmentFailed,
    NotFound,
    Overloaded,
    ServiceError,
    StartupError,
)
from tests.support.vllm_server import StubServer

PROMPT = tuple(encode_bytes("Which one, A or B?"))
LABEL = EngineRequest(PROMPT, "label", label_ids=(65, 66))
WRITE = EngineRequest(PROMPT, "generate", max_tokens=300)


@asynccontextmanager
async def _servers(*options: FakeOptions, api_key: str | None = None) -> AsyncIterator[list[StubServer]]:
    servers = [StubServer(FakeEngine(o), api_key=api_key) for o in options]
    try:
        for server in servers:
            await server.engine.start()
            server.start()
        yield servers
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)


@asynccontextmanager
async def _engine(servers: list[StubServer], **options: Any) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(RemoteOptions(tuple(s.url for s in servers), check_interval_s=0.1, **options))
    try:
        await engine.start()
        for server in servers:
            server.bodies.clear()
        yield engine
    finally:
        await engine.close()


async def test_asks_for_label_ids_and_never_for_a_top_k() -> None:
    async with _servers(FakeOptions()) as servers, _engine(servers) as engine:
        await engine.complete(LABEL)
        body = servers[0].bodies[0]
    assert body["prompt"] == list(PROMPT)
    assert (body["logprob_token_ids"], body["max_tokens"], body["temperature"]) == ([65, 66], 1, 0.0)
    assert body["return_tokens_as_token_ids"] is True
    assert body["add_special_tokens"] is False
    assert "seed" not in body


async def test_the_served_models_sampling_defaults_stay_out() -> None:
    async with _servers(FakeOptions()) as servers, _engine(servers) as engine:
        await engine.complete(WRITE)
        body = servers[0].bodies[0]
    assert (body["top_k"], body["top_p"], body["min_p"], body["repetition_penalty"]) == (0, 1.0, 0.0, 1.0)
    assert body["include_stop_str_in_output"] is True


async def test_goes_to_the_replica_with_the_fewest_in_flight() -> None:
    """One slow replica: once it is busy, everything else goes to the quick one."""
    async with _servers(FakeOptions(delay_s=1.0), FakeOptions()) as servers, _engine(servers) as engine:
        slow = [asyncio.create_task(engine.complete(LABEL)) for _ in range(2)]
        await asyncio.sleep(0.2)
        for _ in range(10):
            await engine.complete(LABEL)
        assert [len(server.bodies) for server in servers] == [1, 11]
        await asyncio.gather(*slow)


async def test_idle_replicas_take_turns() -> None:
    async with _servers(FakeOptions(), FakeOptions()) as servers, _engine(servers) as engine:
        for _ in range(10):
            await engine.complete(LABEL)
        assert [len(server.bodies) for server in servers] == [5, 5]


async def test_a_lost_replica_costs_no_answer() -> None:
    async with _servers(FakeOptions(delay_s=0.3), FakeOptions(delay_s=0.3)) as servers, _engine(servers) as engine:
        running = [asyncio.create_task(engine.complete(LABEL)) for _ in range(8)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(servers[0].stop)
        answers = {done.label_logprobs for done in await asyncio.gather(*running)}
        await engine.check()
        assert len(answers) == 1


async def test_without_any_server_the_engine_is_dead_within_seconds() -> None:
    hangs = FakeOptions(fault=lambda request: "hang" if request.task == "generate" else None)
    async with _servers(hangs) as servers, _engine(servers) as engine:
        running = asyncio.create_task(engine.complete(WRITE))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(servers[0].stop)
        with pytest.raises(EngineDead):
            await asyncio.wait_for(running, 5)
        with pytest.raises(EngineDead):
            await engine.complete(LABEL)
        with pytest.raises(EngineDead):
            await engine.check()


async def test_a_replica_whose_engine_died_is_left_out_and_taken_back() -> None:
    async with _servers(FakeOptions(), FakeOptions()) as servers, _engine(servers) as engine:
        servers[0].healthy = False
        await asyncio.sleep(0.4)
        for _ in range(4):
            await engine.complete(LABEL)
        assert [len(server.bodies) for server in servers] == [0, 4]
        servers[0].healthy = True
        await asyncio.sleep(0.4)
        for _ in range(4):
            await engine.complete(LABEL)
        assert servers[0].bodies


async def test_a_dead_engine_behind_a_living_server_is_another_replicas_work() -> None:
    async with _servers(FakeOptions(), FakeOptions()) as servers, _engine(servers) as engine:
        servers[0].status, servers[0].healthy = 500, False
        for _ in range(4):
            assert (await engine.complete(LABEL)).label_logprobs


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInput),
        (401, JudgmentFailed),
        (404, NotFound),
        (422, InvalidInput),
        (500, JudgmentFailed),
        (503, Overloaded),
    ],
)
async def test_refusals_are_ours(status: int, error: type[ServiceError]) -> None:
    async with _servers(FakeOptions()) as servers, _engine(servers) as engine:
        servers[0].status = status
        for request in (LABEL, WRITE):
            with pytest.raises(error):
                await engine.complete(request)
        with pytest.raises(error):
            await anext(engine.stream(WRITE))
        servers[0].status = 200
        await engine.complete(LABEL)


async def test_a_probability_that_is_no_number_stays_none() -> None:
    """NaN cannot travel in JSON: a server sends null, a floor of -9999, or fails."""
    broken = FakeOptions(label_logits=lambda request: [-9999.0, *[0.0] * 9][: len(request.label_ids)])
    async with _servers(broken) as servers, _engine(servers) as engine:
        first, second = (await engine.complete(LABEL)).label_logprobs
    assert math.isnan(first)
    assert math.isfinite(second)


async def test_an_answer_without_the_labels_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _servers(FakeOptions()) as servers:
        monkeypatch.setattr(
            "tests.support.vllm_server._answer",
            lambda done, labels: {
                "choices": [{"finish_reason": "length", "text": "", "logprobs": {"top_logprobs": [{"token_id:9": -1}]}}]
            },
        )
        with pytest.raises(StartupError, match=r"vLLM 0\.32"):
            async with _engine(servers):
                pass


async def test_a_cut_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _servers(FakeOptions()) as servers, _engine(servers) as engine:
        answer = {"choices": [{"finish_reason": "abort", "text": "Half an ans", "token_ids": [1]}], "usage": None}
        monkeypatch.setattr("tests.support.vllm_server._answer", lambda done, labels: answer)
        with pytest.raises(JudgmentFailed):
            await engine.complete(WRITE)


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    slow = FakeOptions(script=lambda r: "word " * 50, token_delay_s=0.05)
    async with _servers(slow) as servers, _engine(servers) as engine:
        stream = engine.stream(WRITE)
        assert await anext(stream) == TextDelta("word ")
        await asyncio.to_thread(servers[0].stop)
        rest = []
        with pytest.raises(JudgmentFailed):
            rest.extend([item async for item in stream])
        assert rest == []


async def test_scalar_reads_are_raw_outputs() -> None:
    async with _servers(FakeOptions(score=lambda r: -3.25)) as servers, _engine(servers, runner="pooling") as engine:
        assert (await engine.complete(EngineRequest(PROMPT, "scalar"))).score == -3.25
        with pytest.raises(InvalidInput):
            await engine.complete(LABEL)


async def test_keys_are_sent_and_a_wrong_one_stops_the_start() -> None:
    async with _servers(FakeOptions(), api_key="sesame") as servers:
        async with _engine(servers, api_key="sesame") as engine:
            await engine.complete(LABEL)
        with pytest.raises(StartupError, match="401"):
            async with _engine(servers, api_key="wrong"):
                pass


async def test_starts_while_one_server_is_still_away() -> None:
    async with _servers(FakeOptions(), FakeOptions()) as servers:
        await asyncio.to_thread(servers[0].stop)
        async with _engine(servers) as engine:
            await engine.complete(LABEL)


async def test_no_server_at_all_stops_the_start() -> None:
    async with _servers(FakeOptions()) as servers:
        await asyncio.to_thread(servers[0].stop)
        with pytest.raises(StartupError, match="No vLLM server answers"):
            async with _engine(servers):
                pass


async def test_replicas_must_serve_the_same_model() -> None:
    async with _servers(FakeOptions(), FakeOptions(max_model_len=100)) as servers:
        with pytest.raises(StartupError, match="another model"):
            async with _engine(servers):
                pass


async def test_a_model_that_is_not_served_stops_the_start() -> None:
    async with _servers(FakeOptions()) as servers:
        with pytest.raises(StartupError, match="served_model"):
            async with _engine(servers, served_model="other"):
                pass

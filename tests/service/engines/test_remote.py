"""Routing, failover and refusals of the remote engine, against quick doubles of vLLM's server on real sockets."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from service.engines.affinity import SLACK, preference
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
from tests.support.serving import until
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


@pytest.mark.slow
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


async def _ask_groups(engine: RemoteEngine, groups: range, each: int = 4) -> None:
    requests = [replace(LABEL, affinity=bytes([g]), prompt_ids=(g, n, 1)) for g in groups for n in range(each)]
    await asyncio.gather(*(engine.complete(request) for request in requests))


def _homes(servers: list[StubServer]) -> dict[int, set[int]]:
    """Group to the servers that were asked about it since they were last looked at."""
    homes: dict[int, set[int]] = defaultdict(set)
    for place, server in enumerate(servers):
        for body in server.bodies:
            homes[body["prompt"][0]].add(place)
        server.bodies.clear()
    return homes


def _preferred(servers: list[StubServer], groups: range, lost: int | None = None) -> dict[int, set[int]]:
    """Where each group belongs by rendezvous hashing. How even that is, test_affinity shows."""
    places = {server.url: place for place, server in enumerate(servers) if place != lost}
    return {group: {places[preference(bytes([group]), places)[0]]} for group in groups}


async def test_a_group_stays_on_one_replica_and_groups_spread() -> None:
    async with _servers(*[FakeOptions()] * 3) as servers, _engine(servers) as engine:
        for _ in range(2):
            await _ask_groups(engine, range(45))
            assert _homes(servers) == _preferred(servers, range(45))


async def test_the_order_of_the_urls_does_not_matter() -> None:
    async with _servers(*[FakeOptions()] * 3) as servers:
        async with _engine(servers) as engine:
            await _ask_groups(engine, range(20), 1)
            homes = _homes(servers)
        async with _engine(servers[::-1]) as engine:
            await _ask_groups(engine, range(20), 1)
            assert homes == _homes(servers)


async def test_a_lost_replicas_groups_move_where_they_belong_then_and_come_back() -> None:
    """The others' groups stay where they are."""
    groups = range(45)
    async with _servers(*[FakeOptions()] * 3) as servers, _engine(servers) as engine:
        for lost in (None, 0, None):
            servers[0].healthy = lost is None
            await asyncio.sleep(0.4)
            await _ask_groups(engine, groups, 1)
            assert _homes(servers) == _preferred(servers, groups, lost)


@pytest.mark.slow
async def test_a_replica_lost_in_mid_group_costs_no_answer_and_the_group_stays_together() -> None:
    async with _servers(*[FakeOptions(delay_s=1.5)] * 3) as servers, _engine(servers) as engine:
        running = asyncio.create_task(_ask_groups(engine, range(12), 2))
        await until(lambda: sum(len(server.bodies) for server in servers) == 24)
        first = _homes(servers)
        lost = next(iter(first[0]))
        await asyncio.to_thread(servers[lost].stop)
        await running
        again = _homes(servers)
    assert set(again) == {group for group, places in first.items() if places == {lost}}
    assert all(len(places) == 1 and lost not in places for places in again.values())


@pytest.mark.slow
async def test_a_popular_question_overflows_to_other_replicas() -> None:
    """Without the bound all would wait for one of three."""
    async with _servers(*[FakeOptions(delay_s=2.0)] * 3) as servers, _engine(servers) as engine:
        await _ask_groups(engine, range(1), 160)
        counts = sorted(len(server.bodies) for server in servers)
    assert sum(counts) == 160
    assert counts[1] >= 40
    assert counts[2] <= 1.25 * 160 / 3 + SLACK


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


async def test_a_servers_count_of_tokens_is_a_sign_of_life() -> None:
    """A long text is one answer; the server that writes it is not silent, and one that hangs is."""
    async with _servers(FakeOptions(fault=lambda r: "hang" if r.max_tokens == 300 else None)) as servers:
        servers[0].tokens = 100
        async with _engine(servers) as engine:
            writing = asyncio.create_task(engine.complete(WRITE))
            await until(lambda: servers[0].engine.in_flight == 1)
            await asyncio.sleep(0.3)  # the first look, which knows nothing of before
            last = engine.progress.last
            await asyncio.sleep(0.3)
            assert engine.progress.last == last
            servers[0].tokens += 2
            await until(lambda: engine.progress.last > last)
            assert not writing.done()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


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


async def test_likelihoods_are_sums_over_the_prompts_own_tokens() -> None:
    """Of the rows the server gives for each prompt token; the first has none."""
    request = EngineRequest(PROMPT, "likelihood", scored_from=5)
    async with _servers(FakeOptions()) as servers, _engine(servers) as engine:
        done = await engine.complete(request)
        (body,) = servers[0].bodies
        direct = await servers[0].engine.complete(request)
    assert (body["prompt_logprobs"], body["max_tokens"], body["temperature"]) == (0, 1, 0.0)
    assert done.log_likelihood == pytest.approx(direct.log_likelihood)
    assert done.scored_tokens == direct.scored_tokens == len(PROMPT) - 5


async def test_a_server_with_adapters_is_not_asked_to_score() -> None:
    async with _servers(FakeOptions(adapters={"lora": "v1"})) as servers, _engine(servers) as engine:
        with pytest.raises(InvalidInput, match="merge"):
            await engine.complete(EngineRequest(PROMPT, "likelihood", scored_from=5))
        assert servers[0].bodies == []

"""Spans: the caller's trace goes on through every stage to the engine; without an address there are none."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service import app as app_module
from service.engines.base import TRACE_HEADERS, EngineRequest
from service.engines.fake import FakeEngine
from service.engines.remote import RemoteEngine, RemoteOptions
from service.errors import StartupError
from service.spans import NO_TRACING
from service.startup import pick_tracing
from service.tracing import OtelTracing, make_provider, tracing_to
from service.types import Completion
from tests.support.serving import BODIES, PAIR, Api, options, serving, settings_for
from tests.support.vllm_server import StubServer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
STAGES = {
    "/compare": ["admission", "tokenize", "engine", "aggregate"],
    "/rank": ["aggregate", "admission", "tokenize", "engine"],
    "/rationale": ["admission", "tokenize", "engine", "aggregate"],
    "/score": ["admission", "tokenize", "engine", "aggregate"],
}


class Listening(FakeEngine):
    """Remembers which span each request came from."""

    def __init__(self) -> None:
        super().__init__(options(keep_requests=True))
        self.headers: list[dict[str, str]] = []

    async def complete(self, request: EngineRequest) -> Completion:
        self.headers.append(dict(TRACE_HEADERS.get() or {}))
        return await super().complete(request)


class Traced:
    """A service and the spans that it has ended."""

    def __init__(self, api: Api, exporter: InMemorySpanExporter) -> None:
        self.api, self._exporter = api, exporter

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def clear(self) -> None:
        self._exporter.clear()


def recorded(sample_ratio: float = 1.0) -> tuple[TracerProvider, InMemorySpanExporter]:
    provider, exporter = make_provider("test", sample_ratio), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


@asynccontextmanager
async def traced(
    monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any] | None = None, engine: FakeEngine | None = None
) -> AsyncIterator[Traced]:
    provider, exporter = recorded()
    monkeypatch.setattr(app_module, "pick_tracing", lambda settings: OtelTracing(provider))
    async with serving(overrides, engine) as api:
        exporter.clear()  # the self-test is nobody's request
        yield Traced(api, exporter)


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


@pytest.mark.parametrize("route", STAGES)
async def test_a_callers_trace_goes_on_through_every_stage(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    async with traced(monkeypatch) as service:
        assert (await service.api.post(route, BODIES[route], **SENT)).status_code == 200
        request = service.named(f"POST {route}")
        assert {f"{span.context.trace_id:032x}" for span in service.spans} == {TRACE}
        assert (parent_of(request), request.kind) == (PARENT, SpanKind.SERVER)
        stages = {span.name: span for span in service.spans if span is not request}
        assert set(STAGES[route]) <= set(stages)
        for name in STAGES[route]:
            assert parent_of(stages[name]) == id_of(request)
            assert request.start_time <= stages[name].start_time <= stages[name].end_time <= request.end_time  # type: ignore[operator]
        attributes = dict(request.attributes or {})
        assert attributes["http.response.status_code"] == 200
        assert attributes["gram.weight_version"] == "fake-1"
        assert attributes["gram.comparisons"] > 0  # type: ignore[operator]


async def test_a_keyed_commit_has_a_span_for_each_call_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as service:
        body = {"groups": [{"prompt": "p", "responses": ["a", "b"]}], "normalize": {"queue": "q"}}
        assert (await service.api.post("/score", body, **{"Idempotency-Key": "k"})).status_code == 200
        operations = [dict(span.attributes or {})["operation"] for span in service.spans if span.name == "store"]
        assert operations == ["begin", "commit", "finish"]


async def test_a_stream_is_one_trace_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as service:
        async with service.api.client.stream("POST", "/rationale", json=PAIR | {"stream": True}, headers=SENT) as reply:
            assert "event: verdict" in "\n".join([line async for line in reply.aiter_lines()])
        request, engine = service.named("POST /rationale"), service.named("engine")
        assert parent_of(engine) == id_of(request)
        assert dict(request.attributes or {})["gram.comparisons"] == 1


async def test_the_engine_is_told_the_span_it_works_for(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Listening()
    async with traced(monkeypatch, engine=engine) as service:
        engine.headers.clear()
        for _ in range(2):
            service.clear()
            assert (await service.api.post("/compare", PAIR, **SENT, tracestate="vendor=1")).status_code == 200
            expected = f"00-{TRACE}-{id_of(service.named('engine'))}-01"
            assert engine.headers == [{"traceparent": expected, "tracestate": "vendor=1"}] * 2
            engine.headers.clear()


async def test_requests_side_by_side_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch, engine=FakeEngine(options(delay_s=0.01))) as service:
        sent = [f"00-{number:032x}-{PARENT}-01" for number in range(1, 21)]
        await asyncio.gather(*(service.api.post("/rank", BODIES["/rank"], traceparent=one) for one in sent))
        by_id = {id_of(span): span for span in service.spans}
        for span in service.spans:
            if span.name != "POST /rank":
                assert by_id[parent_of(span)].context.trace_id == span.context.trace_id
        assert len({span.context.trace_id for span in service.spans}) == 20


@pytest.mark.parametrize(
    "header", ["", "00-zz", f"00-{TRACE}-{PARENT}", f"00-{'0' * 32}-{PARENT}-01", "00-" + "1" * 5000]
)
async def test_a_header_that_is_no_trace_begins_a_new_one(monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    async with traced(monkeypatch) as service:
        assert (await service.api.post("/compare", PAIR, traceparent=header)).status_code == 200
        assert service.named("POST /compare").parent is None


async def test_who_does_not_want_to_be_traced_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as service:
        await service.api.post("/compare", PAIR, traceparent=f"00-{TRACE}-{PARENT}-00")
        assert not service.spans


async def test_a_ratio_of_the_others_is(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, exporter = recorded(0.0)
    monkeypatch.setattr(app_module, "pick_tracing", lambda settings: OtelTracing(provider))
    async with serving() as api:
        await api.post("/compare", PAIR)
        assert not exporter.get_finished_spans()
        await api.post("/compare", PAIR, **SENT)
        assert exporter.get_finished_spans()


async def test_failures_are_marked_by_their_code_and_quote_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(request: EngineRequest) -> Any:
        return "nan" if b"MARK" in bytes(i for i in request.prompt_ids if i < 256) else None

    async with traced(monkeypatch, engine=FakeEngine(options(fault=fault))) as service:
        for body in (PAIR | {"prompt": "MARK"}, PAIR | {"MARK": 1}, PAIR | {"judge": "MARK"}):
            await service.api.post("/compare", body, Authorization="Bearer MARK")
        spans = [json.loads(span.to_json()) for span in service.spans]
        assert "MARK" not in json.dumps(spans)
        failed = [span for span in service.spans if span.name == "POST /compare"]
        assert [dict(span.attributes or {}).get("error.type") for span in failed] == [
            "non_finite_score",
            None,
            "unknown_judge",
        ]
        assert [span.status.status_code for span in failed] == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]


async def test_a_server_far_away_gets_the_headers() -> None:
    seen: list[str | None] = []

    class Server(StubServer):
        async def _completions(self, request: Any) -> Any:
            seen.append(request.headers.get("traceparent"))
            return await super()._completions(request)

    server = Server(FakeEngine(options()))
    await server.engine.start()
    server.start()
    try:
        engine = RemoteEngine(RemoteOptions((server.url,)))
        await engine.start()
        seen.clear()
        token = TRACE_HEADERS.set(SENT)
        await engine.complete(EngineRequest((1, 2), "label", label_ids=(65, 66)))
        TRACE_HEADERS.reset(token)
        await engine.complete(EngineRequest((1, 2), "label", label_ids=(65, 66)))
        assert seen == [SENT["traceparent"], None]
        await engine.close()
    finally:
        server.stop()


async def test_spans_are_sent_where_the_settings_say() -> None:
    received: list[tuple[str, bytes]] = []
    done = asyncio.Event()

    async def collector(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length"))
        received.append((head.split("\r\n")[0], await reader.readexactly(int(length))))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        done.set()

    server = await asyncio.start_server(collector, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tracing = tracing_to(f"http://127.0.0.1:{port}/v1/traces", "my-judges", 1.0)
    with (
        tracing.request({name.encode(): value.encode() for name, value in SENT.items()}) as span,
        tracing.stage("engine", comparisons=1),
    ):
        span.end("POST /compare", {"gram.judge": "gram"}, failed=False)
    await asyncio.to_thread(tracing.close)
    async with asyncio.timeout(10):
        await done.wait()
    server.close()
    await server.wait_closed()
    (line, body), *_ = received
    assert line == "POST /v1/traces HTTP/1.1"
    assert b"my-judges" in body
    assert bytes.fromhex(TRACE) in body


def test_the_library_is_needed_only_where_there_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.tracing", None)  # as where it is not installed
    assert pick_tracing(settings_for()) is NO_TRACING
    with pytest.raises(StartupError, match="otel"):
        pick_tracing(settings_for({"tracing": {"endpoint": "http://127.0.0.1:4318/v1/traces"}}))

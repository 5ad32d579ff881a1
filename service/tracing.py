"""Traces by OpenTelemetry: this service's spans in the caller's trace, and the engine's spans in this service's.

The W3C headers ``traceparent`` and ``tracestate`` are read from the request and handed to engines that trace too (vLLM
in this process or on servers). The provider is our own: nothing is registered for the whole process, and what is sent
where comes from the settings alone. Baggage is not passed on, because nobody here could say what is in it.

An exception's message may quote what it is about, so spans carry its kind only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.engines.base import TRACE_HEADERS
from service.errors import ServiceError
from service.spans import TRACE_ID, RequestSpan, Stage, Value

EXPORT_TIMEOUT_S = 5


def tracing_to(endpoint: str, service_name: str, sample_ratio: float) -> OtelTracing:
    """Spans that are sent to ``endpoint`` in batches, by a thread of the SDK. A collector that does not answer costs
    requests nothing: spans are dropped."""
    provider = make_provider(service_name, sample_ratio)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT_S)))
    return OtelTracing(provider)


def make_provider(service_name: str, sample_ratio: float) -> TracerProvider:
    """A caller's own decision to sample, or not to, is kept."""
    sampler = ParentBased(TraceIdRatioBased(sample_ratio))
    return TracerProvider(sampler, Resource.create({"service.name": service_name}), shutdown_on_exit=False)


class OtelTracing:
    """See the module."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("gram.service")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[bytes, bytes]) -> Iterator[RequestSpan]:
        names = self._propagator.fields
        sent = {name: headers[name.encode()].decode("latin-1") for name in names if name.encode() in headers}
        parent = self._propagator.extract(sent)
        with self._tracer.start_as_current_span(
            "request", parent, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            token = TRACE_ID.set(f"{span.get_span_context().trace_id:032x}")
            try:
                yield _Request(span)
            finally:
                TRACE_ID.reset(token)

    @contextmanager
    def stage(self, name: Stage, **attributes: Value) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            token = TRACE_HEADERS.set(carrier)
            try:
                yield
            except Exception as error:
                span.set_attribute(
                    "error.type", error.code if isinstance(error, ServiceError) else type(error).__name__
                )
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                TRACE_HEADERS.reset(token)

    def close(self) -> None:
        self._provider.shutdown()


class _Request:
    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, name: str, attributes: Mapping[str, Value | None], failed: bool) -> None:
        self._span.update_name(name)
        self._span.set_attributes({key: value for key, value in attributes.items() if value is not None})
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))

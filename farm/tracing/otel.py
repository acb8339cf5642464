"""Spans by OpenTelemetry's SDK, sent with OTLP over HTTP. Its own variables configure it: headers, sampler, batches."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelApiSpan
from opentelemetry.trace import Tracer as OtelApiTracer

from farm import __version__, clock
from farm.concurrency.background_thread import call_in_thread
from farm.domain.trace_context import TraceContext, parse
from farm.loopback import is_at_loopback
from farm.tracing.span import Fact, Kind, Span

#: How long a process that exits waits for its last spans to be sent.
_CLOSE_SECONDS = 2.0
#: Facts of spans are named for the farm: `farm.job`, `farm.model`.
_PREFIX = "farm."
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}


class OtelTracer:
    """Makes spans, and sends them in a thread of its own: what cannot be sent is dropped, and holds nothing up."""

    def __init__(self, endpoint: str, service: str, instance: str = "") -> None:
        names = {
            "service.name": f"srpo-farm-{service}",
            "service.version": __version__,
            "service.instance.id": instance or f"{socket.gethostname()}-{os.getpid()}",
        }
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes first.
        resource = Resource.create(names).merge(OTELResourceDetector().detect())
        self._processor = BatchSpanProcessor(_exporter(endpoint))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("srpo-farm", __version__)

    def start(self, name: str, parent: str, facts: Mapping[str, Fact], kind: Kind, seconds_ago: float) -> Span:
        started = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=_KINDS[kind],
            attributes=_attributes(facts),
            start_time=_time_ns(seconds_ago),
        )
        return OtelSpan(started, self._tracer)

    def close(self) -> None:
        with suppress(TimeoutError):  # while nobody answers, it would try for longer than a process has to exit
            call_in_thread("last spans", self._shut_down).result(_CLOSE_SECONDS)

    def _shut_down(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class OtelSpan(Span):
    """A span that is recorded, if its trace is."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, span: OtelApiSpan, tracer: OtelApiTracer) -> None:
        super().__init__(_traceparent(span.get_span_context()))
        self._span = span
        self._tracer = tracer

    def add(self, **facts: Fact) -> None:
        self._span.set_attributes(_attributes(facts))

    def record_stage(self, name: str, seconds: float) -> None:
        context = set_span_in_context(self._span, Context())
        self._tracer.start_span(name, context=context, start_time=_time_ns(seconds)).end()

    def fail(self, reason: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()


def _exporter(endpoint: str) -> OTLPSpanExporter:
    """Return what sends spans as OpenTelemetry's variables say, to a collector on this machine without a proxy."""
    if not is_at_loopback(endpoint):
        return OTLPSpanExporter()
    direct = requests.Session()
    direct.trust_env = False
    return OTLPSpanExporter(session=direct)


def _attributes(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {_PREFIX + name: fact for name, fact in facts.items()}


def _context(traceparent: str) -> Context:
    """Return the context with the span of another process, or an empty one, in which a trace begins."""
    parent = parse(traceparent)
    if parent is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT)
    remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _traceparent(context: SpanContext) -> str:
    return str(TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled))


def _time_ns(seconds_ago: float) -> int:
    """Return the wall-clock time so many seconds ago, in nanoseconds since the epoch."""
    return clock.now_us() * 1000 - round(seconds_ago * 1e9)

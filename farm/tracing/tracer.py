"""The spans of this process. The trace context in a job's record makes those of all processes one trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from farm.domain.errors import ConfigurationError
from farm.settings import traces_endpoint
from farm.tracing.span import Fact, Kind, Span

if TYPE_CHECKING:
    from farm.tracing.otel import OtelTracer

#: One for each process, as with its log; None: nothing is recorded.
_tracer: OtelTracer | None = None

NO_FACTS: Mapping[str, Fact] = {}


def start(
    name: str, parent: str, facts: Mapping[str, Fact] = NO_FACTS, *, kind: Kind = "internal", seconds_ago: float = 0.0
) -> Span:
    """Start a span, the child of the one with the trace context `parent`; without one it begins a trace."""
    return _tracer.start(name, parent, facts, kind, seconds_ago) if _tracer else Span(parent)


def is_on() -> bool:
    """Return True if this process records spans."""
    return _tracer is not None


def check() -> str | None:
    """Return the address to which OpenTelemetry's variables send traces, or None. Raises ConfigurationError."""
    endpoint = traces_endpoint()
    if endpoint is not None:
        try:
            from farm.tracing import otel  # noqa: F401  # an extra
        except ImportError as error:
            raise ConfigurationError(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed; "
                "run: pip install 'srpo-farm[otel]', or unset it"
            ) from error
    return endpoint


def set_up(*, service: str, instance: str = "") -> None:
    """Record this process's spans from now on, if traces are wanted. Raises ConfigurationError.

    They name the process as `service`, and by `instance`, the id of a worker.
    """
    global _tracer
    if (endpoint := check()) is not None:
        from farm.tracing.otel import OtelTracer

        _tracer = OtelTracer(endpoint, service, instance)


def close() -> None:
    """Send the spans that are left. What cannot be sent in a moment is lost."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer:
        tracer.close()

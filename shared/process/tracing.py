"""Spans of a request from edge to cloud, by OpenTelemetry where that is asked for; otherwise nothing, and no import.

    span("POST /analyze", "server", headers) -> span("Analyze", "client") -> outgoing() -> headers of the next process
    stages(ended_s, {"decode": 3.1, "forward": 5.2})      spans of what was measured anyway, back to back
    frame_span(request_id, ...)                           both sides of a session's frame, whose bytes carry no context

A context travels as W3C's traceparent, in HTTP headers and in gRPC metadata. A session has one call for all its frames,
so their trace follows from the request id, which both sides know: no byte is sent for it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from shared.errors import RequestError
from shared.process.config import TracingSettings

log = logging.getLogger("isthmus.tracing")

Kind = Literal["internal", "server", "client"]

NEEDS = "traces need OpenTelemetry: pip install 'isthmus[tracing]'"
END_WAIT_S = 3.0
CONTEXT = ("traceparent", "tracestate")
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_provider: Any = None  # the SDK's TracerProvider; None: no traces


def start_tracing(settings: TracingSettings, service: str) -> bool:
    """Exports spans from here on, if the settings or OTEL_EXPORTER_OTLP_ENDPOINT say where to. True if so.

    service: the default of OTEL_SERVICE_NAME. Other variables of OpenTelemetry hold as well (OTEL_TRACES_SAMPLER, ...).

    Raises RequestError if the settings ask for traces and OpenTelemetry is not installed.
    """
    by_variable = any(os.environ.get(name) for name in _VARIABLES)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not (settings.otlp_endpoint or by_variable) or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        if settings.otlp_endpoint:
            raise RequestError(NEEDS, setting="otlp_endpoint") from None
        log.warning("%s (a variable OTEL_... asks for them)", NEEDS)
        return False
    endpoint = settings.otlp_endpoint.rstrip("/")
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces") if endpoint else OTLPSpanExporter()
    use(provider(service, BatchSpanProcessor(exporter)))
    return True


def provider(service: str, processor: Any) -> Any:
    """The SDK's TracerProvider with one processor of spans."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    made = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    made.add_span_processor(processor)
    return made


def use(made: Any) -> None:
    """Makes spans with this TracerProvider from here on; None: no more."""
    global _provider
    _provider = made


def stop_tracing(wait_s: float = END_WAIT_S) -> None:
    """Sends what waits, for `wait_s` at most, and ends: a server must not stay for a collector that is away."""
    if _provider is None:
        return
    ending = threading.Thread(target=_provider.shutdown, name="traces", daemon=True)
    use(None)
    ending.start()
    ending.join(wait_s)
    if ending.is_alive():
        log.warning("the last traces could not be sent within %g s", wait_s)


@contextmanager
def span(
    name: str, kind: Kind = "internal", carrier: Mapping[str, str] | None = None, **attributes: Any
) -> Iterator[Any]:
    """A span around the block; an exception from it marks it as failed. None where traces are off.

    carrier: of the request that came, for its context; otherwise the current span is the parent.
    """
    if _provider is None:
        yield None
        return
    context = None if carrier is None else _extracted(carrier)
    with _started(name, kind, context, attributes) as one:
        yield one


@contextmanager
def frame_span(request_id: str, name: str, kind: Kind, **attributes: Any) -> Iterator[Any]:
    """A span of a session's frame, in the trace that its request id stands for."""
    if _provider is None:
        yield None
        return
    from opentelemetry.trace import Link, get_current_span

    here = get_current_span().get_span_context()
    links = [Link(here)] if here.is_valid else []
    with _started(name, kind, _of_request(request_id), attributes, links) as one:
        yield one


def stages(ended_s: float, spent_ms: Mapping[str, float | None]) -> None:
    """Spans under the current one for stages that followed each other. ended_s: of the last, by time.perf_counter."""
    if _provider is None:
        return
    tracer, at_ns = _tracer(), time.time_ns() - int((time.perf_counter() - ended_s) * 1e9)
    ran = [(name, spent) for name, spent in spent_ms.items() if spent is not None]
    at_ns -= int(sum(spent for _, spent in ran) * 1e6)
    for name, spent in ran:
        one = tracer.start_span(name, start_time=at_ns)
        at_ns += int(spent * 1e6)
        one.end(at_ns)


def outgoing() -> dict[str, str]:
    """Headers that carry the current context to the next process; none where traces are off."""
    if _provider is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def adopt(carrier: Mapping[str, str]) -> None:
    """Makes the context that came with a stream the parent of all spans of the current task, without a span for it."""
    if _provider is not None:
        from opentelemetry.context import attach

        attach(_extracted(carrier))


def trace_id() -> str | None:
    """Of the current span, 32 hex digits, if it is recorded."""
    if _provider is None:
        return None
    from opentelemetry.trace import format_trace_id, get_current_span

    here = get_current_span().get_span_context()
    return format_trace_id(here.trace_id) if here.is_valid and here.trace_flags.sampled else None


def exemplar() -> dict[str, str] | None:
    """The current trace, as a label of an observation."""
    here = trace_id()
    return None if here is None else {"trace_id": here}


def _tracer() -> Any:
    return _provider.get_tracer("isthmus")


def _extracted(carrier: Mapping[str, str]) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(dict(carrier), context=Context())


def _of_request(request_id: str) -> Any:
    """A context whose trace follows from a request id. Its sampling does, too, so that both sides decide alike."""
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    digest = hashlib.sha256(request_id.encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    sampled = (
        _provider.sampler.should_sample(Context(), number, "frame").decision is Decision.RECORD_AND_SAMPLE
    )
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    parent = SpanContext(number, int.from_bytes(digest[16:24], "big"), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _started(name: str, kind: Kind, context: Any, attributes: Mapping[str, Any], links: Any = ()) -> Any:
    from opentelemetry.trace import SpanKind

    return _tracer().start_as_current_span(
        name, context=context, kind=SpanKind[kind.upper()], attributes=dict(attributes), links=links
    )

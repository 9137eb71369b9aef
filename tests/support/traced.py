"""Spans that are kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.process import tracing


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str, kind: str = "") -> list[Any]:
        return [one for one in self.all() if one.name == name and (not kind or one.kind.name.lower() == kind)]

    def one(self, name: str, kind: str = "") -> Any:
        [found] = self.named(name, kind)
        return found


@contextmanager
def traced() -> Iterator[Spans]:
    """Traces are on inside the block, for both sides."""
    exporter = InMemorySpanExporter()
    tracing.use(tracing.provider("test", SimpleSpanProcessor(exporter)))
    try:
        yield Spans(exporter)
    finally:
        tracing.stop_tracing()

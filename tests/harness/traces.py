"""Spans of this process and of workers."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from harness.stack import Stack

_WORKER = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

exporter = ConsoleSpanExporter(out=open(os.environ["SPANS"], "a"), formatter=lambda span: span.to_json(None) + "\\n")
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from token_worker.cli import main
main()
"""
"""A worker with a tracer provider, as ``opentelemetry-instrument`` starts one; spans are JSON lines in a file."""


def start_traced_worker(stack: Stack, spans: Path) -> None:
    """Start a worker that adds its spans to a file."""
    stack.start_worker(program=("-c", _WORKER), SPANS=str(spans))


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The complete JSON lines of a file; an empty list if the file does not exist."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Sdk:
    """A tracer provider that keeps its spans in memory."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        """The ended spans, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """The ended spans with a name."""
        return [span for span in self.spans if span.name == name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.provider.shutdown()

"""OpenTelemetry spans of the requests that a client sends: ``send <stream>``, of kind PRODUCER, one for each request.

The parent of a span is the current span of the caller. Workers get the context of the span from the fields
``traceparent`` and ``tracestate`` of the entry. The span ends when the server has confirmed the entry. Calls share a
request only if they have the same parent. There are no spans without OpenTelemetry, or if no tracer provider is set and
no span is current.
"""

from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from token_worker.errors import ServerError
from token_worker.redis.address import RedisSettings
from token_worker.telemetry.tracing import describe

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _IS_INSTALLED = False
else:
    _IS_INSTALLED = True
    _PROPAGATOR = TraceContextTextMapPropagator()

if TYPE_CHECKING:
    from opentelemetry.trace import Span

UNCONFIRMED = "unconfirmed"
"""``error.type`` of a request that no call waits for any more, before the server has confirmed the entry."""


def caller() -> "Span | None":
    """Return the caller's current span, or None without OpenTelemetry. The span may be invalid."""
    return trace.get_current_span() if _IS_INSTALLED else None


class SendSpan:
    """Span of one request.

    Attributes:
        headers: trace fields of the entry: names and values in turn.
        is_answered: True if the reply is there, so that the entry has arrived.
    """

    __slots__ = ("_span", "headers", "is_answered")

    def __init__(self, span: "Span", parent: "Span") -> None:
        self._span = span
        fields: dict[str, str] = {}
        # Some providers make no span, and do not pass on the context of the parent either.
        valid = span if span.get_span_context().is_valid else parent
        _PROPAGATOR.inject(fields, trace.set_span_in_context(valid, Context()))
        self.headers = tuple(chain.from_iterable(fields.items()))
        self.is_answered = False

    def end(self, outcome: bytes | ServerError | None) -> None:
        """End the span: the request is not sent again.

        Args:
            outcome: id of the entry, or the server's error. None: the server has not answered.
        """
        with suppress(Exception):  # a failing provider must not fail the call
            if isinstance(outcome, bytes):
                self._span.set_attribute("messaging.message.id", outcome.decode())
            elif outcome is not None or not self.is_answered:
                self._span.set_attribute("error.type", UNCONFIRMED if outcome is None else outcome.code)
                self._span.set_status(trace.StatusCode.ERROR)
            self._span.end()


class Traced(Protocol):
    """A request, as far as its trace is concerned.

    Attributes:
        id: its id.
        caller: the caller's span.
        span: its own span, if it has one.
    """

    id: str
    caller: "Span | None"
    span: SendSpan | None


class SendSpans:
    """Makes the spans for the requests of one route."""

    def __init__(self, stream: str, server: RedisSettings) -> None:
        self._name = f"send {stream}"
        self._attributes = describe("send", stream, server)
        self._tracer = trace.get_tracer("token_worker.client") if _IS_INSTALLED else None

    def begin(self, requests: Iterable[Traced]) -> None:
        """Start the spans of requests. A request has none if tracing is off, or if the tracer provider fails."""
        if self._tracer is None:
            return
        has_provider = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        for request in requests:
            parent = request.caller
            if parent is None or (parent is trace.INVALID_SPAN and not has_provider):
                continue
            attributes = {**self._attributes, "messaging.message.conversation_id": request.id}
            with suppress(Exception):  # a failing provider must not fail the call
                context = trace.set_span_in_context(parent, Context())
                span = self._tracer.start_span(self._name, context, trace.SpanKind.PRODUCER, attributes)
                request.span = SendSpan(span, parent)

"""Spans of OpenTelemetry for what a client sends: ``send <stream>``, of kind PRODUCER, one for each request.

Its parent is the span that is current at the call, and workers get its context as ``traceparent`` and ``tracestate`` of
the entry. It lasts until the server has the entry. Calls share a request only where they share their parent, too.
Without OpenTelemetry, or where nobody has set a tracer provider and no span is current, there is nothing of this.
"""

from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

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
"""``error.type`` where nobody waits any more for a request, and the server has not said that it has it."""


def caller() -> "Span | None":
    """The span that is current where this is called, or one that is none; None where there is nothing to trace."""
    if not _IS_INSTALLED:
        return None
    span = trace.get_current_span()
    if span is trace.INVALID_SPAN and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return span


class SendSpan:
    """One request on its way.

    Attributes:
        headers: further fields of its entry, names and values in turn.
        is_answered: its reply is there, so it arrived.
    """

    __slots__ = ("_span", "headers", "is_answered")

    def __init__(self, span: "Span", parent: "Span") -> None:
        self._span = span
        fields: dict[str, str] = {}
        told = span if span.get_span_context().is_valid else parent  # not every provider that makes none passes it on
        _PROPAGATOR.inject(fields, trace.set_span_in_context(told, Context()))
        self.headers = tuple(chain.from_iterable(fields.items()))
        self.is_answered = False

    def end(self, outcome: bytes | ServerError | None) -> None:
        """It is not sent again: the server has it, with this entry id, or refused it; None: it has not said."""
        with suppress(Exception):  # of a provider, which must not cost a call
            if isinstance(outcome, bytes):
                self._span.set_attribute("messaging.message.id", outcome.decode())
            elif outcome is not None or not self.is_answered:
                self._span.set_attribute("error.type", UNCONFIRMED if outcome is None else outcome.code)
                self._span.set_status(trace.StatusCode.ERROR)
            self._span.end()


class SendSpans:
    """Makes the spans of one route's requests."""

    def __init__(self, stream: str, server: RedisSettings) -> None:
        self._name = f"send {stream}"
        self._attributes = describe("send", stream, server)
        self._tracer = trace.get_tracer("token_worker.client") if _IS_INSTALLED else None

    def begin(self, parent: "Span", request_id: str) -> SendSpan | None:
        """A request is about to be sent for this caller; None where its provider fails."""
        if self._tracer is None:
            return None
        attributes = {**self._attributes, "messaging.message.conversation_id": request_id}
        with suppress(Exception):  # of a provider, which must not cost a call
            context = trace.set_span_in_context(parent, Context())
            return SendSpan(self._tracer.start_span(self._name, context, trace.SpanKind.PRODUCER, attributes), parent)
        return None

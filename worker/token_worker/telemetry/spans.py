"""Spans of a worker: one for each request that its producer traces, by OpenTelemetry's conventions for messaging.

A request with a valid and sampled ``traceparent`` gets the span ``process <stream>`` of kind CONSUMER. It is a child of
the producer's span, and linked to it. It lasts from the read of the batch to the commit of the reply, or to the move to
the dead letters. The span is made after that, so that no reply waits for it. A try without a result leaves no span. An
entry that two workers handled may leave two.

An error reply sets the status of the span, and ``error.type`` to its code, or to ``_OTHER`` if items failed for several
reasons. A dead letter without a reply sets ``error.type`` to its reason. A span holds the stream, the ids of entry and
request, the operation and the status, and nothing else of the request.
"""

import time
from collections.abc import Sequence

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from token_worker.errors import Code
from token_worker.settings.options import Settings
from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.telemetry.trace_context import TraceParent, log_fields, trace_parent
from token_worker.telemetry.tracing import Attributes, describe

log = structlog.get_logger("spans")

_SEVERAL = "_OTHER"
_PROPAGATOR = TraceContextTextMapPropagator()


class Spans:
    """Makes spans. If the provider fails, spans are lost, but no request. The first failure is logged."""

    def __init__(self, tracer: Tracer, settings: Settings) -> None:
        self._tracer = tracer
        common: Attributes = {"messaging.consumer.group.name": settings.group, "messaging.client.id": settings.consumer}
        self._of_stream: dict[str, Attributes] = {
            route.requests: describe("process", route.requests, settings.streams) | common for route in settings.routes
        }
        self._has_failed = False

    def answered(self, answers: Sequence[Answer], done: Committed, taken_ns: int) -> None:
        """Make the spans of committed answers.

        Args:
            answers: the answers.
            done: outcome of their commit.
            taken_ns: time at which their batch was read, in Unix nanoseconds.
        """
        ended_ns = time.time_ns()
        stuck, forbidden = set(map(id, done.stuck)), set(map(id, done.forbidden))
        for answer in answers:
            entry, facts = answer.entry, answer.facts
            parent = trace_parent(entry.others) if entry.others else None
            if parent is None or not parent.is_sampled or id(entry) in stuck:
                continue
            error = Code.FORBIDDEN.value if id(entry) in forbidden else _error_of(answer)
            attributes: Attributes = {
                "messaging.message.conversation_id": answer.request_id,
                "token_worker.op": facts.op,
                "token_worker.status": facts.status if error is None else "error",
            }
            self._make(entry, parent, attributes, error, (taken_ns, ended_ns))

    def dead_lettered(self, entry: Entry, error: str, taken_ns: int) -> None:
        """Make the span of an entry that became a dead letter; ``taken_ns`` as for ``answered``."""
        parent = trace_parent(entry.others)
        if parent is not None and parent.is_sampled:
            self._make(entry, parent, {}, error, (taken_ns, time.time_ns()))

    def _make(
        self, entry: Entry, parent: TraceParent, facts: Attributes, error: str | None, lasting: tuple[int, int]
    ) -> None:
        taken_ns, ended_ns = lasting
        stream = entry.route.requests
        attributes = {**self._of_stream[stream], "messaging.message.id": entry.id.decode(), **facts}
        if error is not None:
            attributes["error.type"] = error
        producer = {
            "traceparent": f"00-{parent.trace_id}-{parent.span_id}-01",
            "tracestate": (entry.others or {}).get(b"tracestate", b"").decode("ascii", "replace"),
        }
        try:
            context = _PROPAGATOR.extract(producer, Context())
            links = [trace.Link(trace.get_current_span(context).get_span_context())]
            name = f"process {stream}"
            span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links, start_time=taken_ns)
            if error is not None:
                span.set_status(StatusCode.ERROR)
            span.end(max(taken_ns, ended_ns))
        except Exception:  # the provider is code of others
            if not self._has_failed:
                self._has_failed = True
                log.exception("spans are lost: the tracer provider failed", **log_fields(entry))


def _error_of(answer: Answer) -> str | None:
    """Return the code of a reply that is an error as a whole; None for other replies."""
    if answer.facts.status != "error":
        return None
    codes = {outcome for _, outcome in answer.facts.outcomes}
    return codes.pop() if len(codes) == 1 else _SEVERAL

"""A worker's spans: one for each request that its producer traces, by OpenTelemetry's conventions for messaging.

A request with a ``traceparent`` that is valid and sampled gets ``process <stream>``, of kind CONSUMER: a child of the
producer's span, and linked to it. It lasts from the read of its batch to the commit of its reply, or of its burial, and
is made after that, so that no reply waits for it. A try that comes to nothing leaves none; an entry that two workers
handled may leave two.

An error reply sets the status, and ``error.type`` to its code, or to ``_OTHER`` where items failed for several reasons;
a dead letter that nobody was answered for, to its reason. Of the request a span has the stream, entry and request id,
the operation and the status, and nothing else.
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
    """Makes them. A provider that fails costs its spans, never a request; the first time that is logged."""

    def __init__(self, tracer: Tracer, settings: Settings) -> None:
        self._tracer = tracer
        common: Attributes = {"messaging.consumer.group.name": settings.group, "messaging.client.id": settings.consumer}
        self._of_stream: dict[str, Attributes] = {
            route.requests: describe("process", route.requests, settings.streams) | common for route in settings.routes
        }
        self._has_failed = False

    def answered(self, answers: Sequence[Answer], done: Committed, taken_ns: int) -> None:
        """Answers were committed; ``taken_ns``: when their batch was read, Unix time."""
        ended_ns = time.time_ns()
        stuck, forbidden = set(map(id, done.stuck)), set(map(id, done.forbidden))
        for answer in answers:
            entry, facts = answer.entry, answer.facts
            parent = trace_parent(entry.fields) if len(entry.fields) > 1 else None
            if parent is None or not parent.is_sampled or id(entry) in stuck:
                continue
            error = Code.FORBIDDEN.value if id(entry) in forbidden else _error_of(answer)
            attributes: Attributes = {
                "messaging.message.conversation_id": facts.request_id,
                "token_worker.op": facts.op,
                "token_worker.status": facts.status if error is None else "error",
            }
            self._make(entry, parent, attributes, error, (taken_ns, ended_ns))

    def dead_lettered(self, entry: Entry, error: str, taken_ns: int) -> None:
        """An entry became a dead letter; ``taken_ns`` as for ``answered``."""
        parent = trace_parent(entry.fields)
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
            "tracestate": entry.fields.get(b"tracestate", b"").decode("ascii", "replace"),
        }
        try:
            context = _PROPAGATOR.extract(producer, Context())
            links = [trace.Link(trace.get_current_span(context).get_span_context())]
            name = f"process {stream}"
            span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links, start_time=taken_ns)
            if error is not None:
                span.set_status(StatusCode.ERROR)
            span.end(max(taken_ns, ended_ns))
        except Exception:  # whoever set the provider up: it is code of theirs
            if not self._has_failed:
                self._has_failed = True
                log.exception("spans are lost: the tracer provider failed", **log_fields(entry))


def _error_of(answer: Answer) -> str | None:
    """The code of a reply that is an error as a whole."""
    if answer.facts.status != "error":
        return None
    codes = {outcome for _, outcome in answer.facts.outcomes}
    return codes.pop() if len(codes) == 1 else _SEVERAL

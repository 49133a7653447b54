"""Requests of a client carry the traces of their callers, and get spans; without a server."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.msgpack import encode
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState, use_span

from harness.traces import Sdk
from token_worker.client import tracing
from token_worker.client.calls import Call, CallKey, Part, Requests
from token_worker.client.errors import StreamsRefused, TimedOut
from token_worker.client.items import RequestLimits
from token_worker.contract.messages import Op
from token_worker.errors import ServerError
from token_worker.redis.address import parse
from token_worker.telemetry.trace_context import trace_parent

KEY = CallKey(Op.TOKENIZE, "shop", None, consistent=True)
REMOTE = SpanContext(
    0x4BF92F3577B34DA6A3CE929D0E0E4736, 0xF067AA0BA902B7, True, TraceFlags(1), TraceState([("k", "v")])
)


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sdk]:
    """An SDK that is the process' tracer provider for this test: by rights that can be set only once."""
    with Sdk() as sdk:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: sdk.provider)
        yield sdk


def requests(gather_seconds: float | None = None) -> Requests:
    return Requests(
        RequestLimits(), gather_seconds, tracing.SendSpans("requests", parse("redis://streams.example:6400"))
    )


def add(subject: Requests, count: int = 1) -> None:
    """Calls of one value each, as the current context has them."""
    for _ in range(count):
        call = Call()
        call.start(1, 1e9, lambda: TimedOut("late"))
        subject.add(Part(call, 0, 1, b"\xc0", KEY, tracing.caller()), 0.0)


def traceparent(context: SpanContext | None) -> str:
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def headers(request: Part) -> tuple[str | bytes, ...]:
    return request.fields(lambda _: None)[2:]


def test_send_span_is_the_parent_that_workers_see(sdk: Sdk) -> None:
    """A request gets a PRODUCER span below its caller's, and carries that; it ends with the entry id of the server."""
    subject = requests()
    with sdk.provider.get_tracer("shop").start_as_current_span("import") as parent:
        add(subject)
    [request] = subject.take(10, "replies")
    assert request.span is not None
    request.span.end(b"7-1")
    *_, span = sdk.spans
    assert (span.name, span.kind) == ("send requests", SpanKind.PRODUCER)
    assert span.parent == parent.get_span_context()
    assert headers(request) == ("traceparent", traceparent(span.context))
    assert span.status.is_unset
    assert span.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "requests",
        "messaging.message.conversation_id": request.id,
        "messaging.message.id": "7-1",
        "server.address": "streams.example",
        "server.port": 6400,
    }


def test_calls_share_a_request_only_below_one_span(sdk: Sdk) -> None:
    """Gathered calls of one caller's span go out together; of another one apart, each below its own."""
    subject = requests(gather_seconds=1.0)
    tracer = sdk.provider.get_tracer("shop")
    parents = [tracer.start_span("one"), tracer.start_span("two")]
    for parent in parents:
        with use_span(parent):
            add(subject, 3)
    add(subject, 2)
    taken = subject.take(10, "replies")
    assert [len(request.parts) for request in taken] == [3, 3, 2]
    for request in taken:
        assert request.span is not None
        request.span.end(b"7-1")
    assert [span.parent for span in sdk.spans] == [*(parent.get_span_context() for parent in parents), None]


def test_span_ends_when_its_request_is_not_sent_again(sdk: Sdk) -> None:
    """Refused by the server, or in doubt and then answered, given up before it could be sent again, or meanwhile."""
    subject = requests()
    add(subject, 4)
    refused, answered, given_up, swept = subject.take(10, "replies")
    assert refused.span is not None
    refused.span.end(ServerError("streams", "NOPERM"))
    subject.fail(refused, StreamsRefused("NOPERM"))
    subject.take_replies([encode({"id": answered.id, "items": [{"value": "token"}]})])
    given_up.parts[0].call.has_ended = True
    subject.sweep()
    assert len(sdk.spans) == 1
    subject.requeue([answered, given_up, swept])
    assert len(sdk.spans) == 3
    swept.parts[0].call.has_ended = True
    subject.sweep()
    errors = [(span.attributes or {}).get("error.type") for span in sdk.spans]
    assert errors == ["NOPERM", None, "unconfirmed", "unconfirmed"]
    assert [span.status.is_unset for span in sdk.spans] == [error is None for error in errors]
    assert subject.take(10, "replies") == []


def test_request_that_is_sent_again_keeps_its_span(sdk: Sdk) -> None:
    """A request that is sent several times has one span, and workers see the same one each time."""
    subject = requests()
    add(subject)
    first = subject.take(10, "replies")
    subject.requeue(first)
    assert subject.take(10, "replies") == first
    assert sdk.spans == []


def test_request_answered_while_it_waits_to_be_sent_again_is_no_error(sdk: Sdk) -> None:
    """The reply proves that the request had arrived, though the server's answer to it was lost."""
    subject = requests()
    add(subject)
    [request] = subject.take(10, "replies")
    subject.requeue([request])
    subject.take_replies([encode({"id": request.id, "items": [{"value": "token"}]})])
    assert subject.take(10, "replies") == []
    [span] = sdk.spans
    assert span.status.is_unset


def test_unsampled_trace_is_passed_on_without_a_span(sdk: Sdk) -> None:
    """Workers learn that they are not to make spans, and still have the trace for their logs."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    subject = requests()
    with provider.get_tracer("shop").start_as_current_span("import") as parent:
        add(subject)
    [request] = subject.take(10, "replies")
    name, value = headers(request)
    passed_on = trace_parent({b"traceparent": str(value).encode()})
    assert passed_on is not None
    assert (name, passed_on.trace_id) == ("traceparent", f"{parent.get_span_context().trace_id:032x}")
    assert not passed_on.is_sampled
    assert request.span is not None
    request.span.end(b"7-1")
    assert sdk.spans == []


class NoSpans(trace.NoOpTracer):
    """A tracer like the NoOpTracer of older OpenTelemetry: it drops the context of the parent."""

    def start_span(self, *args: object, **kwargs: object) -> trace.Span:
        return trace.INVALID_SPAN


@pytest.mark.parametrize("tracer", [trace.NoOpTracer(), NoSpans()])
def test_trace_of_the_caller_is_passed_on_without_a_provider(tracer: trace.Tracer) -> None:
    """Without a tracer provider, a trace from elsewhere is passed on unchanged, with its ``tracestate``."""
    sends = tracing.SendSpans("requests", parse("redis://localhost"))
    sends._tracer = tracer
    subject = Requests(RequestLimits(), None, sends)
    with use_span(NonRecordingSpan(REMOTE)):
        add(subject)
    [request] = subject.take(10, "replies")
    assert headers(request) == ("traceparent", traceparent(REMOTE), "tracestate", "k=v")


def test_entry_has_no_more_fields_where_nothing_is_traced() -> None:
    """Neither a provider nor a span: a request is its payload."""
    subject = requests()
    add(subject)
    [request] = subject.take(10, "replies")
    assert (headers(request), request.span) == ((), None)


def test_provider_that_fails_costs_no_request(sdk: Sdk) -> None:
    """A processor that raises, at a span's start or end, loses the trace and nothing else."""

    class Broken(SpanProcessor):
        def __init__(self, name: str) -> None:
            self._name = name

        def _raise(self, name: str) -> None:
            if name == self._name:
                raise RuntimeError("a defect of a plug-in")

        def on_start(self, span: object, parent_context: object = None) -> None:
            self._raise("start")

        def on_end(self, span: object) -> None:
            self._raise("end")

    for name in ("start", "end"):
        sdk.provider = TracerProvider(shutdown_on_exit=False)
        sdk.provider.add_span_processor(Broken(name))
        subject = requests()
        add(subject)
        [request] = subject.take(10, "replies")
        assert (request.span is None) == (name == "start")
        if request.span is not None:
            request.span.end(b"7-1")


def test_client_needs_no_opentelemetry() -> None:
    """Without OpenTelemetry a client loads, and traces nothing."""
    code = """
import sys
sys.modules["opentelemetry"] = None
import token_worker.client
from token_worker.client import tracing
from token_worker.redis.address import parse
tracing.SendSpans("requests", parse("redis://localhost"))
sys.exit(tracing.caller() is not None or any(name in sys.modules for name in ("hvac", "opentelemetry.trace")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

"""Spans of a worker, made of answers by hand; the SDK keeps them in memory."""

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from harness.traces import Sdk
from token_worker.contract.messages import Op
from token_worker.redis.address import parse
from token_worker.settings import load
from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.telemetry.spans import Spans
from token_worker.telemetry.tracing import describe

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
PARENT = f"00-{TRACE:032x}-{SPAN:016x}-01".encode()
SETTINGS = load(
    {
        "TOKEN_WORKER_STREAMS_URL": "redis://:secret@streams.example:6400/2",
        "TOKEN_WORKER_MASTER_KEY_SOURCE": "env",
        "TOKEN_WORKER_CONSUMER": "worker-1",
    }
)
[ROUTE] = [route for route in SETTINGS.routes if Op.TOKENIZE in route.ops]

TAKEN = 1_700_000_000_000_000_000
"""The time at which a batch was read."""


class Made:
    """``Spans`` with an SDK of its own, and what came of it."""

    def __init__(self, *processors: SpanProcessor) -> None:
        self._sdk = Sdk()
        for processor in processors:
            self._sdk.provider.add_span_processor(processor)
        self.subject = Spans(self._sdk.provider.get_tracer("test"), SETTINGS)

    @property
    def spans(self) -> list[ReadableSpan]:
        return self._sdk.spans

    @property
    def errors(self) -> list[Any]:
        """``error.type`` of each span; its status has to agree."""
        for span in self.spans:
            is_error = "error.type" in (span.attributes or {})
            assert span.status.status_code == (StatusCode.ERROR if is_error else StatusCode.UNSET)
            assert span.status.description is None
        return [(span.attributes or {}).get("error.type") for span in self.spans]


def answer(status: str, *codes: str, trace: bytes = PARENT, state: bytes = b"") -> Answer:
    fields = {b"payload": b"...", b"traceparent": trace, b"tracestate": state}
    outcomes = tuple(("str", code) for code in codes)
    facts = ReplyFacts("tokenize", status, "shop", None, outcomes)
    return Answer(Entry.of(ROUTE, b"17-3", fields), b"", facts=facts, request_id="id")


def test_span_of_a_request_follows_the_conventions_for_messaging() -> None:
    """Name, kind, parent, link, times and attributes; no more of the request than these, and no password."""
    made = Made()
    taken = time.time_ns()
    made.subject.answered([answer("ok", "ok", state=b"shop=1,other=2")], Committed(written=1), taken)
    [span] = made.spans
    assert (span.name, span.kind) == ("process tokenize:requests", SpanKind.CONSUMER)
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.parent.is_remote) == (TRACE, SPAN, True)
    assert span.context is not None
    assert span.context.trace_id == TRACE
    assert span.context.trace_state.to_header() == "shop=1,other=2"
    assert [link.context for link in span.links] == [span.parent]
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time == taken <= span.end_time <= time.time_ns()
    assert span.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "tokenize:requests",
        "messaging.consumer.group.name": "token-workers",
        "messaging.client.id": "worker-1",
        "messaging.message.id": "17-3",
        "messaging.message.conversation_id": "id",
        "server.address": "streams.example",
        "server.port": 6400,
        "token_worker.op": "tokenize",
        "token_worker.status": "ok",
    }


def test_error_of_a_span_is_the_code_of_the_reply() -> None:
    """A reply that is an error as a whole gives its code, of several reasons none; a partial one is no error."""
    made = Made()
    answers = [
        answer("error", "unknown_client"),
        answer("error", "token_not_found", "token_not_found"),
        answer("error", "token_not_found", "token_disabled"),
        answer("partial", "ok", "token_not_found"),
    ]
    made.subject.answered(answers, Committed(written=4), TAKEN)
    assert made.errors == ["unknown_client", "token_not_found", "_OTHER", None]


def test_reply_that_its_target_could_not_take_is_forbidden() -> None:
    """The producer got ``forbidden`` on the route's own stream, whatever the answer would have been."""
    made = Made()
    answers = [answer("ok", "ok"), answer("ok", "ok")]
    made.subject.answered(answers, Committed(written=1, forbidden=[answers[1].entry]), TAKEN)
    assert made.errors == [None, "forbidden"]
    assert [(span.attributes or {})["token_worker.status"] for span in made.spans] == ["ok", "error"]


def test_entry_that_stays_pending_has_no_span_yet() -> None:
    """It is not answered: who answers it makes the span."""
    made = Made()
    answers = [answer("ok", "ok"), answer("error", "expired")]
    made.subject.answered(answers, Committed(written=1, stuck=[answers[0].entry]), TAKEN)
    assert made.errors == ["expired"]


@pytest.mark.parametrize("trace", [b"", b"00-ab-cd-01", PARENT[:-2] + b"00"])
def test_request_that_its_producer_does_not_trace_has_no_span(trace: bytes) -> None:
    """No ``traceparent``, none that is valid, or one that is not sampled."""
    made = Made()
    made.subject.answered([answer("ok", "ok", trace=trace)], Committed(written=1), TAKEN)
    made.subject.dead_lettered(answer("ok", trace=trace).entry, "internal", TAKEN)
    assert made.spans == []


def test_clock_that_was_set_back_makes_no_negative_span() -> None:
    """The end is never before the start."""
    made = Made()
    ahead = 1 << 62
    made.subject.answered([answer("ok", "ok")], Committed(written=1), ahead)
    [span] = made.spans
    assert (span.start_time, span.end_time) == (ahead, ahead)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=700) | st.from_regex(r"([a-z]{1,3}=[ -~]{0,9},?){0,50}").map(str.encode))
def test_span_is_made_whatever_the_tracestate(state: bytes) -> None:
    """A wrong ``tracestate`` is left out of the span, and has no other effect."""
    made = Made()
    made.subject.answered([answer("ok", "ok", state=state)], Committed(written=1), TAKEN)
    [span] = made.spans
    assert span.context is not None
    assert span.context.trace_id == TRACE
    assert all(part in state.decode("ascii", "replace") for part in span.context.trace_state.to_header().split(","))


def test_provider_that_fails_is_told_of_once_and_costs_no_request() -> None:
    """A processor that raises loses spans; the worker goes on, and its log says so one time."""

    class Broken(SpanProcessor):
        def on_start(self, span: object, parent_context: object = None) -> None:
            raise RuntimeError("a defect of a plug-in")

    made = Made(Broken())
    with capture_logs() as lines:
        for _ in range(3):
            made.subject.answered([answer("ok", "ok"), answer("ok", "ok")], Committed(written=2), TAKEN)
    assert made.spans == []
    assert [(line["entry"], line["trace_id"]) for line in lines] == [("17-3", f"{TRACE:032x}")]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://streams", {"server.address": "streams", "server.port": 6379}),
        ("rediss://user:pass@[::1]:7000/1", {"server.address": "::1", "server.port": 7000}),
        ("unix://user@/run/redis.sock?db=1", {"server.address": "/run/redis.sock"}),
        ("redis+sentinel://one,two/mymaster", {}),
        ("redis+cluster://one,two", {}),
    ],
)
def test_server_is_named_where_it_is_always_the_same(url: str, expected: dict[str, Any]) -> None:
    """Host and port, or the socket; of Sentinels and clusters none, since they choose one each time."""
    found = describe("send", "requests", parse(url))
    assert {name: value for name, value in found.items() if name.startswith("server.")} == expected


@pytest.mark.parametrize("prepare", ["sys.modules['opentelemetry'] = None", "import opentelemetry.trace"])
def test_without_a_provider_there_are_no_spans(prepare: str) -> None:
    """Without OpenTelemetry, or without a provider, a worker loads no module that makes spans."""
    code = f"""
import sys
{prepare}
import token_worker.cli.run
from token_worker.telemetry.tracing import find_tracer
sys.exit(find_tracer() is not None or "token_worker.telemetry.spans" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

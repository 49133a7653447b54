"""Traces across real workers: on replies, in log lines, and as spans."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.stack import GROUP, Stack, wait_until
from harness.traces import lines_of, start_traced_worker

CLIENT = "shop-frontend"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
INVALID = f"00-{TRACE}-{SPAN}-01-hunter2canary"
TOKENIZE = {"op": "tokenize", "client_id": CLIENT, "type": "str", "value": "grace"}
DETOKENIZE = {"op": "detokenize", "client_id": CLIENT, "type": "str", "value": "no such token"}
ITEMS = {"op": "tokenize", "client_id": CLIENT}
GOOD, EMPTY, UNKNOWN = {"type": "str", "value": "x y"}, {"type": "str", "value": ""}, {"type": "uuid", "value": "x"}


def add(stack: Stack, request: dict[str, Any] | bytes, stream: str = "tokenize:requests", **trace: str) -> str:
    """Send a request with trace fields; its entry id."""
    payload = request if isinstance(request, bytes) else msgspec.json.encode({"id": "trace", **request})
    return str(stack.streams.xadd(stream, {"payload": payload, **trace}).decode())


def exhaust(stack: Stack, request: dict[str, Any], **trace: str) -> str:
    """Send a request whose tries are used up: a worker that finds it tells its producer, and makes it a dead letter."""
    stack.streams.xgroup_create("tokenize:requests", GROUP, id="0", mkstream=True)
    entry = add(stack, request, **trace)
    stack.streams.xreadgroup(GROUP, "dead", {"tokenize:requests": ">"})
    as_found = {"idle": 3_600_000, "retrycount": 6, "justid": True}
    assert stack.streams.xclaim("tokenize:requests", GROUP, "dead", 0, [entry], **as_found) == [entry.encode()]
    return entry


def replies_by_entry(stack: Stack, streams: Sequence[str]) -> dict[str, dict[bytes, bytes]]:
    """Fields of each reply, by the request it answers."""
    found = [fields for stream in streams for _, fields in stack.streams.xrange(stream)]
    return {msgspec.json.decode(fields[b"payload"])["request_entry"]: fields for fields in found}


@pytest.fixture
def spans(tmp_path: Path) -> Path:
    return tmp_path / "spans"


def test_traced_request_gets_one_span_from_read_to_reply(stack: Stack, spans: Path) -> None:
    """A child of the producer's span, linked to it, by the conventions; the reply carries the fields as they came."""
    before = datetime.now().astimezone()
    entry = add(stack, TOKENIZE, traceparent=SAMPLED, tracestate="shop=1")
    start_traced_worker(stack, spans)
    wait_until(lambda: lines_of(spans), "the span")
    [span] = lines_of(spans)
    assert (span["name"], span["kind"]) == ("process tokenize:requests", "SpanKind.CONSUMER")
    assert (span["context"]["trace_id"], span["parent_id"]) == (f"0x{TRACE}", f"0x{SPAN}")
    [link] = span["links"]
    assert (link["context"]["trace_id"], link["context"]["span_id"]) == (f"0x{TRACE}", f"0x{SPAN}")
    assert span["status"] == {"status_code": "UNSET"}
    start, end = (datetime.fromisoformat(span[name]) for name in ("start_time", "end_time"))
    assert before <= start <= end
    port = int(stack.settings["TOKEN_WORKER_STREAMS_URL"].rpartition(":")[2].partition("/")[0])
    consumer = span["attributes"].pop("messaging.client.id")
    assert consumer
    assert span["attributes"] == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "tokenize:requests",
        "messaging.consumer.group.name": GROUP,
        "messaging.message.id": entry,
        "messaging.message.conversation_id": "trace",
        "server.address": "127.0.0.1",
        "server.port": port,
        "token_worker.op": "tokenize",
        "token_worker.status": "ok",
    }
    fields = replies_by_entry(stack, ["tokenize:responses"])[entry]
    assert (fields[b"traceparent"], fields[b"tracestate"]) == (SAMPLED.encode(), b"shop=1")


def test_spans_tell_what_became_of_requests(stack: Stack, spans: Path) -> None:
    """Each kind of reply, and each way to the dead letters, has its error; values and clients are in none."""
    stack.streams.set("tokenize:responses:wrong", "a text")
    trace = {"traceparent": SAMPLED}
    expected: dict[tuple[str, str], str | None] = {
        ("tokenize:requests", exhaust(stack, TOKENIZE, **trace)): "internal",
        ("detokenize:requests", add(stack, DETOKENIZE, "detokenize:requests", **trace)): "token_not_found",
    }
    for request, error in (
        (TOKENIZE, None),
        ({**TOKENIZE, "client_id": "nobody"}, "unknown_client"),
        ({**TOKENIZE, "oops": 1}, "invalid_request"),
        ({**TOKENIZE, "reply_to": "tokenize:responses:wrong"}, "forbidden"),
        ({**ITEMS, "items": [GOOD, EMPTY]}, None),
        ({**ITEMS, "items": [EMPTY, UNKNOWN]}, "_OTHER"),
        (b"no object", "not_json_or_msgpack"),
    ):
        expected["tokenize:requests", add(stack, request, **trace)] = error
    start_traced_worker(stack, spans)
    wait_until(lambda: len(lines_of(spans)) >= len(expected), "the spans")
    found: dict[tuple[str, str], str | None] = {}
    for span in lines_of(spans):
        attributes = span["attributes"]
        name = attributes["messaging.destination.name"], attributes["messaging.message.id"]
        found[name] = attributes.get("error.type")
        assert span["status"]["status_code"] == ("ERROR" if found[name] else "UNSET")
    assert found == expected
    assert not [secret for secret in ("grace", "no such token", "nobody", CLIENT) if secret in spans.read_text()]


def test_request_that_is_not_traced_gets_no_span(stack: Stack, spans: Path) -> None:
    """None without ``traceparent``, with an unsampled or an invalid one; all are answered, with the fields they had."""
    unsampled = SAMPLED[:-2] + "00"
    untraced = [add(stack, TOKENIZE, **trace) for trace in ({}, {"traceparent": unsampled}, {"traceparent": INVALID})]
    traced = add(stack, TOKENIZE, traceparent=SAMPLED)  # spans are made in order: there is none to come after this one
    start_traced_worker(stack, spans)
    wait_until(lambda: lines_of(spans), "the span")
    assert [span["attributes"]["messaging.message.id"] for span in lines_of(spans)] == [traced]
    fields = replies_by_entry(stack, ["tokenize:responses"])
    carried = [fields[entry].get(b"traceparent") for entry in [*untraced, traced]]
    assert carried == [None, unsampled.encode(), INVALID.encode(), SAMPLED.encode()]


def test_log_and_audit_lines_of_an_entry_name_its_trace(stack: Stack, tmp_path: Path) -> None:
    """Each line has ``trace_id`` where it is valid, sampled or not, and never what a producer wrote there instead."""
    log = tmp_path / "log"
    stack.start_worker(log=log, TOKEN_WORKER_LOG_LEVEL="debug")
    stack.ask([{**TOKENIZE, "id": "before"}])
    for name in stack.storage.keys("tokens/*"):
        stack.storage.set(name, "damaged")
    expected: dict[tuple[str, str], str | None] = {}
    for traceparent, trace_id in ((SAMPLED, TRACE), (SAMPLED[:-2] + "00", TRACE), (INVALID, None)):
        for stream, request in (
            ("tokenize:requests", b"no object"),
            ("tokenize:requests", TOKENIZE),
            ("detokenize:requests", DETOKENIZE),
        ):
            expected[stream, add(stack, request, stream, traceparent=traceparent)] = trace_id
    expected["detokenize:requests", add(stack, DETOKENIZE, "detokenize:requests")] = None

    def logged() -> set[tuple[str, str, str | None]]:
        lines = [line for line in lines_of(log) if "entry" in line]
        return {(line["stream"], line["entry"], line.get("trace_id")) for line in lines}

    wait_until(lambda: len(logged()) >= len(expected), "a line about each entry")
    assert logged() == {(stream, entry, trace_id) for (stream, entry), trace_id in expected.items()}
    assert "hunter2canary" not in log.read_text()


@pytest.mark.parametrize("trace", [{"traceparent": SAMPLED, "tracestate": "k=v"}, {"tracestate": "k=v"}])
def test_replies_of_all_kinds_have_both_trace_fields_or_none(stack: Stack, trace: dict[str, str]) -> None:
    """``tracestate`` without ``traceparent`` means nothing, and is on no reply of any kind."""
    stack.streams.set("tokenize:responses:wrong", "a text")
    sent = [
        exhaust(stack, TOKENIZE, **trace),
        add(stack, TOKENIZE, **trace),
        add(stack, {**TOKENIZE, "oops": 1}, **trace),
        add(stack, {**TOKENIZE, "reply_to": "tokenize:responses:own"}, **trace),
        add(stack, {**TOKENIZE, "reply_to": "tokenize:responses:wrong"}, **trace),
    ]
    stack.start_worker()

    def replies() -> dict[str, dict[bytes, bytes]]:
        return replies_by_entry(stack, ["tokenize:responses", "tokenize:responses:own"])

    wait_until(lambda: len(replies()) == len(sent), "the replies")
    carried = {name.encode(): value.encode() for name, value in trace.items()} if "traceparent" in trace else {}
    for entry, fields in replies().items():
        assert entry in sent
        assert {name: value for name, value in fields.items() if name != b"payload"} == carried

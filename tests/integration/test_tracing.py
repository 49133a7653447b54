"""Traces across real workers: on replies and in log lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stack import Stack, wait_until

CLIENT = "shop-frontend"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
INVALID = f"00-{TRACE}-{SPAN}-01-hunter2canary"
GROUP = "token-workers"
TOKENIZE = {"op": "tokenize", "client_id": CLIENT, "type": "str", "value": "grace"}
DETOKENIZE = {"op": "detokenize", "client_id": CLIENT, "type": "str", "value": "no such token"}


def add(stack: Stack, request: dict[str, Any] | bytes, stream: str = "tokenize:requests", **trace: str) -> str:
    """Send a request with trace fields; its entry id."""
    payload = request if isinstance(request, bytes) else msgspec.json.encode({"id": "trace", **request})
    return str(stack.streams.xadd(stream, {"payload": payload, **trace}).decode())


def exhaust(stack: Stack, request: dict[str, Any], **trace: str) -> str:
    """Send a request whose tries are used up: a worker that finds it tells its producer, and buries it."""
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


def lines_of(file: Path) -> list[dict[str, Any]]:
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_log_and_audit_lines_of_an_entry_name_its_trace(stack: Stack, tmp_path: Path) -> None:
    """Each line has ``trace_id`` where it is valid, sampled or not, and never what a producer wrote there instead."""
    log = tmp_path / "log"
    stack.start_worker(log=log, TOKEN_WORKER_LOG_LEVEL="debug")
    stack.ask([{**TOKENIZE, "id": "before"}])
    for name in stack.storage.keys("tokens/*"):
        stack.storage.set(name, "damaged")
    expected: dict[str, str | None] = {}
    for traceparent, trace_id in ((SAMPLED, TRACE), (SAMPLED[:-2] + "00", TRACE), (INVALID, None)):
        for stream, request in (
            ("tokenize:requests", b"no object"),
            ("tokenize:requests", TOKENIZE),
            ("detokenize:requests", DETOKENIZE),
        ):
            expected[add(stack, request, stream, traceparent=traceparent)] = trace_id
    expected[add(stack, DETOKENIZE, "detokenize:requests")] = None

    def told() -> dict[str, str | None]:
        return {line["entry"]: line.get("trace_id") for line in lines_of(log) if "entry" in line}

    wait_until(lambda: told().keys() >= expected.keys(), "a line about each entry")
    assert told() == expected
    assert "hunter2canary" not in log.read_text()


@pytest.mark.parametrize("trace", [{"traceparent": SAMPLED, "tracestate": "k=v"}, {"tracestate": "k=v"}])
def test_replies_of_all_kinds_have_both_trace_fields_or_none(stack: Stack, trace: dict[str, str]) -> None:
    """However an entry is answered: ``tracestate`` by itself, which means nothing, is on no reply."""
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

"""No value, token or key gets into the output of a run, the reasons of dead letters, or error messages."""

import base64
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.servers import Valkey
from harness.stack import Stack, wait_until

CANARY = "CANARY4111111111111111"
CLIENT = "shop-frontend"
GOOD = {"id": "good", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": CANARY}


def requests() -> Iterator[dict[str, Any] | bytes]:
    """Requests with the canary in every member, as a member's name, and in places that break decoding."""
    numbers = itertools.count()

    def with_id(members: dict[str, Any]) -> dict[str, Any]:
        return {**GOOD, "id": f"request-{next(numbers)}", **members}

    yield with_id({})
    for member in (
        "op",
        "client_id",
        "zone_id",
        "type",
        "value",
        "reply_to",
        "expires_at",
        "replay",
        "replay_of",
        CANARY,
    ):
        yield with_id({member: CANARY})
        yield with_id({member: [CANARY]})
        yield with_id({member: {CANARY: CANARY}})
    for kind in ("int32", "int64", "bytes", "email", "str"):
        yield with_id({"type": kind})
        yield with_id({"type": kind, "op": "detokenize"})
    yield with_id({"reply_to": f"tokenize:responses:{CANARY}"})
    yield with_id({"consistent": CANARY})
    yield with_id({"consistent": False})
    item = {"type": "str", "value": CANARY, "ref": CANARY}
    base = {"op": "tokenize", "client_id": CLIENT}
    for change in ({}, {CANARY: 1}, {"type": CANARY}, {"ref": [CANARY]}, {"value": {CANARY: CANARY}}):
        yield {**base, "id": f"request-{next(numbers)}", "items": [{**item, **change}]}
    yield {**base, "id": f"request-{next(numbers)}", "items": CANARY}
    yield CANARY.encode()
    yield b'{"' + CANARY.encode()
    yield b'{"id":["' + CANARY.encode() + b'"]}'
    yield b'{"id":"request-b1","op":"tokenize","value":"' + CANARY.encode() + b'\xff"}'
    yield b'{"id":"request-b2","op":"tokenize","value":"' + CANARY.encode() + b'\\ud800"}'
    yield b'{"id":"request-b3","' + CANARY.encode() + b'":' + b"[" * 2000
    yield msgspec.msgpack.encode(with_id({"value": CANARY.encode(), "type": "bytes"}))
    yield b"\x82\xa2id\xa2b4\xa5value\xb6" + CANARY.encode() + b"\xff\xff"


@pytest.fixture
def watched(streams_server: Valkey, storage_server: Valkey, tmp_path: Path) -> Iterator[tuple[Stack, Path]]:
    """A worker that logs all it can, and its log."""
    log = tmp_path / "worker.log"
    with Stack(streams_server, storage_server, settings={"TOKEN_WORKER_LOG_LEVEL": "debug"}) as stack:
        yield stack, log


def test_no_secret_is_in_any_output(watched: tuple[Stack, Path]) -> None:
    """A canary in every field of the contract is in no log line at DEBUG, no reason and no error message."""
    stack, log = watched
    key = stack.generate_key(CLIENT)
    worker = stack.start_worker(log=log)
    payloads = list(requests())
    stack.send(payloads)
    stack.streams.xadd(
        "tokenize:requests", {"payload": msgspec.json.encode(GOOD), "traceparent": CANARY, "tracestate": CANARY}
    )
    stack.streams.xadd("tokenize:requests", {CANARY: CANARY})
    wait_until(lambda: _is_done(stack, len(payloads) + 2), "all entries to be answered or moved")

    replies = [*stack.replies(), *stack.replies(f"tokenize:responses:{CANARY}")]
    tokens = [reply["value"] for reply in replies if isinstance(reply.get("value"), str)]
    assert tokens
    # Stored data that cannot be read, and a key that cannot be unwrapped.
    for name in stack.storage.keys("tokens/*"):
        raw = stack.storage.get(name)
        stack.storage.set(name, raw[:-30] + b"00" + raw[-28:])
    stack.storage.set(".acrakeys/other_client_storage_sym", base64.b64encode(os.urandom(76)))
    stack.send([{**GOOD, "id": "damaged"}, {**GOOD, "id": "unwrapped", "client_id": "other_client"}])
    stack.send(
        [{**GOOD, "id": "turned", "op": "detokenize", "value": token} for token in tokens], "detokenize:requests"
    )
    stack.wait_for_replies(len(tokens), "detokenize:responses")
    wait_until(lambda: {"damaged", "unwrapped"} <= {reply["id"] for reply in stack.replies()}, "replies")
    worker.stop()

    output = log.read_text()
    assert "drained" in output
    assert "dead letter" in output
    assert "stored data cannot be read" in output
    assert "other_client_storage_sym" in output
    secrets = [CANARY, *tokens, key.hex(), base64.b64encode(key).decode(), stack.settings["ACRA_MASTER_KEY"]]
    assert not [number for number, secret in enumerate(secrets) if secret in output]
    dead = [fields[b"dead_reason"] for _, fields in stack.streams.xrange("tokenize:requests:dead")]
    assert dead
    assert not any(CANARY.encode() in reason for reason in dead)
    errors = [error for reply in [*stack.replies(), *stack.replies("detokenize:responses")] for error in _errors(reply)]
    assert errors
    assert not any(secret in message for message in errors for secret in secrets)


def _is_done(stack: Stack, count: int) -> bool:
    groups = stack.streams.xinfo_groups("tokenize:requests")
    return bool(groups) and groups[0]["entries-read"] == count and groups[0]["pending"] == 0


def _errors(reply: dict[str, Any]) -> list[str]:
    holders = [reply, *reply.get("items", [])]
    return [holder["error"]["message"] for holder in holders if "error" in holder]


def test_a_crash_prints_no_secret(watched: tuple[Stack, Path]) -> None:
    """Token storage that answers with nonsense is logged without what was asked."""
    stack, log = watched
    stack.generate_key(CLIENT)
    worker = stack.start_worker(log=log)
    stack.storage.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-msetnx"])
    try:
        stack.send([GOOD])
        wait_until(lambda: "server unavailable" in log.read_text(), "the outage in the log")
        output = log.read_text()
    finally:
        stack.storage.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
    assert "NOPERM" in output
    assert CANARY not in output
    [reply] = stack.wait_for_replies(1)
    assert reply["status"] == "ok"
    worker.stop()
    assert CANARY not in log.read_text()

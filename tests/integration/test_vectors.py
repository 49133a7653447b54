"""Data that the real Acra binaries wrote is read, its tokens are kept, and nothing else is changed."""

import base64
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pytest

from harness.direct import DirectHandler, Message, Vectors
from harness.servers import Valkey
from harness.stack import Stack
from token_worker.acra.token_entry import TokenEntry, decode_entry, encode_entry

READABLE = ["acra-types", "acra-rotated", "acra-zones"]
WRITTEN_AT = 1_795_473_500
"""Unix seconds: shortly after the vectors were made, so that no entry's last use is a day ago."""


@pytest.fixture
def handler_on(storage_server: Valkey) -> Iterator[Callable[..., DirectHandler]]:
    """Loads vectors onto a server, and answers requests there."""
    handlers: list[DirectHandler] = []

    def make(vectors: Vectors, now: float = WRITTEN_AT) -> DirectHandler:
        vectors.load(storage_server)
        handlers.append(DirectHandler(storage_server, vectors.master_key, lambda: now))
        return handlers[-1]

    yield make
    for handler in handlers:
        handler.close()


def dump(server: Valkey) -> dict[str, str]:
    with server.client() as client:
        keys = sorted(client.scan_iter(count=1000))
        return {key.decode(): value.decode() for key, value in zip(keys, client.mget(keys), strict=True)}


def request_of(case: Message, op: str) -> Message:
    """A request for the token of a case's value, or for the value of its token."""
    given = case["value" if op == "tokenize" else "token"]
    request = {"op": op, "value": given}
    return request | {name: case[name] for name in ("client_id", "zone_id", "type") if name in case}


def expected(case: Message, op: str) -> Any:
    """The content of the reply to ``request_of``."""
    value = case["token" if op == "tokenize" else "value"]
    return str(value) if case["type"] == "int64" else value


def wrong(cases: list[Message], replies: list[Message], op: str) -> list[int]:
    """Numbers of the cases whose reply is not the expected one."""
    pairs = enumerate(zip(cases, replies, strict=True))
    return [number for number, (case, reply) in pairs if reply.get("value") != expected(case, op)]


@pytest.mark.parametrize("op", ["tokenize", "detokenize"])
@pytest.mark.parametrize("name", READABLE)
def test_tokens_of_acra_are_kept_and_detokenized(
    storage_server: Valkey, handler_on: Callable[..., DirectHandler], name: str, op: str
) -> None:
    """Every value keeps the token that Acra gave it, every token of Acra is detokenized, and nothing is written."""
    vectors = Vectors(name)
    handler = handler_on(vectors)

    replies = handler.ask([request_of(case, op) for case in vectors.cases])

    assert wrong(vectors.cases, replies, op) == []
    assert {reply["status"] for reply in replies} == {"ok"}
    assert dump(storage_server) == vectors.redis


def test_vectors_are_rich() -> None:
    """The vectors hold every type, a client with spaces, zones beside a client, and keys of three generations."""
    types, rotated, zones = (Vectors(name).cases for name in READABLE)

    assert {case["type"] for case in types} == {"int32", "int64", "str", "bytes", "email"}
    assert {case["client_id"] for case in types} == {"shop-frontend", "billing_service", "Client With Spaces"}
    assert {case["key_generation"] for case in rotated} == {0, 1, 2}
    assert len({case.get("zone_id") for case in zones}) == 3


@pytest.mark.parametrize("op", ["tokenize", "detokenize"])
def test_disabled_tokens_stay_disabled(
    storage_server: Valkey, handler_on: Callable[..., DirectHandler], op: str
) -> None:
    """Disabled tokens are token_disabled both ways, and nothing is made in their place; the others serve on."""
    vectors = Vectors("acra-disabled")
    handler = handler_on(vectors)
    disabled = [case for case in vectors.cases if case["disabled"]]
    enabled = [case for case in vectors.cases if not case["disabled"]]

    replies = handler.ask([request_of(case, op) for case in disabled + enabled])

    assert {reply["error"]["code"] for reply in replies[: len(disabled)]} == {"token_disabled"}
    assert wrong(enabled, replies[len(disabled) :], op) == []
    assert len(disabled) == 4
    assert dump(storage_server) == vectors.redis


def test_tokens_belong_to_their_owner_and_type(handler_on: Callable[..., DirectHandler]) -> None:
    """A token of Acra is not found for another client, another zone, or as another type."""
    vectors = Vectors("acra-zones")
    texts = [case for case in vectors.cases if case["type"] == "str" and len(case["token"]) > 4]
    zones = {case.get("zone_id") for case in texts}
    requests = [request_of(case, "detokenize") for case in texts]
    others = []
    for case, request in zip(texts, requests, strict=True):
        others += [{**request, "zone_id": zone} for zone in zones - {case.get("zone_id")}]
        others.append({**request, "type": "email"})

    replies = handler_on(vectors).ask(others)

    assert {reply["error"]["code"] for reply in replies} == {"token_not_found"}


def test_history_among_many_keys(storage_server: Valkey, handler_on: Callable[..., DirectHandler]) -> None:
    """Keys of the history are found among 20,000 other keys, at the first request that needs one."""
    vectors = Vectors("acra-rotated")
    with storage_server.client() as client:
        client.mset({f"tokens/of-others/{number}": "x" for number in range(20_000)})
    oldest = [case for case in vectors.cases if case["key_generation"] == 0]

    replies = handler_on(vectors).ask([request_of(case, "detokenize") for case in oldest])

    assert wrong(oldest, replies, "detokenize") == []


def test_new_values_after_a_rotation(storage_server: Valkey, handler_on: Callable[..., DirectHandler]) -> None:
    """A value that comes after Acra rotated the key gets a token that another worker turns back with the newest key."""
    vectors = Vectors("acra-rotated")
    request = {"op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": "came after the rotation"}
    (reply,) = handler_on(vectors).ask([request])
    with storage_server.client() as client:
        history = list(client.scan_iter("*.old/*", count=1000))
        assert len(history) == 2
        client.delete(*history)

    with closing(DirectHandler(storage_server, vectors.master_key)) as other:
        (back,) = other.ask([{**request, "op": "detokenize", "value": reply["value"]}])

    assert back["value"] == request["value"]


@pytest.mark.parametrize("name", READABLE)
def test_time_of_last_use(storage_server: Valkey, handler_on: Callable[..., DirectHandler], name: str) -> None:
    """Entries that were last used over a day ago get the new time and keep everything else. No other key is changed."""
    vectors = Vectors(name)
    now = WRITTEN_AT + 100_000

    handler_on(vectors, now).ask([request_of(case, op) for case in vectors.cases for op in ("tokenize", "detokenize")])

    after = dump(storage_server)
    assert after.keys() == vectors.redis.keys()
    for name_of_key, text in vectors.redis.items():
        if name_of_key.startswith("tokens/"):
            before = decode_entry(text.encode())
            assert decode_entry(after[name_of_key].encode()) == before._replace(accessed=now)
        else:
            assert after[name_of_key] == text


def test_damaged_entry_is_unreadable_for_its_item_alone(
    storage_server: Valkey, handler_on: Callable[..., DirectHandler]
) -> None:
    """A damaged entry is entry_unreadable for its item only, and stays as it is."""
    vectors = Vectors("acra-types")
    handler = handler_on(vectors)
    numbers = count()
    damaged: dict[str, str] = {}
    for key, text in vectors.redis.items():
        if key.startswith("tokens/") and next(numbers) % 3 == 0:
            entry = decode_entry(text.encode())
            damaged[key] = _with_damage(entry)
    with storage_server.client() as client:
        client.mset(damaged)

    requests = [request_of(case, op) for case in vectors.cases for op in ("tokenize", "detokenize")]
    wanted = [expected(case, op) for case in vectors.cases for op in ("tokenize", "detokenize")]
    replies = handler.ask(requests)

    failed = [reply for reply in replies if reply["status"] == "error"]
    assert len(failed) == len(damaged)
    assert {reply["error"]["code"] for reply in failed} == {"entry_unreadable"}
    assert all(reply["value"] == value for reply, value in zip(replies, wanted, strict=True) if reply not in failed)
    assert dump(storage_server) == {**vectors.redis, **damaged}


def _with_damage(entry: TokenEntry) -> str:
    middle = len(entry.block) - 3
    block = entry.block[:middle] + bytes([entry.block[middle] ^ 0x40]) + entry.block[middle + 1 :]
    return encode_entry(entry._replace(block=block)).decode()


def test_another_master_key_makes_every_key_unreadable(storage_server: Valkey) -> None:
    """With another master key every request is key_unreadable, and nothing is written."""
    vectors = Vectors("acra-types")
    vectors.load(storage_server)

    with closing(DirectHandler(storage_server, bytes(32))) as handler:
        replies = handler.ask([request_of(case, op) for case in vectors.cases for op in ("tokenize", "detokenize")])

    assert {reply["error"]["code"] for reply in replies} == {"key_unreadable"}
    assert dump(storage_server) == vectors.redis


@pytest.mark.parametrize("name", [*READABLE, "acra-disabled"])
def test_workers_answer_every_case_of_the_vectors(streams_server: Valkey, storage_server: Valkey, name: str) -> None:
    """Worker processes, given Acra's master key, answer every case of the vectors from XADD to reply."""
    vectors = Vectors(name)
    vectors.load(storage_server)
    cases = {str(number): case for number, case in enumerate(vectors.cases)}
    with Stack(streams_server, storage_server, master_key=vectors.master_key) as stack:
        stack.start_worker()
        stack.start_worker()
        for op in ("tokenize", "detokenize"):
            replies = stack.ask([{"id": number, **request_of(case, op)} for number, case in cases.items()], op)
            disabled = {number for number, reply in replies.items() if reply["status"] == "error"}
            right = {number for number, case in cases.items() if replies[number].get("value") == expected(case, op)}
            assert disabled == {number for number, case in cases.items() if case.get("disabled")}
            assert {replies[number]["error"]["code"] for number in disabled} <= {"token_disabled"}
            assert right == cases.keys() - disabled


def test_bytes_of_acra_come_back_as_binary_in_messagepack(handler_on: Callable[..., DirectHandler]) -> None:
    """Bytes that Acra tokenized come back as binary to a request in MessagePack."""
    vectors = Vectors("acra-types")
    cases = [case for case in vectors.cases if case["type"] == "bytes"]
    requests = [request_of(case, "detokenize") for case in cases]

    in_binary = [{**request, "value": base64.b64decode(request["value"])} for request in requests]
    replies = handler_on(vectors).ask(in_binary, in_json=False)

    assert [reply["value"] for reply in replies] == [base64.b64decode(case["value"]) for case in cases]

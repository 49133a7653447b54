"""The batch producer finds lost, doubled and wrong replies in the streams themselves."""

from collections.abc import Iterator

import msgspec
import pytest

from harness.ledger import Kind, count_kinds
from harness.producer import BatchProducer
from harness.servers import Valkey
from harness.stack import Stack


@pytest.fixture
def producer(streams_server: Valkey, storage_server: Valkey) -> Iterator[BatchProducer]:
    """A producer that has sent two requests, and no worker."""
    with Stack(streams_server, storage_server) as stack:
        producer = BatchProducer(stack)
        for value in ("one", "two"):
            producer.add("tokenize", "str", [value], route="shop")
        producer.send()
        yield producer


def reply(producer: BatchProducer, number: int, token: str) -> None:
    """Write a reply as a worker does."""
    streams = producer.stack.streams
    entry_id, _ = streams.xrange("shop:requests")[number]
    message = {"id": f"r{number}", "op": "tokenize", "request_entry": entry_id.decode(), "status": "ok", "value": token}
    streams.xadd("shop:responses", {"payload": msgspec.json.encode(message)})


def test_replies_are_judged(producer: BatchProducer) -> None:
    """The producer compares every request with the replies that its stream holds at that moment."""
    assert count_kinds(producer.compare()) == {Kind.LOST: 2}
    reply(producer, 0, "token of one")
    assert count_kinds(producer.compare()) == {Kind.LOST: 1}
    reply(producer, 1, "token of two")
    assert producer.compare() == []
    assert [(token, value) for _, token, value in producer.tokens()] == [
        ("token of one", "one"),
        ("token of two", "two"),
    ]
    reply(producer, 1, "another token")
    assert count_kinds(producer.compare()) == {Kind.DUPLICATE: 1, Kind.UNEQUAL: 1}


def test_value_as_its_own_token_is_wrong(producer: BatchProducer) -> None:
    """A reply that brings the value itself is wrong, and the value is no token."""
    reply(producer, 0, "one")
    assert count_kinds(producer.compare()) == {Kind.WRONG: 1, Kind.LOST: 1}
    assert list(producer.tokens()) == []

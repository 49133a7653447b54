"""Members of payloads that commands read without checking them against the contract."""

from typing import Any

import msgspec
import pytest

from token_worker.admin.payloads import encode_like, fields_of, read_message, replay_count, replay_origin, text_member

MESSAGE = {"id": "r1", "op": "tokenize", "value": "secret"}


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode], ids=["json", "msgpack"])
def test_message_is_read_and_written_in_its_own_format(encode: Any) -> None:
    """A payload is read in either format, and another message is written in the format of that payload."""
    payload = encode(MESSAGE)
    assert read_message(payload) == MESSAGE
    assert encode_like(payload, {"id": "r2"}) == encode({"id": "r2"})


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"{}", b'{"id": 1}', b'{"id": ""}', b'{"id": "' + b"x" * 300 + b'"}', b'"\xff"', b"\xc1"],
)
def test_payload_without_a_usable_id_is_no_message(payload: bytes) -> None:
    """A payload that cannot be read, or has no usable id, is None instead of an error."""
    assert read_message(payload) is None


@pytest.mark.parametrize(
    ("members", "origin", "count"),
    [
        ({"replay_of": "5-1", "replay": 2}, "5-1", 2),
        ({"replay_of": "5", "replay": -1}, "", 0),
        ({"replay_of": 5, "replay": "2"}, "", 0),
        ({}, "", 0),
    ],
)
def test_only_well_formed_marks_of_a_replay_count(members: dict[str, Any], origin: str, count: int) -> None:
    """A request is a replay only if it has a full entry id and a positive count."""
    assert (replay_origin(members), replay_count(members)) == (origin, count)


def test_member_that_is_not_text_is_empty() -> None:
    """A member of another type, or an absent one, reads as empty text."""
    assert [text_member({"op": op}, "op") for op in ("tokenize", 1, None)] == ["tokenize", "", ""]
    assert text_member({}, "op") == ""


def test_fields_are_paired() -> None:
    """Names and values that alternate in Redis' answer become a dictionary."""
    assert fields_of([b"payload", b"x", b"traceparent", b"y"]) == {b"payload": b"x", b"traceparent": b"y"}

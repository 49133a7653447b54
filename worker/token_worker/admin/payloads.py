"""Fields of entries, and payloads of requests and replies, read without checking them against the contract. Pure.

Commands of operators meet payloads that no worker could answer. They need a few members of those, in JSON and
MessagePack alike.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from token_worker.contract.codec import sniff, without_mark
from token_worker.contract.messages import MAX_ID_CHARACTERS, Format
from token_worker.streams.stream_ids import is_id


def fields_of(raw: Sequence[Any]) -> dict[bytes, Any]:
    """Make a dictionary of the fields and values that Redis sends as one list."""
    return dict(zip(raw[::2], raw[1::2], strict=True))


def read_message(payload: bytes) -> dict[str, Any] | None:
    """The members of a request or reply. None if the payload cannot be read, or has no usable ``id``."""
    try:
        decode = msgspec.json.decode if sniff(payload) is Format.JSON else msgspec.msgpack.decode
        message = decode(without_mark(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    if not isinstance(message, dict):
        return None
    request_id = message.get("id")
    return message if isinstance(request_id, str) and 1 <= len(request_id) <= MAX_ID_CHARACTERS else None


def encode_like(payload: bytes, message: dict[str, Any]) -> bytes:
    """Encode a message in the format of another payload.

    Raises:
        OverflowError: the message has an integer that the format cannot hold.
    """
    if sniff(payload) is Format.JSON:
        return msgspec.json.encode(message)
    return msgspec.msgpack.encode(message)


def text_member(message: dict[str, Any], name: str) -> str:
    """A member that should be text; empty if it is absent or of another type."""
    member = message.get(name)
    return member if isinstance(member, str) else ""


def replay_origin(message: dict[str, Any]) -> str:
    """Entry id of the request that this request is a replay of; empty if it is not a replay."""
    original = text_member(message, "replay_of")
    return original if is_id(original) else ""


def replay_count(message: dict[str, Any]) -> int:
    """The number of this replay of the request; 0 if the request is not a replay."""
    count = message.get("replay")
    return count if isinstance(count, int) and count > 0 else 0

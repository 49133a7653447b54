"""Requests as producers write them, and readers of their replies: every type of value, in JSON and MessagePack."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import msgspec

KINDS = ("str", "email", "int32", "int64", "bytes")

FORMATS = {"str": ("letters",), "email": ("email-safe", "email-domain")}
"""Formats that the values of a type fit."""

Native = int | str | bytes
"""A value or token as Python has it: ``bytes`` are bytes, an ``int64`` is an integer, whatever the format."""


def value_of(kind: str, number: int) -> Native:
    """The value of a type with this number; different numbers give different values."""
    match kind:
        case "str":
            return f"Grace Hopper the {number}th"
        case "email":
            return f"grace.hopper.{number}@navy.example"
        case "int32":
            return number - 1_000_000
        case "int64":
            return (number << 33) - 1
        case _:
            return b"\x00\xff" + number.to_bytes(10, "big")


def values(kind: str, start: int = 0) -> Iterator[Native]:
    """Values of a type, all different."""
    return (value_of(kind, number) for number in count(start))


def decode(payload: bytes) -> Any:
    """Decode a message in either format."""
    return msgspec.json.decode(payload) if payload[:1] == b"{" else msgspec.msgpack.decode(payload)


class Failed(NamedTuple):
    """The code of an item that failed."""

    code: str


@dataclass
class Request:
    """One request, for one value or, ``as_items``, for several.

    Attributes:
        route: its stream is ``<route>:requests``.
        expected: the right values of the reply; required to detokenize, None if they are unknown.
        packed: True for MessagePack, False for JSON.
        members: further members, ``client_id`` among them.
        format: the format that is asked for each value.
    """

    id: str
    op: str
    route: str
    kind: str
    values: Sequence[Native]
    expected: Sequence[Native] | None = None
    packed: bool = False
    as_items: bool = False
    members: dict[str, Any] = field(default_factory=dict)
    format: str | None = None

    def payload(self) -> bytes:
        """The message."""
        kind = {"type": self.kind} if self.format is None else {"type": self.kind, "format": self.format}
        items: list[dict[str, Any]] = [{**kind, "value": self._wire(value)} for value in self.values]
        body = {"items": items} if self.as_items else items[0]
        request = {"id": self.id, "op": self.op, **self.members, **body}
        return msgspec.msgpack.encode(request) if self.packed else msgspec.json.encode(request)

    @property
    def stream(self) -> str:
        """The stream of the request."""
        return f"{self.route}:requests"

    @property
    def target(self) -> str:
        """The stream of the reply."""
        return str(self.members.get("reply_to", f"{self.route}:responses"))

    def outcomes(self, stream: str, payload: bytes) -> list[Native | Failed] | None:
        """The outcome of each value by a reply on a stream; None if it is not a right reply to this request."""
        if stream != self.target or (payload[:1] != b"{") != self.packed:
            return None
        reply = decode(payload)
        if (reply["id"], reply["op"]) != (self.id, self.op):
            return None
        items = reply.get("items") if self.as_items else [reply]
        if items is None or len(items) != len(self.values):
            return [Failed(reply["error"]["code"])] * len(self.values) if "error" in reply else None
        found = [Failed(item["error"]["code"]) if "error" in item else self._native(item["value"]) for item in items]
        failed = sum(isinstance(outcome, Failed) for outcome in found)
        status = "ok" if not failed else "error" if failed == len(found) else "partial"
        return found if reply["status"] == status else None

    def _wire(self, value: Native) -> Native:
        return base64.b64encode(value).decode() if isinstance(value, bytes) and not self.packed else value

    def _native(self, value: Any) -> Native:
        if self.kind == "bytes" and not self.packed:
            return base64.b64decode(value)
        return int(value) if self.kind == "int64" else value

"""Payloads to requests, replies to payloads. No server is touched.

A request takes one typed decode. What that refuses is read once more, leniently and member by member, to find out whom
to answer and to say what is wrong in words of our own: the path of the member and what was expected there. Nothing of
the payload but the id is ever in a message, and neither is a decoding library's text, which quotes the payload.

What is wrong with one value (its kind, its range) is refused for that value alone, by ``values.value_in``; what is
wrong with the request as a whole is refused by ``decode``. Where a member comes twice, the last one counts.
"""
# ruff: noqa: A001, A002 - "format" is what the contract calls it

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from msgspec import UNSET

from token_worker.contract.messages import (
    MAX_ID_CHARACTERS,
    MAX_REPLY_TO,
    Format,
    Op,
    Reply,
    Request,
    RequestItem,
)
from token_worker.contract.outline import json_outline, msgpack_outline
from token_worker.contract.values import is_utf8, value_in, value_out
from token_worker.errors import Code, Refused, TokenWorkerError

__all__ = [
    "Decoded",
    "Format",
    "Limits",
    "Unanswerable",
    "decode",
    "encode_reply",
    "sniff",
    "value_in",
    "value_out",
]


class Unanswerable(TokenWorkerError):  # noqa: N818 - reads as what it says, as the errors it stands beside
    """An entry that nobody can be answered for: it goes to the dead letters.

    Attributes:
        reason: ``payload_missing``, ``not_json_or_msgpack`` or ``no_readable_id``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be: bytes of its payload, and items."""

    max_request_bytes: int
    max_items: int


class Decoded(msgspec.Struct, gc=False):
    """A payload that can be answered.

    Attributes:
        format: the format of the payload, and so of the reply.
        request: the request, or None where ``refusal`` says what is wrong with it.
        id: the producer's id.
        op: the operation, where it is a known one.
        refusal: why the request as a whole is refused, else None.
        replay: the replay count of a replayed request.
        reply_to: the stream named for the reply, where it could be read; whether it is allowed is the route's matter.
    """

    format: Format
    request: Request | None
    id: str
    op: Op | None
    refusal: Refused | None = None
    replay: int | None = None
    reply_to: str | None = None


class _Head(msgspec.Struct):
    """What is needed to answer; msgspec passes over all other members without building them."""

    id: Any = None
    op: Any = None
    replay: Any = None
    reply_to: Any = None


_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors, JSONDecodeError and UnicodeDecodeError are ValueErrors

_DECODE_REQUEST: dict[Format, Callable[[bytes], Request]] = {
    Format.JSON: msgspec.json.Decoder(Request).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(Request).decode,
}
_DECODE_HEAD: dict[Format, Callable[[bytes], _Head]] = {
    Format.JSON: msgspec.json.Decoder(_Head).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(_Head).decode,
}
_OUTLINE = {Format.JSON: json_outline, Format.MSGPACK: msgpack_outline}
_ENCODE: dict[Format, Callable[[Reply], bytes]] = {
    Format.JSON: msgspec.json.Encoder().encode,
    Format.MSGPACK: msgspec.msgpack.Encoder().encode,
}
_FORMATS = {
    **dict.fromkeys(b"{ \t\r\n", Format.JSON),
    **dict.fromkeys([*range(0x80, 0x90), 0xDE, 0xDF], Format.MSGPACK),
}
_NAMES = {Format.JSON: "JSON", Format.MSGPACK: "MessagePack"}
_OPS = frozenset(Op)
_FIELDS = {struct: msgspec.structs.fields(struct) for struct in (Request, RequestItem)}
_EXPECTED = {
    "id": f"text of 1 to {MAX_ID_CHARACTERS} characters",
    "op": "tokenize or detokenize",
    "client_id": "text of at most 256 characters",
    "zone_id": "text of at most 256 characters",
    "type": "text of at most 16 characters",
    "value": "a value",
    "ref": "text of at most 128 characters",
    "items": "a list",
    "consistent": "true or false",
    "reply_to": "text of 1 to 512 characters",
    "expires_at": "a whole number, 0 or more",
    "replay": "a whole number, 1 or more",
    "replay_of": "a stream id",
}
"""What each member of a request may be, for people."""


def sniff(payload: bytes) -> Format | None:
    """The format that a payload's first byte announces, or None."""
    return _FORMATS.get(payload[0]) if payload else None


def decode(payload: bytes | None, limits: Limits) -> Decoded:
    """Read one entry's ``payload``; a request that is refused as a whole comes back with its refusal.

    Raises:
        Unanswerable: there is no payload, or none that is JSON or MessagePack, or no readable id in it.
    """
    if payload is None:
        raise Unanswerable("payload_missing")
    format = sniff(payload)
    if format is None:
        raise Unanswerable("not_json_or_msgpack")
    if len(payload) > limits.max_request_bytes:
        too_long = _invalid("payload", f"longer than {limits.max_request_bytes} bytes")
        return _refused(format, _head(payload, format), too_long)
    try:
        request = _DECODE_REQUEST[format](payload)
    except _UNREADABLE:
        request = None
    if request is None:  # not in the handler: what is raised there drags the decoder's error along, and that quotes
        return _decode_leniently(payload, format, limits)
    refusal = _shape_refusal(request, limits)
    return Decoded(
        format, None if refusal else request, request.id, request.op, refusal, request.replay, request.reply_to
    )


def encode_reply(reply: Reply, format: Format) -> bytes:
    """The reply's payload. Its values are in the form of the format already: see ``value_out``."""
    return _ENCODE[format](reply)


def _shape_refusal(request: Request, limits: Limits) -> Refused | None:
    """What the types cannot say: type and value or items, not both, and how many items."""
    if request.items is UNSET:
        if request.type is UNSET or request.value is UNSET:
            return _invalid("$", "expected type and value, or items")
    elif request.type is not UNSET or request.value is not UNSET:
        return _invalid("$", "expected type and value, or items, not both")
    elif not request.items:
        return _invalid("$.items", "expected at least 1 item")
    elif len(request.items) > limits.max_items:
        return _too_many(limits)
    return None


def _invalid(path: str, problem: str) -> Refused:
    return Refused(Code.INVALID_REQUEST, f"{path}: {problem}")


def _too_many(limits: Limits) -> Refused:
    return _invalid("$.items", f"more than {limits.max_items} items")


# The second reading, of a payload that the typed decode does not take.


def _decode_leniently(payload: bytes, format: Format, limits: Limits) -> Decoded:
    members = problem = None
    try:
        members = _LENIENT[format](payload)
    except RecursionError:
        problem = "nested too deeply"
        payload = _OUTLINE[format](payload)
    except ValueError:
        problem = f"expected well-formed {_NAMES[format]}"
    if problem:
        return _refused(format, _head(payload, format), _invalid("payload", problem))
    if not isinstance(members, dict):
        raise Unanswerable("no_readable_id")
    head = _Head(members.get("id"), members.get("op"), members.get("replay"), members.get("reply_to"))
    outcome: Request | Refused
    try:
        outcome = _request(members, limits)
    except Refused as error:
        outcome = error.with_traceback(None)  # its frames hold the payload
    if isinstance(outcome, Refused):
        return _refused(format, head, outcome)
    # What the typed decode stumbled over is inside a value, and so a matter of that value alone.
    return Decoded(format, outcome, outcome.id, outcome.op, None, outcome.replay, outcome.reply_to)


def _head(payload: bytes, format: Format) -> _Head | None:
    try:
        return _DECODE_HEAD[format](payload)
    except _UNREADABLE:
        return None


def _refused(format: Format, head: _Head | None, refusal: Refused) -> Decoded:
    if head is None:
        raise Unanswerable("not_json_or_msgpack")
    if not (isinstance(head.id, str) and 1 <= len(head.id) <= MAX_ID_CHARACTERS and is_utf8(head.id)):
        raise Unanswerable("no_readable_id")
    op = Op(head.op) if isinstance(head.op, str) and head.op in _OPS else None
    is_count = isinstance(head.replay, int) and not isinstance(head.replay, bool) and head.replay >= 1
    names_stream = isinstance(head.reply_to, str) and 1 <= len(head.reply_to) <= MAX_REPLY_TO and is_utf8(head.reply_to)
    return Decoded(
        format,
        None,
        head.id,
        op,
        refusal,
        head.replay if is_count else None,
        head.reply_to if names_stream else None,
    )


def _request(members: dict[Any, Any], limits: Limits) -> Request:
    known = _known_members(members, Request, "$")
    items = known.get("items")
    if items is not None:
        if len(items) > limits.max_items:
            raise _too_many(limits)
        known["items"] = [
            RequestItem(**_known_members(item, RequestItem, f"$.items[{index}]")) for index, item in enumerate(items)
        ]
    known["op"] = Op(known["op"])
    request = Request(**known)
    refusal = _shape_refusal(request, limits)
    if refusal:
        raise refusal
    return request


def _known_members(members: object, struct: type[Request | RequestItem], path: str) -> dict[str, Any]:
    """The members of one object, checked against their types in the struct; ``items`` only for being a list."""
    if not isinstance(members, dict):
        raise _invalid(path, "expected an object")
    known = {}
    for field in _FIELDS[struct]:
        if field.name in members:
            known[field.name] = member = members[field.name]
            if not _fits(member, field):
                raise _invalid(f"{path}.{field.name}", f"expected {_EXPECTED[field.name]}")
        elif field.required:
            raise _invalid(f"{path}.{field.name}", f"expected {_EXPECTED[field.name]}")
    if len(known) < len(members):
        raise _invalid(path, "unknown member")
    return known


def _fits(member: object, field: msgspec.structs.FieldInfo) -> bool:
    if field.name == "items":
        return isinstance(member, list)
    if field.name == "value":
        return True
    if isinstance(member, str) and not is_utf8(member):
        return False
    try:
        msgspec.convert(member, field.type)
    except msgspec.ValidationError:
        return False
    return True


def _json_integer(digits: str) -> int:
    """A number out of every range stays so when it is cut to 40 digits, and Python refuses more than 4,300."""
    return int(digits[:40])


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_JSON = json.JSONDecoder(parse_int=_json_integer, parse_constant=_no_constant)
_LENIENT: dict[Format, Callable[[bytes], Any]] = {
    # Bytes that are not UTF-8 become lone surrogates, so that they are refused where they stand.
    Format.JSON: lambda payload: _JSON.decode(payload.decode("utf-8", "surrogateescape")),
    Format.MSGPACK: msgspec.msgpack.decode,
}
"""Readers that take as much as can be taken; huge numbers and lone surrogates in JSON are left to ``value_in``."""

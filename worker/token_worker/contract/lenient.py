"""Read a payload again that the typed decoder has refused, to find the id to answer and the problem.

A problem inside an item refuses only this item. Any other problem refuses the request, with the path of the member and
what was expected there. No message contains any of the payload except the id, nor a text of the decoder, because that
quotes the payload. If a member occurs twice, the last one counts; in a malformed payload, the last one before the
fault. An ``id`` after the fault counts only if it is the only one.
"""
# ruff: noqa: A002 - "format" is what the contract calls it

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from token_worker.contract.decoded import Decoded, Limits, Unanswerable, invalid, too_many
from token_worker.contract.messages import (
    MAX_FORMAT_CHARACTERS,
    MAX_ID_CHARACTERS,
    MAX_REPLY_TO,
    Format,
    Op,
    Request,
    RequestItem,
)
from token_worker.contract.spans import READERS, Flawed, Outline, Reader
from token_worker.contract.values import is_utf8
from token_worker.errors import Refused

_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors, JSONDecodeError and UnicodeDecodeError are ValueErrors

_DECODE_ITEM: dict[Format, Callable[[bytes], RequestItem]] = {
    Format.JSON: msgspec.json.Decoder(RequestItem).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(RequestItem).decode,
}
_OPS = frozenset(Op)
_HEAD = ("id", "op", "replay", "reply_to")
_FIELDS = {struct: msgspec.structs.fields(struct) for struct in (Request, RequestItem)}
_NAMES = {struct: frozenset(field.encode_name for field in fields) for struct, fields in _FIELDS.items()}
EXPECTED = {
    "id": f"text of 1 to {MAX_ID_CHARACTERS} characters",
    "op": "tokenize or detokenize",
    "client_id": "text of at most 256 characters",
    "zone_id": "text of at most 256 characters",
    "type": "text of at most 16 characters",
    "value": "a value",
    "as": "bytes",
    "format": f"text of 1 to {MAX_FORMAT_CHARACTERS} characters",
    "ref": "text of at most 128 characters",
    "items": "a list",
    "consistent": "true or false",
    "reply_to": "text of 1 to 512 characters",
    "expires_at": "a whole number, 0 or more",
    "replay": "a whole number, 1 or more",
    "replay_of": "a stream id",
}
"""Allowed values of each member of a request, for messages."""


def read(payload: bytes, format: Format, limits: Limits) -> Decoded:
    """Read a payload member by member.

    Raises:
        Unanswerable: no id can be read.
    """
    reader = READERS[format]
    outline = _outline(payload, format)
    head = _head(outline, reader)
    broken: dict[int, Refused] = {}
    outcome: Request | Refused
    try:
        outcome = _request(outline, format, limits, broken)
    except Refused as error:
        outcome = error.with_traceback(None)  # its frames hold the payload
    if isinstance(outcome, Refused):
        return refused(format, head, outcome, is_malformed=outline.flaw is not None)
    return Decoded(format, outcome, outcome.id, outcome.op, None, outcome.replay, outcome.reply_to, broken)


def refused_unread(payload: bytes, format: Format, refusal: Refused) -> Decoded:
    """Refuse a payload without looking at more than its id, op, replay and reply_to.

    Raises:
        Unanswerable: no id can be read.
    """
    outline = _outline(payload, format)
    return refused(format, _head(outline, READERS[format]), refusal, is_malformed=outline.flaw is not None)


def refused(format: Format, head: dict[str, Any], refusal: Refused, *, is_malformed: bool = False) -> Decoded:
    """Refuse a request as a whole.

    Args:
        format: format of the payload.
        head: the values of ``id``, ``op``, ``replay`` and ``reply_to``, if they exist.
        refusal: the refusal.
        is_malformed: True if the payload is malformed.

    Raises:
        Unanswerable: there is no valid id.
    """
    request_id, op, replay, reply_to = map(head.get, _HEAD)
    if not (isinstance(request_id, str) and 1 <= len(request_id) <= MAX_ID_CHARACTERS and is_utf8(request_id)):
        raise Unanswerable("not_json_or_msgpack" if is_malformed else "no_readable_id")
    is_count = isinstance(replay, int) and not isinstance(replay, bool) and replay >= 1
    names_stream = isinstance(reply_to, str) and 1 <= len(reply_to) <= MAX_REPLY_TO and is_utf8(reply_to)
    return Decoded(
        format,
        None,
        request_id,
        Op(op) if isinstance(op, str) and op in _OPS else None,
        refusal,
        replay if is_count else None,
        reply_to if names_stream else None,
    )


def _outline(payload: bytes, format: Format) -> Outline:
    reader = READERS[format]
    outline = reader.outline(payload, _NAMES[Request])
    if outline is None:  # the first byte was a space or a byte order mark
        raise Unanswerable("not_json_or_msgpack" if reader.check(payload) else "no_readable_id")
    if outline.flaw and "id" not in outline.members:
        return reader.outline_loosely(payload, _NAMES[Request]) or outline
    return outline


def _head(outline: Outline, reader: Reader) -> dict[str, Any]:
    head = {name: reader.value(outline.members[name]) for name in _HEAD if name in outline.members}
    if outline.guesses["id"] > 1:
        del head["id"]
    return head


def _request(outline: Outline, format: Format, limits: Limits, broken: dict[int, Refused]) -> Request:
    """Read the request. Add the refusals of malformed items to ``broken``."""
    reader = READERS[format]
    if outline.flaw:
        raise invalid("payload", outline.flaw)
    known = _known_members(outline, Request, "$", reader)
    if "items" in known:
        known["items"] = [
            _item(raw, index, format, broken) for index, raw in enumerate(_elements(known["items"], reader, limits))
        ]
    known["op"] = Op(known["op"])
    request = Request(**known)
    refusal = shape_refusal(request, limits)
    if refusal:
        raise refusal
    return request


def _elements(raw: bytes, reader: Reader, limits: Limits) -> list[bytes]:
    elements = reader.elements(raw, limits.max_items)
    if elements is None:
        raise invalid("$.items", f"expected {EXPECTED['items']}")
    if isinstance(elements, Flawed):
        raise invalid("$.items", elements.problem)
    if len(elements) > limits.max_items:
        raise too_many(limits)
    return elements


def _item(raw: bytes, index: int, format: Format, broken: dict[int, Refused]) -> RequestItem:
    """Read an item. Of a malformed item, return only its ``ref``, and add its refusal to ``broken``.

    Raises:
        Refused: the item is not an object, so that it cannot be answered on its own.
    """
    try:
        return _DECODE_ITEM[format](raw)
    except _UNREADABLE:
        pass
    reader, path = READERS[format], f"$.items[{index}]"
    outline = reader.outline(raw, _NAMES[RequestItem])
    if outline is None:
        raise invalid(path, "expected an object")
    try:
        if outline.flaw:
            raise invalid(path, outline.flaw)
        return RequestItem(**_known_members(outline, RequestItem, path, reader))
    except Refused as refusal:
        broken[index] = refusal.with_traceback(None)
    ref = reader.value(outline.members["ref"]) if "ref" in outline.members else None
    return RequestItem("", None, ref if _fits(ref, _REF) else None)


def _known_members(outline: Outline, struct: type[Request | RequestItem], path: str, reader: Reader) -> dict[str, Any]:
    """Return the members of an object, checked against the types of the struct. ``items`` is returned encoded."""
    known: dict[str, Any] = {}
    for field in _FIELDS[struct]:
        name = field.encode_name
        raw = outline.members.get(name)
        if raw is None:
            if field.required:
                raise invalid(f"{path}.{name}", f"expected {EXPECTED[name]}")
        elif name == "items":
            known[name] = raw
        else:
            member = reader.value(raw)
            if isinstance(member, Flawed) and name == "value":
                raise invalid(f"{path}.{name}", member.problem)
            if not _fits(member, field):
                raise invalid(f"{path}.{name}", f"expected {EXPECTED[name]}")
            known[field.name] = member
    if outline.has_others:
        raise invalid(path, f"unknown member; there are {', '.join(field.encode_name for field in _FIELDS[struct])}")
    return known


def _fits(member: object, field: msgspec.structs.FieldInfo) -> bool:
    if field.name == "value":
        return True
    if isinstance(member, str) and not is_utf8(member):
        return False
    try:
        msgspec.convert(member, field.type)
    except msgspec.ValidationError:
        return False
    return True


def shape_refusal(request: Request, limits: Limits) -> Refused | None:
    """Check the rules that types cannot express: either type and value or items, and the number of items."""
    if request.items is UNSET:
        if request.type is UNSET or request.value is UNSET:
            return invalid("$", "expected type and value, or items")
    elif request.type is not UNSET or request.value is not UNSET:
        return invalid("$", "expected type and value, or items, not both")
    elif request.as_ is not None:
        return invalid("$.as", "expected only with a value; each item has its own as")
    elif request.format is not None:
        return invalid("$.format", "expected only with a value; each item has its own format")
    elif not request.items:
        return invalid("$.items", "expected at least 1 item")
    elif len(request.items) > limits.max_items:
        return too_many(limits)
    return None


[_REF] = [field for field in _FIELDS[RequestItem] if field.name == "ref"]

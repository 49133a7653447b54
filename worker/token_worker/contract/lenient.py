"""The second reading, of a payload that the typed decode does not take: whom to answer, and what is wrong where.

What is wrong inside an item costs that item alone; what is wrong elsewhere refuses the request, by the path of the
member and what was expected there. Nothing of the payload but the id is ever in a message, and neither is a decoding
library's text, which quotes the payload. Where a member comes twice, the last one counts; in a malformed payload the
last one before what is malformed. An ``id`` that comes only behind that must be the only one.
"""
# ruff: noqa: A002 - "format" is what the contract calls it

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from token_worker.contract.decoded import Decoded, Limits, Unanswerable, invalid, too_many
from token_worker.contract.messages import (
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
    "ref": "text of at most 128 characters",
    "items": "a list",
    "consistent": "true or false",
    "reply_to": "text of 1 to 512 characters",
    "expires_at": "a whole number, 0 or more",
    "replay": "a whole number, 1 or more",
    "replay_of": "a stream id",
}
"""What each member of a request may be, for people."""


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
    """Refuse a payload whatever is in it, if its producer can be told.

    Raises:
        Unanswerable: no id can be read.
    """
    outline = _outline(payload, format)
    return refused(format, _head(outline, READERS[format]), refusal, is_malformed=outline.flaw is not None)


def refused(format: Format, head: dict[str, Any], refusal: Refused, *, is_malformed: bool = False) -> Decoded:
    """Refuse a request as a whole.

    Args:
        format: of its payload.
        head: the values of ``id``, ``op``, ``replay`` and ``reply_to``, as far as there are any.
        refusal: why.
        is_malformed: whether the payload is.

    Raises:
        Unanswerable: the id is none.
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
    if outline is None:  # what the first byte announced was space, or a mark
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
    """The request; the refusals of items that are none are added to ``broken``."""
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
    """The item in these bytes; of one that is none just its ``ref``, and why, added to ``broken``.

    Raises:
        Refused: there is no object at all, so that there is nothing to answer singly.
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
    """The members of an object by the names of the struct, checked against their types; ``items`` as it stands."""
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
        raise invalid(path, "unknown member")
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
    """What the types cannot say: type and value or items, not both, and how many items."""
    if request.items is UNSET:
        if request.type is UNSET or request.value is UNSET:
            return invalid("$", "expected type and value, or items")
    elif request.type is not UNSET or request.value is not UNSET:
        return invalid("$", "expected type and value, or items, not both")
    elif request.as_ is not None:
        return invalid("$.as", "expected beside a value; items have their own")
    elif not request.items:
        return invalid("$.items", "expected at least 1 item")
    elif len(request.items) > limits.max_items:
        return too_many(limits)
    return None


[_REF] = [field for field in _FIELDS[RequestItem] if field.name == "ref"]

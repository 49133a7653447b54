"""Decode payloads to requests, and encode replies to payloads. Pure.

A request takes one typed decode. If that fails, ``lenient`` reads the payload once more, to find the id to answer and
to describe the problem in words of our own. The same is done for a payload that is too long.

A problem of one value (its kind, its range) is refused only for this value, by ``values.decode_value``. A problem of
the whole request is refused by ``decode``.
"""
# ruff: noqa: A001, A002 - "format" is what the contract calls it

import codecs
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET

from token_worker.contract import lenient
from token_worker.contract.decoded import Decoded, Limits, Unanswerable, invalid
from token_worker.contract.messages import Format, PlainRequest, Reply, Request


class _Head(msgspec.Struct):
    """The members that an answer needs. msgspec skips all other members without building them."""

    id: Any = None
    op: Any = None
    replay: Any = None
    reply_to: Any = None


_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors, JSONDecodeError and UnicodeDecodeError are ValueErrors

_DECODE_REQUEST: dict[Format, Callable[[bytes], Request]] = {
    Format.JSON: msgspec.json.Decoder(Request).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(Request).decode,
}
_DECODE_PLAIN: dict[Format, Callable[[bytes], PlainRequest]] = {
    Format.JSON: msgspec.json.Decoder(PlainRequest).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(PlainRequest).decode,
}
_DECODE_HEAD: dict[Format, Callable[[bytes], _Head]] = {
    Format.JSON: msgspec.json.Decoder(_Head).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(_Head).decode,
}
_ENCODE: dict[Format, Callable[[Reply], bytes]] = {
    Format.JSON: msgspec.json.Encoder().encode,
    Format.MSGPACK: msgspec.msgpack.Encoder().encode,
}
_FORMATS = {
    **dict.fromkeys(b"{ \t\r\n", Format.JSON),
    **dict.fromkeys([*range(0x80, 0x90), 0xDE, 0xDF], Format.MSGPACK),
}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKS = (codecs.BOM_UTF8, *_UTF_16)
"""Byte order marks. No MessagePack map begins like one of them."""


def sniff(payload: bytes) -> Format | None:
    """Return the format of a payload by its first bytes, or None."""
    if not payload:
        return None
    return _FORMATS.get(payload[0]) or (Format.JSON if payload.startswith(_MARKS) else None)


def without_mark(payload: bytes) -> bytes:
    """Return the payload without a byte order mark of UTF-8."""
    return payload.removeprefix(codecs.BOM_UTF8)


def items_at_most(payload: bytes) -> int:
    """Return an upper bound for the number of items of a request, at least 1, without decoding it.

    Every item in JSON has its own brace, which cannot be escaped. In MessagePack, the name ``items`` is plain text, and
    the list after it begins with the number of its elements.
    """
    if not payload or payload[0] not in _MSGPACK_STARTS:
        braces = payload.count(b"{")  # one of them is the request's own
        return braces - 1 if braces > 1 else 1
    at = payload.find(b"items")
    most = 1
    while at >= 0:
        at += len(b"items")
        most = max(most, _array_length(payload[at : at + 5]))
        at = payload.find(b"items", at)
    return most


def decode(payload: bytes | None, limits: Limits) -> Decoded:
    """Decode the payload of an entry. A request that is refused as a whole is returned with its refusal.

    Raises:
        Unanswerable: there is no payload, or it is neither JSON nor MessagePack, or it has no readable id.
    """
    if payload is None:
        raise Unanswerable("payload_missing")
    format = _FORMATS.get(payload[0]) if payload else None
    if format is None:
        if payload.startswith(_UTF_16):
            text = payload.decode("utf-16", "replace").encode()
            return lenient.refused_unread(text, Format.JSON, invalid("payload", "expected UTF-8"))
        if not payload.startswith(codecs.BOM_UTF8):
            raise Unanswerable("not_json_or_msgpack")
        format, payload = Format.JSON, without_mark(payload)
    if len(payload) > limits.max_request_bytes:
        return _too_long(payload, format, limits)
    try:
        request = _DECODE_REQUEST[format](payload)
    except _UNREADABLE:
        request = None
    if request is None:  # not in the except clause: an error raised there would keep the decoder's error, with values
        return lenient.read(payload, format, limits)
    return _decoded(format, request, limits)


def decode_plain(payloads: Sequence[bytes | None], limits: Limits) -> tuple[Format, list[PlainRequest]] | None:
    """Decode the payloads of a batch if all are plain requests of one format, and none is faulty; else return None.

    That is the usual case.
    """
    first = payloads[0] if payloads else None
    format = _FORMATS.get(first[0]) if first else None
    if format is None or None in payloads:
        return None
    given = cast(Sequence[bytes], payloads)
    if max(map(len, given)) > limits.max_request_bytes:
        return None
    try:
        return format, [*map(_DECODE_PLAIN[format], given)]
    except _UNREADABLE:
        return None


def decode_all(payloads: Sequence[bytes | None], limits: Limits) -> list[Decoded | Unanswerable]:
    """Decode the payloads of a batch, each as by ``decode``. Return what ``decode`` raises.

    Requests of one format, of which none is faulty, are decoded with few calls. That is the usual case.
    """
    given = [payload or b"" for payload in payloads]
    format = sniff(given[0]) if given else None
    if format is not None and max(map(len, given)) <= limits.max_request_bytes:
        try:
            requests = [*map(_DECODE_REQUEST[format], given)]
        except _UNREADABLE:
            pass  # one by one, to find the faulty ones
        else:
            return [
                Decoded(format, request, request.id, request.op, None, request.replay, request.reply_to)
                if request.items is UNSET and request.type is not UNSET and request.value is not UNSET
                else _decoded(format, request, limits)
                for request in requests
            ]
    return [_decode_one(payload, limits) for payload in payloads]


def encode_reply(reply: Reply, format: Format) -> bytes:
    """Encode a reply. Its values must have been prepared for this format by ``encode_value``."""
    return _ENCODE[format](reply)


def encoder(format: Format) -> Callable[[Reply], bytes]:
    """Return what does the same as ``encode_reply`` for many replies of one format."""
    return _ENCODE[format]


def _decode_one(payload: bytes | None, limits: Limits) -> Decoded | Unanswerable:
    try:
        return decode(payload, limits)
    except Unanswerable as unanswerable:
        return unanswerable.with_traceback(None)


def _decoded(format: Format, request: Request, limits: Limits) -> Decoded:
    refusal = lenient.shape_refusal(request, limits)
    kept = request if refusal is None else None
    return Decoded(format, kept, request.id, request.op, refusal, request.replay, request.reply_to)


def _too_long(payload: bytes, format: Format, limits: Limits) -> Decoded:
    refusal = invalid("payload", f"longer than {limits.max_request_bytes} bytes")
    try:
        head = _DECODE_HEAD[format](payload)
    except _UNREADABLE:
        head = None
    if head is None:
        return lenient.refused_unread(payload, format, refusal)
    return lenient.refused(format, msgspec.structs.asdict(head), refusal)


def _array_length(header: bytes) -> int:
    """Return the number of elements of the MessagePack array that begins with these bytes. 0: no array begins here."""
    first = header[0] if header else 0
    if first in _LONG_ARRAYS:
        return int.from_bytes(header[1 : 1 + _LONG_ARRAYS[first]])
    return first & 0x0F if 0x90 <= first <= 0x9F else 0


_LONG_ARRAYS = {0xDC: 2, 0xDD: 4}
_MSGPACK_STARTS = frozenset(first for first, format in _FORMATS.items() if format is Format.MSGPACK)

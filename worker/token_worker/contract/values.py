"""Convert values and tokens between messages and Python: ``int``, ``str`` or ``bytes``.

JSON cannot hold bytes, and JavaScript rounds 64-bit integers. So in JSON, ``bytes`` are base64 text, and an ``int64``
is written as decimal text and read from decimal text or from a number. MessagePack has all these types: there, every
value must have the MessagePack type of its own.
"""
# ruff: noqa: A002 - "format" is what the contract calls it

import binascii
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from token_worker.contract.messages import Format, Op, TypeName
from token_worker.errors import Code, Refused, TokenWorkerError

_INT64_TEXT = re.compile("0|-?[1-9][0-9]{0,99}")
_UNKNOWN_TYPE = f"expected {', '.join([*TypeName][:-1])} or {[*TypeName][-1]}"


class InvalidValue(TokenWorkerError):  # noqa: N818 - "except InvalidValue" reads well
    """A value does not fit its type. ``at`` adds the path of the value."""

    def __init__(self, code: Code, expected: str) -> None:
        super().__init__(expected)
        self._code = code
        self._expected = expected

    def at(self, path: str) -> Refused:
        """Return the refusal for the value at this path."""
        return Refused(self._code, f"{path}: expected {self._expected}")


class ValueCodec(NamedTuple):
    """Conversions of one type in messages of one format.

    Attributes:
        from_message: returns the value of a decoded member, or raises ``InvalidValue``.
        to_message: returns what to encode for a value. None means the value itself.
        to_bytes, from_bytes: to and from the bytes in storage. None means the conversions of the type.
    """

    from_message: Callable[[object], int | str | bytes]
    to_message: Callable[[Any], str] | None = None
    to_bytes: Callable[[Any], bytes] | None = None
    from_bytes: Callable[[bytes], Any] | None = None


def decode_value(
    type_name: str, value: object, format: Format, path: str, as_bytes_of: Op | None = None
) -> int | str | bytes:
    """Read a value or token of a request.

    A value must not be empty. Its length and the form of e-mail addresses are not checked here.

    Args:
        type_name: the type that the request names. The type may be unknown.
        value: the decoded member.
        format: the format of the request.
        path: path of the value for messages, ``$.value`` or ``$.items[3].value``.
        as_bytes_of: the operation, if the request has ``as`` for this value.

    Raises:
        Refused: ``unknown_type``, ``invalid_request`` (another JSON or MessagePack type, or ``as`` is not allowed),
            ``value_out_of_range`` (too large, too small, empty) or ``invalid_email`` (empty).
    """
    codec = (VALUE_CODECS if as_bytes_of is None else BYTES_CODECS[as_bytes_of])[format].get(type_name)
    if codec is None:
        raise unknown_type(path) if type_name not in VALUE_CODECS[format] else bytes_not_allowed(path)
    try:
        return codec.from_message(value)
    except InvalidValue as invalid:
        refused = invalid.at(path)
    raise refused


def unknown_type(path: str) -> Refused:
    """Return the refusal for a value of unknown type at this path."""
    return Refused(Code.UNKNOWN_TYPE, f"{path.removesuffix('value')}type: {_UNKNOWN_TYPE}")


def bytes_not_allowed(path: str) -> Refused:
    """Return the refusal for a value at this path whose type does not allow ``as``."""
    return Refused(Code.INVALID_REQUEST, f"{path.removesuffix('value')}as: expected only with str, email or bytes")


def encode_value(type_name: str, value: int | str | bytes, format: Format) -> int | str | bytes:
    """Write a token or value for a reply."""
    to_message = VALUE_CODECS[format][type_name].to_message
    return value if to_message is None else to_message(value)


def is_utf8(text: str) -> bool:
    """Return True if a text can be written as UTF-8. Escapes in JSON can name lone surrogates, which cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_kind(expected: str) -> InvalidValue:
    return InvalidValue(Code.INVALID_REQUEST, expected)


def _integer(bits: int) -> Callable[[object], int]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def read(value: object) -> int:
        if type(value) is not int:  # a bool is an int too
            raise _wrong_kind("a whole number")
        if not low <= value <= high:
            raise InvalidValue(Code.VALUE_OUT_OF_RANGE, f"{low} to {high}")
        return value

    return read


_int32 = _integer(32)
_int64 = _integer(64)


def _json_int64(value: object) -> int:
    if isinstance(value, str):
        if not _INT64_TEXT.fullmatch(value):
            raise _wrong_kind("a whole number, or one as decimal text")
        value = int(value)
    return _int64(value)


def _not_empty(value: bytes) -> bytes:
    if not value:
        raise InvalidValue(Code.VALUE_OUT_OF_RANGE, "at least 1 byte")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_kind("text")
    if not is_utf8(value):
        raise _wrong_kind("valid Unicode text")
    return value


def _str(value: object) -> str:
    if type(value) is str and value and value.isascii():
        return value  # the quick way for most values
    text = _text(value)
    if not text:
        raise InvalidValue(Code.VALUE_OUT_OF_RANGE, "at least 1 byte")
    return text


def _email(value: object) -> str:
    text = _text(value)
    if not text:
        raise InvalidValue(Code.INVALID_EMAIL, "an e-mail address")
    return text


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _wrong_kind("binary")
    return _not_empty(value)


def _json_bytes(value: object) -> bytes:
    """Strict base64: padded, no other characters, and no bits after the last byte."""
    decoded = None
    if isinstance(value, str):
        with suppress(ValueError):  # binascii.Error, or the error for non-ASCII text
            decoded = binascii.a2b_base64(value, strict_mode=True)
    if decoded is None or _base64(decoded) != value:
        raise _wrong_kind("base64 text")
    return _not_empty(decoded)


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


VALUE_CODECS: dict[Format, dict[str, ValueCodec]] = {
    Format.JSON: {
        TypeName.INT32.value: ValueCodec(_int32),
        TypeName.INT64.value: ValueCodec(_json_int64, str),
        TypeName.STR.value: ValueCodec(_str),
        TypeName.BYTES.value: ValueCodec(_json_bytes, _base64),
        TypeName.EMAIL.value: ValueCodec(_email),
    },
    Format.MSGPACK: {
        TypeName.INT32.value: ValueCodec(_int32),
        TypeName.INT64.value: ValueCodec(_int64),
        TypeName.STR.value: ValueCodec(_str),
        TypeName.BYTES.value: ValueCodec(_bytes),
        TypeName.EMAIL.value: ValueCodec(_email),
    },
}
"""The codec of every type in each format."""


def _as_bytes(op: Op, format: Format) -> dict[str, ValueCodec]:
    codecs = VALUE_CODECS[format]
    binary = codecs[TypeName.BYTES.value]
    mixed = {TypeName.BYTES.value: binary}
    for name in (TypeName.STR.value, TypeName.EMAIL.value):
        text = codecs[name]
        if op is Op.TOKENIZE:
            mixed[name] = ValueCodec(binary.from_message, text.to_message, to_bytes=bytes)
        else:
            mixed[name] = ValueCodec(text.from_message, binary.to_message, from_bytes=bytes)
    return mixed


BYTES_CODECS = {op: {written: _as_bytes(op, written) for written in Format} for op in Op}
"""The codecs for requests with ``as``: the value is binary, its token is still text."""

"""Values and tokens between their form in a message and in Python: ``int``, ``str`` or ``bytes``.

JSON has no bytes, and JavaScript rounds whole numbers of 64 bits: in JSON ``bytes`` are base64, and an ``int64`` goes
out as decimal text and comes in as that or as a number. In MessagePack each is what it is, and nothing else is taken.
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


class Unfit(TokenWorkerError):  # noqa: N818 - reads as what it says
    """A value that is none of its type; ``value_in`` adds where it stands."""

    def __init__(self, code: Code, expected: str) -> None:
        super().__init__(expected)
        self._code = code
        self._expected = expected

    def at(self, path: str) -> Refused:
        """What to answer."""
        return Refused(self._code, f"{path}: expected {self._expected}")


class Form(NamedTuple):
    """How values of a type stand in messages of a format.

    Attributes:
        read: gives the value of a decoded member; raises ``Unfit``.
        write: gives what to encode for a value; None: the value itself.
        encode, decode: to and from the bytes in storage; None: as the type has them.
    """

    read: Callable[[object], int | str | bytes]
    write: Callable[[Any], str] | None = None
    encode: Callable[[Any], bytes] | None = None
    decode: Callable[[bytes], Any] | None = None


def value_in(
    type_name: str, value: object, format: Format, path: str, as_bytes_of: Op | None = None
) -> int | str | bytes:
    """Read a value or token of a request.

    Lengths are not looked at, nor the form of e-mail addresses, other than that nothing may be empty.

    Args:
        type_name: the type the request names, known or not.
        value: the decoded member.
        format: the format it was in.
        path: of the value, ``$.value`` or ``$.items[3].value``; for messages.
        as_bytes_of: the operation, where the request asks for the value ``as`` bytes.

    Raises:
        Refused: ``unknown_type``, ``invalid_request`` (another kind of value, or not to be had as bytes),
            ``value_out_of_range`` (too large, too small, empty) or ``invalid_email`` (empty).
    """
    form = (FORMS if as_bytes_of is None else AS_BYTES[as_bytes_of])[format].get(type_name)
    if form is None:
        raise unknown_type(path) if type_name not in FORMS[format] else never_bytes(path)
    try:
        return form.read(value)
    except Unfit as unfit:
        refused = unfit.at(path)
    raise refused


def unknown_type(path: str) -> Refused:
    """What to answer to the value at this path."""
    return Refused(Code.UNKNOWN_TYPE, f"{path.removesuffix('value')}type: {_UNKNOWN_TYPE}")


def never_bytes(path: str) -> Refused:
    """What to answer to the value at this path, which was asked for as bytes."""
    return Refused(Code.INVALID_REQUEST, f"{path.removesuffix('value')}as: expected beside str, email or bytes alone")


def value_out(type_name: str, value: int | str | bytes, format: Format) -> int | str | bytes:
    """Write a token or value for a reply."""
    write = FORMS[format][type_name].write
    return value if write is None else write(value)


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no lone surrogates, which JSON's escapes can name."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(expected: str) -> Unfit:
    return Unfit(Code.INVALID_REQUEST, expected)


def _integer(bits: int) -> Callable[[object], int]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def read(value: object) -> int:
        if type(value) is not int:  # a bool is an int too
            raise _kind("a whole number")
        if not low <= value <= high:
            raise Unfit(Code.VALUE_OUT_OF_RANGE, f"{low} to {high}")
        return value

    return read


_int32 = _integer(32)
_int64 = _integer(64)


def _json_int64(value: object) -> int:
    if isinstance(value, str):
        if not _INT64_TEXT.fullmatch(value):
            raise _kind("a whole number, or one as decimal text")
        value = int(value)
    return _int64(value)


def _not_empty(value: bytes) -> bytes:
    if not value:
        raise Unfit(Code.VALUE_OUT_OF_RANGE, "at least 1 byte")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _kind("text")
    if not is_utf8(value):
        raise _kind("valid Unicode text")
    return value


def _str(value: object) -> str:
    if type(value) is str and value and value.isascii():
        return value  # most of them: said at once
    text = _text(value)
    if not text:
        raise Unfit(Code.VALUE_OUT_OF_RANGE, "at least 1 byte")
    return text


def _email(value: object) -> str:
    text = _text(value)
    if not text:
        raise Unfit(Code.INVALID_EMAIL, "an e-mail address")
    return text


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _kind("binary")
    return _not_empty(value)


def _json_bytes(value: object) -> bytes:
    """Strict base64: padded, no other characters, and no bits after the last byte."""
    decoded = None
    if isinstance(value, str):
        with suppress(ValueError):  # binascii.Error, and what non-ASCII text raises
            decoded = binascii.a2b_base64(value, strict_mode=True)
    if decoded is None or _base64(decoded) != value:
        raise _kind("base64 text")
    return _not_empty(decoded)


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


FORMS: dict[Format, dict[str, Form]] = {
    Format.JSON: {
        TypeName.INT32.value: Form(_int32),
        TypeName.INT64.value: Form(_json_int64, str),
        TypeName.STR.value: Form(_str),
        TypeName.BYTES.value: Form(_json_bytes, _base64),
        TypeName.EMAIL.value: Form(_email),
    },
    Format.MSGPACK: {
        TypeName.INT32.value: Form(_int32),
        TypeName.INT64.value: Form(_int64),
        TypeName.STR.value: Form(_str),
        TypeName.BYTES.value: Form(_bytes),
        TypeName.EMAIL.value: Form(_email),
    },
}
"""How every type stands in each format."""


def _as_bytes(op: Op, format: Format) -> dict[str, Form]:
    forms = FORMS[format]
    binary = forms[TypeName.BYTES.value]
    mixed = {TypeName.BYTES.value: binary}
    for name in (TypeName.STR.value, TypeName.EMAIL.value):
        text = forms[name]
        if op is Op.TOKENIZE:
            mixed[name] = Form(binary.read, text.write, encode=bytes)
        else:
            mixed[name] = Form(text.read, binary.write, decode=bytes)
    return mixed


AS_BYTES = {op: {written: _as_bytes(op, written) for written in Format} for op in Op}
"""The same where the value is asked for as bytes: the value is binary, its token text as ever."""

"""Values and tokens between their form in a message and in Python: ``int``, ``str`` or ``bytes``.

JSON has no bytes, and JavaScript rounds whole numbers of 64 bits: in JSON ``bytes`` are base64, and an ``int64`` goes
out as decimal text and comes in as that or as a number. In MessagePack each is what it is, and nothing else is taken.
"""
# ruff: noqa: A002 - "format" is what the contract calls it

import binascii
import re
from collections.abc import Callable
from contextlib import suppress

from token_worker.contract.messages import Format, TypeName
from token_worker.errors import Code, Refused

_INT64_TEXT = re.compile("0|-?[1-9][0-9]{0,99}")
_UNKNOWN_TYPE = f"expected {', '.join([*TypeName][:-1])} or {[*TypeName][-1]}"

_Reader = Callable[[object, str], int | str | bytes]


def value_in(type_name: str, value: object, format: Format, path: str) -> int | str | bytes:
    """Read a value or token of a request.

    Lengths are not looked at, nor the form of e-mail addresses, other than that nothing may be empty.

    Args:
        type_name: the type the request names, known or not.
        value: the decoded member.
        format: the format it was in.
        path: of the value, ``$.value`` or ``$.items[3].value``; for messages.

    Raises:
        Refused: ``unknown_type``, ``invalid_request`` (another kind of value), ``value_out_of_range`` (too large, too
            small, empty) or ``invalid_email`` (empty).
    """
    reader = _READERS[format].get(type_name)
    if reader is None:
        raise Refused(Code.UNKNOWN_TYPE, f"{path.removesuffix('value')}type: {_UNKNOWN_TYPE}")
    return reader(value, path)


def value_out(type_name: str, value: int | str | bytes, format: Format) -> int | str | bytes:
    """Write a token or value for a reply."""
    if format is Format.JSON:
        if isinstance(value, bytes):
            return binascii.b2a_base64(value, newline=False).decode("ascii")
        if type_name == TypeName.INT64:
            return str(value)
    return value


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no lone surrogates, which JSON's escapes can name."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(path: str, expected: str) -> Refused:
    return Refused(Code.INVALID_REQUEST, f"{path}: expected {expected}")


def _integer(bits: int) -> _Reader:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def read(value: object, path: str) -> int:
        if type(value) is not int:  # a bool is an int too
            raise _kind(path, "a whole number")
        if not low <= value <= high:
            raise Refused(Code.VALUE_OUT_OF_RANGE, f"{path}: expected {low} to {high}")
        return value

    return read


_int64 = _integer(64)


def _json_int64(value: object, path: str) -> int | str | bytes:
    if isinstance(value, str):
        if not _INT64_TEXT.fullmatch(value):
            raise _kind(path, "a whole number, or one as decimal text")
        value = int(value)
    return _int64(value, path)


def _not_empty(value: str | bytes, path: str) -> str | bytes:
    if not value:
        raise Refused(Code.VALUE_OUT_OF_RANGE, f"{path}: expected at least 1 byte")
    return value


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _kind(path, "text")
    if not is_utf8(value):
        raise _kind(path, "valid Unicode text")
    return value


def _str(value: object, path: str) -> str | bytes:
    return _not_empty(_text(value, path), path)


def _email(value: object, path: str) -> str:
    if _text(value, path):
        return str(value)
    raise Refused(Code.INVALID_EMAIL, f"{path}: expected an e-mail address")


def _bytes(value: object, path: str) -> str | bytes:
    if not isinstance(value, bytes):
        raise _kind(path, "binary")
    return _not_empty(value, path)


def _json_bytes(value: object, path: str) -> str | bytes:
    """Strict base64: padded, no other characters, and no bits after the last byte."""
    decoded = None
    if isinstance(value, str):
        with suppress(ValueError):  # binascii.Error, and what non-ASCII text raises
            decoded = binascii.a2b_base64(value, strict_mode=True)
    if decoded is None or binascii.b2a_base64(decoded, newline=False).decode("ascii") != value:
        raise _kind(path, "base64 text")
    return _not_empty(decoded, path)


_READERS: dict[Format, dict[str, _Reader]] = {
    Format.JSON: {
        TypeName.INT32: _integer(32),
        TypeName.INT64: _json_int64,
        TypeName.STR: _str,
        TypeName.BYTES: _json_bytes,
        TypeName.EMAIL: _email,
    },
    Format.MSGPACK: {
        TypeName.INT32: _integer(32),
        TypeName.INT64: _int64,
        TypeName.STR: _str,
        TypeName.BYTES: _bytes,
        TypeName.EMAIL: _email,
    },
}

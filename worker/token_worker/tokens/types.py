"""The five token types: their numbers and encodings in Acra's storage, and what a new token of each looks like.

A value or token is encoded as bytes: ``int32`` and ``int64`` little-endian two's complement, ``str`` and ``email``
UTF-8, ``bytes`` as they are. A token has the type of its value, and the encoded length of its value.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from token_worker.errors import Code, Damaged, Refused

Value = int | str | bytes

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""What a ``str`` token is made of."""

EMAIL_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
"""What both parts of an ``email`` token are made of: mail systems fold case, a folded token must still turn back."""

TWO_LETTER_DOMAINS = (b".au", b".br", b".de", b".jp", b".et", b".us")
DOMAINS = (b".com", b".net", b".org", b".edu", b".info", *TWO_LETTER_DOMAINS)
"""Top-level domains of ``email`` tokens, those of Acra in its order; under 8 bytes only those of two letters fit."""

EMAIL_BYTES = range(6, 255)
"""Lengths of an ``email`` for which there is a valid address of the same length."""

_LOCAL_PART_LIMIT = 64
_LABEL_LIMIT = 63


def _take_rejecting(stream: Callable[[int], bytes], skip: int, count: int, alphabet: bytes) -> bytes:
    """``count`` characters from the bytes of ``stream`` after the first ``skip``, each equally likely."""
    table, rejected = _TABLES[alphabet]
    wanted = skip + count + count // 16 + 16
    while True:
        chosen = stream(wanted)[skip:].translate(table, rejected)
        if len(chosen) >= count:
            return chosen[:count]
        wanted *= 2


def _table(alphabet: bytes) -> tuple[bytes, bytes]:
    """For ``bytes.translate``: byte to character, and the bytes that would favour some characters."""
    limit = 256 - 256 % len(alphabet)
    return bytes(alphabet[byte % len(alphabet)] for byte in range(256)), bytes(range(limit, 256))


_TABLES = {alphabet: _table(alphabet) for alphabet in (LETTERS, EMAIL_LETTERS)}
_LETTERS = _TABLES[LETTERS]


def _draw_bytes(stream: Callable[[int], bytes], length: int) -> bytes:
    return stream(length)


def _draw_letters(stream: Callable[[int], bytes], length: int) -> bytes:
    chosen = stream(length + length // 16 + 16).translate(*_LETTERS)  # enough, nearly always
    if len(chosen) >= length:
        return chosen[:length]
    return _take_rejecting(stream, 0, length, LETTERS)


def _draw_email(stream: Callable[[int], bytes], length: int) -> bytes:
    domains = DOMAINS if length >= 8 else TWO_LETTER_DOMAINS
    limit = 256 - 256 % len(domains)
    skip = 0
    while (byte := stream(skip + 1)[skip]) >= limit:
        skip += 1
    ending = domains[byte % len(domains)]
    room = length - len(ending) - 1
    local = min(_LOCAL_PART_LIMIT, room // 2)
    labels = label_lengths(room - local)
    letters = _take_rejecting(stream, skip + 1, local + sum(labels), EMAIL_LETTERS)
    parts = []
    at = local
    for label in labels:
        parts.append(letters[at : at + label])
        at += label
    return letters[:local] + b"@" + b".".join(parts) + ending


def label_lengths(room: int) -> list[int]:
    """Lengths of the fewest labels that, with dots between them, fill ``room`` bytes; the first ones are the longer."""
    count = -(-(room + 1) // (_LABEL_LIMIT + 1))
    each, longer = divmod(room - (count - 1), count)
    return [each + 1] * longer + [each] * (count - longer)


class TokenType(NamedTuple):
    """One of the five types.

    Attributes:
        name: as in the contract.
        number: as in Acra's storage.
        draw: makes a token of a length in bytes from a stream: a function that gives its first n bytes, for any n.
        encode: gives the bytes that stand in storage for a value, which must be of this type and in its range.
        read: as ``decode``, but raises ``ValueError``.
    """

    name: str
    number: int
    draw: Callable[[Callable[[int], bytes], int], bytes]
    encode: Callable[[Any], bytes]
    read: Callable[[bytes], Value]

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers: all of one length, where other types take any bytes there are."""
        return self in (INT32, INT64)

    def decode(self, data: bytes) -> Value:
        """The value in bytes from storage.

        Raises:
            Damaged: a number of the wrong length, or text that is not UTF-8.
        """
        try:
            return self.read(data)
        except ValueError:
            raise Damaged(f"stored {self.name} is none") from None

    def check_new(self, data: bytes) -> None:
        """Whether there can be a new token for this encoded value.

        Raises:
            Refused: an ``email`` without ``@``, or of a length that no valid address has.
        """
        if self is EMAIL and (b"@" not in data or len(data) not in EMAIL_BYTES):
            raise Refused(Code.INVALID_EMAIL, "expected an address with @ of 6 to 254 bytes")


_INT32, _INT64 = struct.Struct("<i"), struct.Struct("<q")


def _number(form: struct.Struct, data: bytes) -> int:
    try:
        return int(form.unpack(data)[0])
    except struct.error:
        raise ValueError("wrong length") from None


INT32 = TokenType("int32", 1, _draw_bytes, _INT32.pack, partial(_number, _INT32))
INT64 = TokenType("int64", 2, _draw_bytes, _INT64.pack, partial(_number, _INT64))
STR = TokenType("str", 3, _draw_letters, str.encode, bytes.decode)
BYTES = TokenType("bytes", 4, _draw_bytes, bytes, bytes)
EMAIL = TokenType("email", 5, _draw_email, str.encode, bytes.decode)

TYPES: dict[str, TokenType] = {kind.name: kind for kind in (INT32, INT64, STR, BYTES, EMAIL)}
"""All types by the contract's name."""

"""The five value types: their numbers and encodings in Acra's storage.

A value or token is encoded as bytes: ``int32`` and ``int64`` little-endian two's complement, ``str`` and ``email``
UTF-8, ``bytes`` as they are. A token has the type of its value, and the encoded length of its value.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from token_worker.errors import Code, CorruptData, Refused

Value = int | str | bytes


EMAIL_BYTES = range(6, 255)
"""Lengths of an ``email`` for which there is a valid address of the same length."""


class TokenType(NamedTuple):
    """One of the five types.

    Attributes:
        name: as in the contract.
        number: as in Acra's storage.
        encode: gives the bytes that stand in storage for a value, which must be of this type and in its range.
        read: as ``decode``, but raises ``ValueError``.
    """

    name: str
    number: int
    encode: Callable[[Any], bytes]
    read: Callable[[bytes], Value]

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers: all of one length, where other types take any bytes there are."""
        return self in (INT32, INT64)

    def decode(self, data: bytes) -> Value:
        """The value in bytes from storage.

        Raises:
            CorruptData: a number of the wrong length, or text that is not UTF-8.
        """
        try:
            return self.read(data)
        except ValueError:
            raise CorruptData(f"stored {self.name} is none") from None

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


INT32 = TokenType("int32", 1, _INT32.pack, partial(_number, _INT32))
INT64 = TokenType("int64", 2, _INT64.pack, partial(_number, _INT64))
STR = TokenType("str", 3, str.encode, bytes.decode)
BYTES = TokenType("bytes", 4, bytes, bytes)
EMAIL = TokenType("email", 5, str.encode, bytes.decode)

TYPES: dict[str, TokenType] = {kind.name: kind for kind in (INT32, INT64, STR, BYTES, EMAIL)}
"""All types by the contract's name."""

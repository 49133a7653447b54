"""The five value types: their numbers and encodings in Acra's storage.

A value or token is encoded as bytes: ``int32`` and ``int64`` in little-endian two's complement, ``str`` and ``email``
in UTF-8, ``bytes`` as they are. A token has the type of its value. Without a format it also has the same encoded
length.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from token_worker.errors import Code, CorruptData, Refused

NativeValue = int | str | bytes

EMAIL_BYTES = range(6, 255)
"""Lengths that a valid address can have. Only an ``email`` of such a length can get a token."""


class TokenType(NamedTuple):
    """One of the five types.

    Attributes:
        name: its name in the contract.
        number: its number in Acra's storage.
        encode: encodes a value, which must be of this type and in its range, as bytes for the storage.
        read: decodes as ``decode`` does, but raises ``ValueError``.
    """

    name: str
    number: int
    encode: Callable[[Any], bytes]
    read: Callable[[bytes], NativeValue]

    @property
    def is_number(self) -> bool:
        """True if the values are numbers. They all have the same length."""
        return self in (INT32, INT64)

    def decode(self, data: bytes) -> NativeValue:
        """Decode bytes from the storage.

        Raises:
            CorruptData: a number has the wrong length, or text is not UTF-8.
        """
        try:
            return self.read(data)
        except ValueError:
            raise CorruptData(f"stored {self.name} is malformed") from None

    def check_new(self, data: bytes) -> None:
        """Check that a new token can be made for this encoded value.

        Raises:
            Refused: an ``email`` has no ``@``, or a length that no valid address has.
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
"""All types, by their names in the contract."""

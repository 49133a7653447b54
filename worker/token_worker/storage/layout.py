"""Names and contents of Acra's token entries, byte for byte (Acra 0.96, also zones of 0.94 and earlier).

Two Redis strings a value::

    tokens/<hex context digest>/<hex "h." || data id of the value>   AcraBlock of the encoded token
    tokens/<hex context digest>/<hex "t." || data id of the token>   AcraBlock of TokenValue(encoded value, type number)

    context digest = SHA-256("client" || client id)     (or "zone" || zone id)
    data id        = SHA-256(D || data || "client" || client id || D || decimal type number), D = "tokenizator hash
    delimiter"

Each is the hex of a protobuf MetadataContainer: 1 bytes block, 2 varint created, 3 varint accessed (Unix seconds),
4 bool disabled. TokenValue: 1 bytes value, 2 varint type number. proto3: zero values are left out. Reading is strict:
a field that is unknown, repeated or of another wire type is damage, since rewriting the entry would lose it.
"""

import binascii
import hashlib
from typing import NamedTuple

from token_worker.errors import Damaged
from token_worker.keys.owner import Owner

_DELIMITER = b"tokenizator hash delimiter"
_H = b"h.".hex().encode()
_T = b"t.".hex().encode()
_VARINT = 0
_BYTES = 2


class Names:
    """The Redis keys of one client's or zone's entries; what is constant for the owner is computed once."""

    __slots__ = ("_prefix", "_start", "_tail")

    def __init__(self, owner: Owner) -> None:
        identity = owner.kind.encode() + owner.id.encode()
        self._prefix = b"tokens/" + hashlib.sha256(identity).hexdigest().encode() + b"/"
        self._tail = identity + _DELIMITER
        self._start = hashlib.sha256(_DELIMITER)

    def _data_id(self, data: bytes, number: int) -> bytes:
        digest = self._start.copy()
        digest.update(data + self._tail + b"%d" % number)
        return digest.hexdigest().encode()

    def of_value(self, value: bytes, number: int) -> bytes:
        """Key of the ``h.`` entry: the value's token."""
        return self._prefix + _H + self._data_id(value, number)

    def of_token(self, token: bytes, number: int) -> bytes:
        """Key of the ``t.`` entry: the token's value."""
        return self._prefix + _T + self._data_id(token, number)


class Entry(NamedTuple):
    """A MetadataContainer: an AcraBlock, when it was made and last used (Unix seconds), and whether it is disabled."""

    block: bytes
    created: int
    accessed: int
    disabled: bool = False


def encode_entry(entry: Entry) -> bytes:
    """The Redis value: hex of the protobuf."""
    return binascii.hexlify(
        b"".join(
            (
                _bytes_field(1, entry.block),
                _varint_field(2, entry.created),
                _varint_field(3, entry.accessed),
                _varint_field(4, int(entry.disabled)),
            )
        )
    )


def decode_entry(raw: bytes) -> Entry:
    """Read a Redis value.

    Raises:
        Damaged: not hex, or no MetadataContainer.
    """
    try:
        fields = _fields(binascii.unhexlify(raw), {1: _BYTES, 2: _VARINT, 3: _VARINT, 4: _VARINT})
    except ValueError:
        raise Damaged("entry: not hex") from None
    block = fields.get(1, b"")
    disabled = fields.get(4, 0)
    if not isinstance(block, bytes) or not block or disabled not in (0, 1):
        raise Damaged("entry: no block")
    return Entry(block, int(fields.get(2, 0)), int(fields.get(3, 0)), disabled=bool(disabled))


def encode_token_value(value: bytes, number: int) -> bytes:
    """What a ``t.`` entry's block holds."""
    return _bytes_field(1, value) + _varint_field(2, number)


def decode_token_value(message: bytes) -> tuple[bytes, int]:
    """Value and type number.

    Raises:
        Damaged: no TokenValue.
    """
    fields = _fields(message, {1: _BYTES, 2: _VARINT})
    value = fields.get(1, b"")
    if not isinstance(value, bytes):
        raise Damaged("token value: wrong field")
    return value, int(fields.get(2, 0))


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _bytes_field(field: int, data: bytes) -> bytes:
    return b"".join((bytes((field << 3 | _BYTES,)), _varint(len(data)), data)) if data else b""


def _varint_field(field: int, number: int) -> bytes:
    return bytes((field << 3 | _VARINT,)) + _varint(number) if number else b""


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise Damaged("protobuf: broken number")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _fields(message: bytes, known: dict[int, int]) -> dict[int, bytes | int]:
    found: dict[int, bytes | int] = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        field, wire = tag >> 3, tag & 7
        if known.get(field) != wire or field in found:
            raise Damaged("protobuf: unexpected field")
        number, at = _read_varint(message, at)
        if wire == _VARINT:
            found[field] = number
        else:
            found[field] = message[at : at + number]
            at += number
            if at > len(message):
                raise Damaged("protobuf: cut short")
    return found

"""Names and contents of Acra's token entries, byte for byte (Acra 0.96, also zones of 0.94 and earlier).

Two Redis strings a value::

    tokens/<hex context digest>/<hex "h." || data id of the value>   AcraBlock of the encoded token
    tokens/<hex context digest>/<hex "t." || data id of the token>   AcraBlock of TokenValue(encoded value, type number)

    context digest = SHA-256("client" || client id)     (or "zone" || zone id)
    data id        = SHA-256(D || data || "client" || client id || D || decimal type number), D = "tokenizator hash
    delimiter"

Each is the hex of a protobuf MetadataContainer: 1 bytes block, 2 varint created, 3 varint accessed (Unix seconds),
4 bool disabled. TokenValue: 1 bytes value, 2 varint type number. proto3: zero values are left out. Reading is strict:
an unknown field, a repeated field, or a field with another wire type makes an entry corrupt. To rewrite such an entry
would lose the field.
"""

import binascii
import hashlib
from binascii import hexlify, unhexlify
from typing import NamedTuple

from token_worker.acra.owner import Owner
from token_worker.errors import CorruptData

_DELIMITER = b"tokenizator hash delimiter"
_NUMBERS = [b"%d" % number for number in range(8)]  # Acra has types 1 to 7
_VARINT = 0
_BYTES = 2
_TIMES = {2: _VARINT, 3: _VARINT, 4: _VARINT}
_BLOCK_TAG = bytes((1 << 3 | _BYTES,))
_NUMBER_TAG = 2 << 3 | _VARINT
_SHORT = [bytes((1 << 3 | _BYTES, length)) for length in range(0x80)]
"""By length: the beginning of the field of a value that is shorter than 128 bytes."""
_NUMBER_FIELDS = [bytes((_NUMBER_TAG, number)) if number else b"" for number in range(len(_NUMBERS))]

_sha256 = hashlib.sha256
_from_bytes = int.from_bytes


class EntryNames:
    """The Redis keys of the entries of one client or zone. Their constant parts are computed once."""

    __slots__ = ("_h", "_t", "_tail")

    def __init__(self, owner: Owner) -> None:
        identity = owner.kind.encode() + owner.id.encode()
        prefix = b"tokens/" + hashlib.sha256(identity).hexdigest().encode() + b"/"
        self._h = prefix + b"h.".hex().encode()
        self._t = prefix + b"t.".hex().encode()
        self._tail = identity + _DELIMITER

    def of_value(self, value: bytes, number: int) -> bytes:
        """The key of the ``h.`` entry, which holds the token of a value."""
        return self._h + hexlify(_sha256(_DELIMITER + value + self._tail + _NUMBERS[number]).digest())

    def of_token(self, token: bytes, number: int) -> bytes:
        """The key of the ``t.`` entry, which holds the value of a token."""
        return self._t + hexlify(_sha256(_DELIMITER + token + self._tail + _NUMBERS[number]).digest())

    def of_values(self, values: list[bytes], number: int) -> list[bytes]:
        """The keys of the ``h.`` entries of values of one type."""
        start, tail = self._h, self._tail + _NUMBERS[number]
        return [start + hexlify(_sha256(_DELIMITER + value + tail).digest()) for value in values]

    def of_tokens(self, tokens: list[bytes], number: int) -> list[bytes]:
        """The keys of the ``t.`` entries of tokens of one type."""
        start, tail = self._t, self._tail + _NUMBERS[number]
        return [start + hexlify(_sha256(_DELIMITER + token + tail).digest()) for token in tokens]

    def of_data_id(self, data_id: bytes) -> bytes:
        """The key of the ``t.`` entry of a token with this data id."""
        return self._t + hexlify(data_id)


def data_id(owner: Owner, data: bytes, number: int) -> bytes:
    """Compute the data id of a value or token."""
    identity = owner.kind.encode() + owner.id.encode()
    return _sha256(_DELIMITER + data + identity + _DELIMITER + _NUMBERS[number]).digest()


def data_id_in(name: bytes) -> bytes:
    """Return the data id in the key of an entry."""
    return unhexlify(name[-64:])


class Times(NamedTuple):
    """The fields of a MetadataContainer after its block: created, last used (both Unix seconds), and its state."""

    created: int
    accessed: int
    disabled: bool = False


class TokenEntry(NamedTuple):
    """A MetadataContainer: an AcraBlock, when it was created and last used (Unix seconds), and its state."""

    block: bytes
    created: int
    accessed: int
    disabled: bool = False


def encode_entry(entry: TokenEntry) -> bytes:
    """Encode an entry as its Redis value: the hex of the protobuf."""
    block, created, accessed, disabled = entry
    times = encode_times(Times(created, accessed, disabled))
    return binascii.hexlify((block_start(len(block)) + block if block else b"") + times)


def decode_entry(raw: bytes) -> TokenEntry:
    """Decode the Redis value of an entry.

    Raises:
        CorruptData: the value is not hex, or not a MetadataContainer.
    """
    try:
        message = binascii.unhexlify(raw)
    except ValueError:
        raise CorruptData("entry: not hex") from None
    fields = _fields(message, {1: _BYTES, **_TIMES})
    block = fields.get(1, b"")
    if not isinstance(block, bytes) or not block:
        raise CorruptData("entry: no block")
    return TokenEntry(block, *_times(fields))


def block_start(length: int) -> bytes:
    """The bytes before a block in a MetadataContainer; ``length`` is that of the block, at least 1."""
    return _BLOCK_TAG + _varint(length)


def encode_times(times: Times) -> bytes:
    """Encode the fields after the block in a MetadataContainer."""
    created, accessed, disabled = times
    return _varint_field(2, created) + _varint_field(3, accessed) + _varint_field(4, int(disabled))


def decode_times(message: bytes) -> Times:
    """Decode the fields after the block.

    Raises:
        CorruptData: there are other fields, or the bytes are malformed.
    """
    return _times(_fields(message, _TIMES))


def _times(fields: dict[int, bytes | int]) -> Times:
    disabled = fields.get(4, 0)
    if disabled not in (0, 1):
        raise CorruptData("entry: neither enabled nor disabled")
    return Times(int(fields.get(2, 0)), int(fields.get(3, 0)), disabled=bool(disabled))


# From 1978 to 3058, each of the two times takes five bytes. Read as one little-endian number, they have a fixed shape:
# which bytes are tags, and which are followed by another byte. The bytes of the second time, read as a number, sort as
# the times do.
_TIMES_BYTES = 12
_TIMES_SHAPE = int.from_bytes(bytes.fromhex("108080808000188080808000"), "little")
_TIMES_MASK = int.from_bytes(bytes.fromhex("ff8080808080ff8080808080"), "little")
_ACCESSED_SHIFT = 7 * 8


def used_since(times: bytes, accessed: int) -> bool:
    """True if the fields after a block are certainly those of an enabled entry that was used at ``accessed`` or later.

    Args:
        times: the fields as ``encode_times`` makes them; False for any other bytes.
        accessed: a time, from ``accessed_number``.
    """
    number = _from_bytes(times, "little")
    return len(times) == _TIMES_BYTES and number & _TIMES_MASK == _TIMES_SHAPE and number >> _ACCESSED_SHIFT >= accessed


def accessed_number(seconds: int) -> int:
    """Convert a time in Unix seconds for ``used_since``."""
    return int.from_bytes(_varint(max(seconds, 1 << 28)), "little")


def encode_token_value(value: bytes, number: int) -> bytes:
    """Encode the content of the block in a ``t.`` entry."""
    if 0 < len(value) < 0x80:
        return _SHORT[len(value)] + value + _NUMBER_FIELDS[number]
    return _bytes_field(1, value) + _varint_field(2, number)


def decode_token_value(message: bytes) -> tuple[bytes, int]:
    """Decode the content of the block in a ``t.`` entry into value and type number.

    Raises:
        CorruptData: the bytes are not a TokenValue.
    """
    length = len(message) - 4
    if 0 < length < 0x80 and message[:2] == _SHORT[length] and message[-2] == _NUMBER_TAG and message[-1] < 0x80:
        return message[2:-2], message[-1]
    fields = _fields(message, {1: _BYTES, 2: _VARINT})
    value = fields.get(1, b"")
    if not isinstance(value, bytes):
        raise CorruptData("token value: wrong field")
    return value, int(fields.get(2, 0))


def value_of_type(message: bytes, number: int) -> bytes:
    """Decode the content of the block in a ``t.`` entry: the value if it has this type number, else empty bytes.

    Raises:
        CorruptData: the bytes are not a TokenValue.
    """
    length = len(message) - 4
    if 0 < length < 0x80 and message[:2] == _SHORT[length] and message[-2:] == _NUMBER_FIELDS[number]:
        return message[2:-2]
    value, its_number = decode_token_value(message)
    return value if its_number == number else b""


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
            raise CorruptData("protobuf: broken number")
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
            raise CorruptData("protobuf: unexpected field")
        number, at = _read_varint(message, at)
        if wire == _VARINT:
            found[field] = number
        else:
            found[field] = message[at : at + number]
            at += number
            if at > len(message):
                raise CorruptData("protobuf: truncated")
    return found

"""Encode values for requests: their types, their bytes in MessagePack, and how many fit into one request. Pure."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import msgspec

from token_worker.chunks import bounded_chunks
from token_worker.client.errors import RequestRefused, refusal
from token_worker.contract.messages import MAX_FORMAT_CHARACTERS, TypeName
from token_worker.contract.values import is_utf8
from token_worker.errors import Code
from token_worker.settings.options import PlainOptions

Value = int | str | bytes
Answer = int | str | bytes | RequestRefused
"""Result of one value: its token (or the detokenized value), or the error."""

Type = Literal["int32", "int64", "str", "bytes", "email"] | TypeName

MAX_ITEMS: Final = PlainOptions().max_items
"""Most items in a request, if the settings of the workers are unknown."""

REQUEST_BYTES: Final = PlainOptions().max_request_bytes
"""Most bytes in a payload, if the settings of the workers are unknown."""

OVERHEAD_BYTES: Final = 4096
"""Room in a payload for everything except items: the longest ids and stream name fit into it."""


class OtherFormat(str):
    """A token that does not have the format that was asked for: the value had this token before.

    Equal to the same text. Only calls with ``mark_other`` return it, because some libraries, such as msgspec, take no
    subclass of ``str``.
    """

    __slots__ = ()


_TYPES: Final[dict[type, TypeName]] = {
    int: TypeName.INT64,
    str: TypeName.STR,
    bytes: TypeName.BYTES,
    OtherFormat: TypeName.STR,
}
SENDABLE_TYPES: Final = frozenset({*_TYPES, type(None)})
"""Types of values in the list of a call."""

_encode: Final = msgspec.msgpack.Encoder(enc_hook=str).encode  # the hook is for OtherFormat


def _head(type_name: str, as_: str | None, format: str | None = None) -> bytes:
    """Return the bytes of an item before its value. The byte of None in MessagePack is cut off."""
    optional = {name: text for name, text in (("as", as_), ("format", format)) if text is not None}
    return _encode({"type": type_name, **optional, "value": None}).removesuffix(b"\xc0")


_HEADS: Final[dict[tuple[str, str | None], bytes]] = {
    (name, as_): _head(name, as_) for name in TypeName for as_ in (None, "bytes")
}
"""Bytes of an item before its value, by ``type`` and ``as``, without a format."""

_head_of_format: Final = lru_cache(maxsize=256)(_head)


class Item(NamedTuple):
    """A value and the name of its type. A tuple ``(type, value)`` means the same.

    With ``as_="bytes"``, the value of a ``str`` or ``email`` is given and returned as ``bytes``. It need not be UTF-8.
    ``format`` is the format of the token. It has no effect when a token is detokenized.
    """

    type: Type
    value: Value
    as_: Literal["bytes"] | None = None
    format: str | None = None


class RequestLimits(NamedTuple):
    """Limits of one request."""

    items: int = MAX_ITEMS
    bytes: int = REQUEST_BYTES


def type_of(value: object) -> TypeName:
    """Return the default type of a value: ``int64``, ``str`` or ``bytes``.

    Raises:
        TypeError: the value has another Python type.
    """
    found = _TYPES.get(type(value))
    if found is None:
        raise TypeError(f"expected int, str or bytes, got {type(value).__name__}")
    return found


def is_format_name(format: object) -> bool:
    """Return True if a text can be the name of a format.

    Raises:
        TypeError: the name is no text: a mistake in the program.
    """
    if not isinstance(format, str):
        raise TypeError(f"expected format to be a str, got {type(format).__name__}")
    return 1 <= len(format) <= MAX_FORMAT_CHARACTERS and is_utf8(format)


def encode(item: Item | tuple[Type, Value], limits: RequestLimits) -> bytes | RequestRefused:
    """Encode an item for a payload. Return the refusal if no request can carry the item.

    Raises:
        TypeError: the value has a type that cannot be sent: a mistake in the program.
    """
    type_name, value = item[0], item[1]
    as_ = item[2] if len(item) > 2 else None
    head = _HEADS.get((type_name, as_))
    if head is None:
        if as_ is not None and (type_name, None) in _HEADS:
            raise TypeError("expected as_ to be 'bytes'")
        return refusal(Code.UNKNOWN_TYPE, f"expected one of {', '.join(TypeName)}")
    if len(item) > 3 and item[3] is not None:
        if not is_format_name(item[3]):
            return refusal(Code.INVALID_REQUEST, f"format: expected text of 1 to {MAX_FORMAT_CHARACTERS} characters")
        head = _head_of_format(type_name, as_, item[3])
    if type(value) not in _TYPES:
        type_of(value)  # raises
    if isinstance(value, str) and not is_utf8(value):
        return refusal(Code.INVALID_REQUEST, "value: expected valid Unicode text")
    try:
        encoded = head + _encode(value)
    except OverflowError:
        return refusal(Code.VALUE_OUT_OF_RANGE, "value: expected a whole number of at most 64 bits")
    if len(encoded) > limits.bytes - OVERHEAD_BYTES:
        return refusal(Code.VALUE_TOO_LARGE, "value: too long for a request")
    return encoded


def split(items: Sequence[bytes], limits: RequestLimits) -> Iterator[list[bytes]]:
    """Yield the items that share a request, as many as the limits allow. Each item fits into a request on its own."""
    counts, sizes = [1] * len(items), [*map(len, items)]
    return bounded_chunks(items, counts, sizes, max_count=limits.items, max_size=limits.bytes - OVERHEAD_BYTES)

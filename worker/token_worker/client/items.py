"""Values on their way into requests: their types, their bytes in MessagePack, how many go into one. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from token_worker.client.errors import RequestRefused, refusal
from token_worker.contract.messages import TypeName
from token_worker.contract.values import is_utf8
from token_worker.errors import Code
from token_worker.settings.options import PlainOptions

Value = int | str | bytes
Answer = int | str | bytes | RequestRefused
"""What came of one value: its token (or the value turned back), or the error."""

Type = Literal["int32", "int64", "str", "bytes", "email"] | TypeName

MAX_ITEMS: Final = PlainOptions().max_items
"""Items a request may have where the settings of the workers are not known."""

REQUEST_BYTES: Final = PlainOptions().max_request_bytes
"""The same for the bytes of a payload."""

OVERHEAD_BYTES: Final = 4096
"""Room in a payload for all but its items: id, key and stream for the reply, at their longest."""

_TYPES: Final[dict[type, TypeName]] = {int: TypeName.INT64, str: TypeName.STR, bytes: TypeName.BYTES}
_encode: Final = msgspec.msgpack.Encoder().encode
_HEADS: Final[dict[tuple[str, str | None], bytes]] = {
    (name, as_): _encode({"type": name, **({"as": as_} if as_ else {}), "value": None}).removesuffix(b"\xc0")
    for name in TypeName
    for as_ in (None, "bytes")
}
"""An item up to its value, by its type and form: the last byte is what None is in MessagePack."""


class Item(NamedTuple):
    """A value and the name of its type; a tuple ``(type, value)`` is the same.

    With ``as_="bytes"`` the value of a ``str`` or ``email`` is given, or answered, as ``bytes``: it may be no UTF-8.
    """

    type: Type
    value: Value
    as_: Literal["bytes"] | None = None


class RequestLimits(NamedTuple):
    """How much one request may carry."""

    items: int = MAX_ITEMS
    bytes: int = REQUEST_BYTES


def type_of(value: object) -> TypeName:
    """The type that is meant where none is named: ``int64``, ``str`` or ``bytes``.

    Raises:
        TypeError: the value is none of them.
    """
    found = _TYPES.get(type(value))
    if found is None:
        raise TypeError(f"expected int, str or bytes, got {type(value).__name__}")
    return found


def encode(item: Item | tuple[Type, Value], limits: RequestLimits) -> bytes | RequestRefused:
    """An item as it stands in a payload, or why no request can carry it.

    Raises:
        TypeError: the value is of no type that can be sent at all; a mistake in the program.
    """
    type_name, value = item[0], item[1]
    as_ = item[2] if len(item) > 2 else None
    head = _HEADS.get((type_name, as_))
    if head is None:
        if as_ is not None and (type_name, None) in _HEADS:
            raise TypeError("expected as_ to be 'bytes'")
        return refusal(Code.UNKNOWN_TYPE, f"expected one of {', '.join(TypeName)}")
    type_of(value)
    if isinstance(value, str) and not is_utf8(value):
        return refusal(Code.INVALID_REQUEST, "value: expected valid Unicode text")
    try:
        encoded = head + _encode(value)
    except OverflowError:
        return refusal(Code.VALUE_OUT_OF_RANGE, "value: expected a whole number of 64 bits at most")
    if len(encoded) > limits.bytes - OVERHEAD_BYTES:
        return refusal(Code.VALUE_TOO_LARGE, "value: longer than a request may be")
    return encoded


def split(sizes: Sequence[int], limits: RequestLimits) -> Iterator[slice]:
    """Which items go into a request together: as many as may, in order; each fits into one alone."""
    start = size = 0
    most, room = limits.items, limits.bytes - OVERHEAD_BYTES
    for at, more in enumerate(sizes):
        if at > start and (at - start >= most or size + more > room):
            yield slice(start, at)
            start, size = at, 0
        size += more
    if start < len(sizes):
        yield slice(start, len(sizes))

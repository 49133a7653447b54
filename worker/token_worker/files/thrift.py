"""Thrift's compact protocol, for structures with unknown fields. Pure.

A structure that is read and written again keeps all its fields, also fields that a later version of the format adds.
See https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from collections.abc import Iterable
from typing import Any, Self

from token_worker.errors import CheckFailed

TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
"""Kinds of values. A field of kind ``TRUE`` can be true or false."""

MAX_DEPTH = 64
"""Deepest nesting of structures and lists. Parquet has nine levels."""

_VARINT_BITS = 64
_SHORT_LIST = 15


class Malformed(CheckFailed):
    """The bytes are not the expected structure."""

    def __init__(self) -> None:
        super().__init__("the input cannot be read: it is damaged, or its format is unknown")


class Items(list[Any]):
    """A list, and the kind of its items."""

    def __init__(self, kind: int, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.kind = kind


class Struct:
    """A structure: fields by number.

    Attributes:
        fields: kind and value of each.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: dict[int, tuple[int, Any]] | None = None) -> None:
        self.fields = {} if fields is None else fields

    def __contains__(self, number: int) -> bool:
        return number in self.fields

    def copy(self, *numbers: int) -> Self:
        """Return another structure with the same fields, or with only these fields."""
        return type(self)({number: self.fields[number] for number in numbers or self.fields if number in self.fields})

    def drop(self, *numbers: int) -> None:
        """Remove fields, if they exist."""
        for number in numbers:
            self.fields.pop(number, None)

    def set(self, number: int, kind: int, value: Any) -> None:
        """Set a field."""
        self.fields[number] = (kind, value)

    def number(self, number: int, default: int | None = None) -> int:
        """Return a whole number. Raises ``Malformed`` if there is no such field."""
        return self._value(number, (I8, I16, I32, I64), default)  # type: ignore[no-any-return]

    def flag(self, number: int) -> bool:
        """Return a truth value; default: False."""
        return self._value(number, (TRUE,), default=False)  # type: ignore[no-any-return]

    def text(self, number: int) -> str:
        """Return a text. Raises ``Malformed`` if there is no such field."""
        return self._value(number, (BINARY,), None).decode(errors="replace")  # type: ignore[no-any-return]

    def struct(self, number: int) -> "Struct":
        """Return a structure. Raises ``Malformed`` if there is no such field."""
        return self._value(number, (STRUCT,), None)  # type: ignore[no-any-return]

    def items(self, number: int, kind: int) -> Items:
        """Return a list of items of a kind; default: an empty list."""
        items: Items = self._value(number, (LIST,), Items(kind))
        if items and items.kind != kind:
            raise Malformed
        return items

    def _value(self, number: int, kinds: tuple[int, ...], default: Any) -> Any:
        kind, value = self.fields.get(number, (kinds[0], default))
        if kind not in kinds or value is None:
            raise Malformed
        return value


def read(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """Read a structure. Return it with the position of its end.

    Raises:
        Malformed: the bytes are not a structure.
    """
    reader = _Reader(data, at)
    try:
        return reader.struct(0), reader.at
    except IndexError:
        raise Malformed from None


def write(struct: Struct) -> bytes:
    """Return the bytes of a structure."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def struct(self, depth: int) -> Struct:
        if depth > MAX_DEPTH:
            raise Malformed
        fields: dict[int, tuple[int, Any]] = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._signed()
            if kind in (TRUE, FALSE):
                fields[number] = (TRUE, kind == TRUE)
            else:
                fields[number] = (kind, self._value(kind, depth + 1))
        return Struct(fields)

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            if shift >= _VARINT_BITS:
                raise Malformed
        return value | byte << shift

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _bytes(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) < count:
            raise Malformed
        self.at += count
        return taken

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == STRUCT:
            return self.struct(depth)
        if kind in (LIST, SET):
            return self._list(depth)
        if kind in (I8, TRUE, FALSE):  # truth values are bytes only in lists
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        raise Malformed  # Parquet has no maps

    def _list(self, depth: int) -> Items:
        head = self._byte()
        count = head >> 4
        if count == _SHORT_LIST:
            count = self._varint()
        if depth > MAX_DEPTH or count > len(self._data) - self.at:  # each item has at least one byte
            raise Malformed
        kind = head & 15
        return Items(kind, [self._value(kind, depth + 1) for _ in range(count)])


def _write_struct(out: bytearray, struct: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(struct.fields.items()):
        shown = kind if kind != TRUE or value else FALSE
        if 0 < number - before <= 15:
            out.append((number - before) << 4 | shown)
        else:
            out.append(shown)
            _write_signed(out, number)
        before = number
        if kind != TRUE:
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _write_signed(out, value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind in (LIST, SET):
        out.append(min(len(value), _SHORT_LIST) << 4 | value.kind)
        if len(value) >= _SHORT_LIST:
            _write_varint(out, len(value))
        for item in value:
            _write_value(out, value.kind, item)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _write_signed(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)

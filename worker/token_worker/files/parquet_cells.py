"""Convert values to and from cells of Parquet, and say which columns can hold which tokens.

A column can hold a type only if it can hold every token of this type. The schema of the file does not change, so a
token that does not fit could not be written.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from token_worker.client import Value
from token_worker.contract.messages import TypeName
from token_worker.files.columns import RowCode, RowError, check_number
from token_worker.files.parquet_footer import Footer, Leaf, Physical, Top

_BITS = {TypeName.INT32: 32, TypeName.INT64: 64}
_DIGITS = {TypeName.INT32: 10, TypeName.INT64: 19}
_HOLD = {
    TypeName.INT32: "int32, int64 and decimals of 10 digits without a fraction do",
    TypeName.INT64: "int64 and decimals of 19 digits without a fraction do",
}

_NUMBERS = ("int", "uint", "decimal")


class CellCodec(NamedTuple):
    """Conversions between cells of a column and values.

    Attributes:
        arrow: the stored type, as a type of ``pyarrow``.
        read: returns the value of a cell, or None if the cell is empty. Raises ``RowError``.
        write: returns the cell for a value. Raises ``RowError``.
    """

    arrow: Any
    read: Callable[[Any], Value | None]
    write: Callable[[Any], Any]


def codec_for(footer: Footer, top: Top, type_name: TypeName) -> CellCodec | None:
    """Return the codec of a column for values of a type. None: the column cannot hold every token."""
    leaf = footer.leaves[top.leaves.start] if top.is_flat else None
    if leaf is None:
        return None
    if type_name in _BITS:
        return _numbers(leaf, type_name)
    if type_name is TypeName.BYTES:
        is_bytes = leaf.kind in ("binary", "uuid") or leaf.kind.startswith("fixed_size_binary")
        return (
            CellCodec(_arrow(leaf), lambda cell: cell or None, lambda value: _fixed(value, leaf)) if is_bytes else None
        )
    is_text = leaf.kind == "string" and leaf.physical == Physical.BYTE_ARRAY and top.name not in footer.enumerations
    return CellCodec(_arrow(leaf), _decoded, str.encode) if is_text else None


def why_unsupported(footer: Footer, top: Top, type_name: TypeName) -> str:
    """Complete the sentence "column NAME is"."""
    if not top.is_flat:
        return f"nested, and tokens of type {type_name} are not"
    leaf = footer.leaves[top.leaves.start]
    if leaf.kind == "string" and top.name in footer.enumerations:
        return f"an enumeration, and tokens of type {type_name} are not"
    if type_name in _BITS and leaf.kind.startswith(_NUMBERS):
        return f"{leaf}, which does not hold all tokens of type {type_name}; {_HOLD[type_name]}"
    return f"{leaf}, and tokens of type {type_name} are not"


def _arrow(leaf: Leaf) -> Any:
    if leaf.physical in (Physical.INT32, Physical.INT64):
        return pa.int32() if leaf.physical == Physical.INT32 else pa.int64()
    return pa.binary(leaf.width) if leaf.width else pa.binary()


def _numbers(leaf: Leaf, type_name: TypeName) -> CellCodec | None:
    if leaf.kind == "int64" or (leaf.kind, type_name) == ("int32", TypeName.INT32):
        is_native = leaf.physical == (Physical.INT64 if leaf.kind == "int64" else Physical.INT32)
        return CellCodec(_arrow(leaf), lambda cell: check_number(cell, type_name), int) if is_native else None
    if leaf.kind != "decimal" or leaf.scale or leaf.precision < _DIGITS[type_name]:
        return None
    if leaf.physical == Physical.INT64:
        return CellCodec(_arrow(leaf), lambda cell: check_number(cell, type_name), int)
    if leaf.physical == Physical.BYTE_ARRAY or leaf.width * 8 >= _BITS[type_name]:
        return CellCodec(
            _arrow(leaf),
            lambda cell: check_number(int.from_bytes(cell, "big", signed=True), type_name),
            lambda value: _big_endian(value, leaf.width),
        )
    return None


def _big_endian(value: int, width: int) -> bytes:
    return value.to_bytes(width or value.bit_length() // 8 + 1, "big", signed=True)


def _decoded(cell: bytes) -> str | None:
    try:
        return cell.decode() or None
    except UnicodeDecodeError:
        raise RowError(RowCode.WRONG_ENCODING, "expected text in utf-8") from None


def _fixed(value: bytes, leaf: Leaf) -> bytes:
    if leaf.width and len(value) != leaf.width:
        raise RowError(RowCode.WRONG_FORM, f"expected {leaf.width} bytes")
    return value

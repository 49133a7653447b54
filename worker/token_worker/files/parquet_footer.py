"""The footer of a Parquet file: the columns, and the positions of their bytes.

See https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift for the numbers of fields.
"""

import base64
import io
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from token_worker.errors import CheckFailed, OperatorError
from token_worker.files import thrift
from token_worker.files.thrift import Items, Malformed, Struct

MAGIC: Final = b"PAR1"

_ENCRYPTED_MAGIC = b"PARE"
_TAIL_BYTES = 8
"""The length of the footer and the magic number."""


class FileField(IntEnum):
    """Fields of ``FileMetaData``."""

    VERSION, SCHEMA, NUM_ROWS, ROW_GROUPS, KEY_VALUES, CREATED_BY, ORDERS, ENCRYPTION = range(1, 9)


class GroupField(IntEnum):
    """Fields of ``RowGroup``."""

    COLUMNS, TOTAL_BYTES, NUM_ROWS, SORTING, FILE_OFFSET, COMPRESSED_BYTES, ORDINAL = range(1, 8)


class ChunkField(IntEnum):
    """Fields of ``ColumnChunk``."""

    FILE_PATH, FILE_OFFSET, META = 1, 2, 3
    OFFSET_INDEX, OFFSET_INDEX_BYTES, COLUMN_INDEX, COLUMN_INDEX_BYTES = 4, 5, 6, 7
    CRYPTO, ENCRYPTED_META = 8, 9


class MetaField(IntEnum):
    """Fields of ``ColumnMetaData``."""

    TYPE, ENCODINGS, PATH, CODEC, NUM_VALUES, UNCOMPRESSED_BYTES, COMPRESSED_BYTES, KEY_VALUES = range(1, 9)
    DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, STATISTICS, ENCODING_STATS = 9, 10, 11, 12, 13
    BLOOM_FILTER, BLOOM_FILTER_BYTES = 14, 15


class ElementField(IntEnum):
    """Fields of ``SchemaElement``."""

    TYPE, WIDTH, REPETITION, NAME, CHILDREN, CONVERTED, SCALE, PRECISION, FIELD_ID, LOGICAL = range(1, 11)


class Physical(IntEnum):
    """Types of stored values."""

    BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE, BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY = range(8)


class Repetition(IntEnum):
    """Number of values that a column has in a row: exactly one, at most one, or any number."""

    REQUIRED, OPTIONAL, REPEATED = range(3)


PAGES: Final = (MetaField.DATA_PAGE, MetaField.INDEX_PAGE, MetaField.DICTIONARY_PAGE)
"""Fields with the position of the first page of each kind. Some writers put 0 if there is no such page."""

ASIDE: Final[tuple[tuple[ChunkField, ChunkField], ...]] = (
    (ChunkField.COLUMN_INDEX, ChunkField.COLUMN_INDEX_BYTES),
    (ChunkField.OFFSET_INDEX, ChunkField.OFFSET_INDEX_BYTES),
)
"""Fields with position and length of the indexes of a column chunk, which are in another place of the file."""

_INT96_BYTES = 12

_TOO_SHORT = re.compile(r"parquet-mr(?! version (1\.(2\.9|[3-9]|[1-9][0-9])|[2-9]))")
"""Writers whose column chunks are longer than they say: the header of the dictionary is not counted."""

_SLACK_BYTES = 100

_PHYSICAL = ("boolean", "int32", "int64", "int96", "float", "double", "binary", "fixed_size_binary")
_CONVERTED = (
    "string", "map", "map", "list", "enum", "decimal", "date", "time", "time", "timestamp", "timestamp",
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "json", "bson", "interval",
)  # fmt: skip
_LOGICAL = {
    1: "string", 2: "map", 3: "list", 4: "enum", 5: "decimal", 6: "date", 7: "time", 8: "timestamp", 10: "int",
    11: "null", 12: "json", 13: "bson", 14: "uuid", 15: "float16", 16: "variant", 17: "geometry", 18: "geography",
}  # fmt: skip

_ENUMERATION = b"_PL_ENUM_VALUES"
_UNKNOWN = "of a type that is not known"


class Leaf(NamedTuple):
    """A column that holds values, not other columns.

    Attributes:
        physical: type of the stored values.
        width: bytes of each value, if all have the same length; otherwise 0.
        kind: meaning of the values.
        precision, scale: precision and scale of decimals; otherwise 0.
        definition, repetition: the highest levels.
    """

    physical: Physical
    width: int
    kind: str
    precision: int
    scale: int
    definition: int
    repetition: int

    def __str__(self) -> str:
        """Name the type for a message."""
        return f"decimal({self.precision}, {self.scale})" if self.kind == "decimal" else self.kind


class Top(NamedTuple):
    """A column at the top of the schema.

    Attributes:
        name: name of the column.
        elements: positions in the schema of the column and the columns in it.
        leaves: positions of its leaves among all leaves.
        repetition: a ``Repetition``.
    """

    name: str
    elements: range
    leaves: range
    repetition: int

    @property
    def is_flat(self) -> bool:
        """True if the column has at most one value in each row."""
        return len(self.elements) == 1 and self.repetition != Repetition.REPEATED


class Footer:
    """The footer of a file.

    Attributes:
        struct: the whole footer.
        end: position of the footer, which is the end of the columns.
        groups: row groups.
        tops: columns at the top of the schema.
        leaves: columns that hold values.
        enumerations: names of columns for which polars has stored a list of values. It reads other values as null.

    Raises:
        OperatorError: the file is not Parquet, or is encrypted.
    """

    def __init__(self, file: BinaryIO) -> None:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read(_TAIL_BYTES)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] == _ENCRYPTED_MAGIC:
            raise OperatorError("the input is encrypted Parquet")
        if tail[4:] != MAGIC or length + _TAIL_BYTES + len(MAGIC) > size:
            raise OperatorError("the input is not a Parquet file")
        self.end = size - _TAIL_BYTES - length
        file.seek(self.end)
        try:
            self.struct, _ = thrift.read(file.read(length))
            self.groups = self.struct.items(FileField.ROW_GROUPS, thrift.STRUCT)
            self._elements = self.struct.items(FileField.SCHEMA, thrift.STRUCT)
            self.tops, self.leaves = _columns(self._elements)
            self.enumerations = _enumerations(self.struct.items(FileField.KEY_VALUES, thrift.STRUCT))
            self._check()
        except Malformed:
            raise OperatorError("the input is not a Parquet file") from None

    def _check(self) -> None:
        if FileField.ENCRYPTION in self.struct:
            raise OperatorError("the input is encrypted Parquet")
        for group in self.groups:
            chunks = group.items(GroupField.COLUMNS, thrift.STRUCT)
            if len(chunks) != len(self.leaves) or group.number(GroupField.NUM_ROWS) < 0:
                raise Malformed
            for chunk in chunks:
                if ChunkField.CRYPTO in chunk or ChunkField.ENCRYPTED_META in chunk:
                    raise OperatorError("the input is encrypted Parquet")
                if ChunkField.FILE_PATH in chunk:
                    raise OperatorError("the input has no values: it only names other files that have them")
                if not all(self._is_within(*place) for place in _places(chunk)):
                    raise CheckFailed("the input cannot be read: it is damaged, its columns are outside of the file")

    def _is_within(self, start: int, length: int) -> bool:
        return len(MAGIC) <= start <= start + length <= self.end or (start, length) == (0, 0)

    @property
    def num_rows(self) -> int:
        """Number of rows in all row groups."""
        return sum(group.number(GroupField.NUM_ROWS) for group in self.groups)

    def slack(self, chunk: Struct) -> int:
        """Return how many bytes after the end of a chunk may belong to it, and not to another chunk."""
        if FileField.CREATED_BY not in self.struct or not _TOO_SHORT.match(self.struct.text(FileField.CREATED_BY)):
            return 0
        end = sum(span(chunk.struct(ChunkField.META)))
        after = bisect_left(self._starts, end)
        return min(_SLACK_BYTES, (self._starts[after] if after < len(self._starts) else self.end) - end)

    @cached_property
    def _starts(self) -> list[int]:
        """Sorted positions of all column chunks."""
        chunks = (chunk for group in self.groups for chunk in group.items(GroupField.COLUMNS, thrift.STRUCT))
        return sorted(span(chunk.struct(ChunkField.META))[0] for chunk in chunks)

    def chunks(self, top: Top, group: int) -> list[Struct]:
        """Return the chunks of a column in a row group."""
        return self.groups[group].items(GroupField.COLUMNS, thrift.STRUCT)[top.leaves.start : top.leaves.stop]  # type: ignore[no-any-return]

    def view(self, tops: Sequence[Top], groups: Sequence[int] | None = None) -> Any:
        """Return metadata for ``pyarrow`` with only these columns and row groups, without the meaning of the values.

        So a column of any type can be read, and written again with the same bytes for each value. Each column has its
        position as its name.

        Raises:
            OperatorError: ``pyarrow`` cannot read these columns.
        """
        elements = Items(thrift.STRUCT, [_element(self._elements[0], "schema", len(tops))])
        for place, top in enumerate(tops):
            names = (str(place if at == top.elements.start else at) for at in top.elements)
            elements += [_element(self._elements[at], name) for at, name in zip(top.elements, names, strict=True)]
        shown_groups = Items(thrift.STRUCT)
        for number in range(len(self.groups)) if groups is None else groups:
            chunks = Items(thrift.STRUCT, [_chunk(chunk) for top in tops for chunk in self.chunks(top, number)])
            shown = self.groups[number].copy(GroupField.TOTAL_BYTES, GroupField.NUM_ROWS)
            shown.set(GroupField.COLUMNS, thrift.LIST, chunks)
            shown_groups.append(shown)
        struct = self.struct.copy(FileField.VERSION, FileField.NUM_ROWS, FileField.CREATED_BY)
        struct.set(FileField.SCHEMA, thrift.LIST, elements)
        struct.set(FileField.ROW_GROUPS, thrift.LIST, shown_groups)
        try:
            return pq.read_metadata(io.BytesIO(MAGIC + framed(struct)))
        except (pa.ArrowException, OSError):
            raise OperatorError("the input is not a Parquet file that pyarrow can read") from None


def framed(struct: Struct) -> bytes:
    """Return the bytes of a footer, with its length and the magic number."""
    data = thrift.write(struct)
    return data + len(data).to_bytes(4, "little") + MAGIC


def span(meta: Struct) -> tuple[int, int]:
    """Return position and length of a column chunk."""
    offsets = (meta.number(field, 0) for field in PAGES)
    return min((offset for offset in offsets if offset > 0), default=0), meta.number(MetaField.COMPRESSED_BYTES)


def _places(chunk: Struct) -> Iterator[tuple[int, int]]:
    """Yield position and length of each part of a column chunk."""
    meta = chunk.struct(ChunkField.META)
    yield span(meta)
    yield meta.number(MetaField.BLOOM_FILTER, 0), meta.number(MetaField.BLOOM_FILTER_BYTES, 0)
    for start, length in ASIDE:
        yield chunk.number(start, 0), chunk.number(length, 0)


def _element(element: Struct, name: str, children: int | None = None) -> Struct:
    """Return an element of a schema without the meaning of its values."""
    shown = element.copy(ElementField.TYPE, ElementField.REPETITION, ElementField.CHILDREN)
    shown.set(ElementField.NAME, thrift.BINARY, name.encode())
    if children is not None:
        shown.set(ElementField.CHILDREN, thrift.I32, children)
    if (physical := element.number(ElementField.TYPE, -1)) == Physical.INT96:  # in pages, both are twelve bytes
        shown.set(ElementField.TYPE, thrift.I32, Physical.FIXED_LEN_BYTE_ARRAY)
        shown.set(ElementField.WIDTH, thrift.I32, _INT96_BYTES)
    elif physical == Physical.FIXED_LEN_BYTE_ARRAY:  # other types may have a width without a meaning
        shown.set(ElementField.WIDTH, thrift.I32, element.number(ElementField.WIDTH))
    return shown


def _chunk(chunk: Struct) -> Struct:
    """Return a column chunk for ``_element``, without the statistics and filters, which depend on the meaning."""
    meta = chunk.struct(ChunkField.META).copy(
        MetaField.TYPE, MetaField.ENCODINGS, MetaField.PATH, MetaField.CODEC, MetaField.NUM_VALUES,
        MetaField.UNCOMPRESSED_BYTES, MetaField.COMPRESSED_BYTES, MetaField.DATA_PAGE, MetaField.DICTIONARY_PAGE,
    )  # fmt: skip
    if meta.number(MetaField.TYPE) == Physical.INT96:
        meta.set(MetaField.TYPE, thrift.I32, Physical.FIXED_LEN_BYTE_ARRAY)
    shown = chunk.copy(ChunkField.FILE_OFFSET)
    shown.set(ChunkField.META, thrift.STRUCT, meta)
    return shown


def _enumerations(key_values: Sequence[Struct]) -> frozenset[str]:
    """Return the names of columns that the Arrow schema declares as enumerations, if the file has such a schema."""
    for entry in key_values:
        if entry.text(1) == "ARROW:schema":
            try:
                schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry.text(2))))
            except (pa.ArrowException, ValueError, OSError):
                return frozenset()
            return frozenset(
                field.name for field in schema if any(key.startswith(_ENUMERATION) for key in field.metadata or ())
            )
    return frozenset()


def _columns(elements: Sequence[Struct]) -> tuple[list[Top], list[Leaf]]:
    """Return the columns of a schema, which is a tree in depth-first order."""
    if not elements:
        raise Malformed
    tops: list[Top] = []
    leaves: list[Leaf] = []
    at = 1
    for _ in range(elements[0].number(ElementField.CHILDREN, 0)):
        first, first_leaf = at, len(leaves)
        at = _walk(elements, at, (0, 0), leaves)
        repetition = elements[first].number(ElementField.REPETITION, Repetition.REQUIRED)
        name = elements[first].text(ElementField.NAME)
        tops.append(Top(name, range(first, at), range(first_leaf, len(leaves)), repetition))
    if at != len(elements):
        raise Malformed
    return tops, leaves


def _walk(elements: Sequence[Struct], at: int, levels: tuple[int, int], leaves: list[Leaf]) -> int:
    """Find the leaves from an element on. Return the position of the next element that is not inside this one."""
    if at >= len(elements) or levels[0] > thrift.MAX_DEPTH or levels[1] > thrift.MAX_DEPTH:
        raise Malformed
    element = elements[at]
    repetition = element.number(ElementField.REPETITION, Repetition.REQUIRED)
    levels = levels[0] + (repetition != Repetition.REQUIRED), levels[1] + (repetition == Repetition.REPEATED)
    if ElementField.TYPE in element:
        leaves.append(_leaf(element, *levels))
        return at + 1
    at += 1
    for _ in range(element.number(ElementField.CHILDREN)):
        at = _walk(elements, at, levels, leaves)
    return at


def _leaf(element: Struct, definition: int, repetition: int) -> Leaf:
    try:
        physical = Physical(element.number(ElementField.TYPE))
    except ValueError:
        raise Malformed from None
    width = element.number(ElementField.WIDTH) if physical == Physical.FIXED_LEN_BYTE_ARRAY else 0
    precision, scale = element.number(ElementField.PRECISION, 0), element.number(ElementField.SCALE, 0)
    kind = _PHYSICAL[physical]
    if ElementField.LOGICAL in element and (union := element.struct(ElementField.LOGICAL)).fields:
        number = next(iter(union.fields))
        kind, about = _LOGICAL.get(number, _UNKNOWN), union.struct(number)
        if kind == "int":
            kind = f"{'int' if about.flag(2) else 'uint'}{about.number(1)}"
        elif kind == "decimal":
            scale, precision = about.number(1), about.number(2)
    elif ElementField.CONVERTED in element:
        converted = element.number(ElementField.CONVERTED)
        kind = _CONVERTED[converted] if 0 <= converted < len(_CONVERTED) else _UNKNOWN
    elif width:
        kind = f"{kind}({width})"
    return Leaf(physical, width, kind, precision, scale, definition, repetition)

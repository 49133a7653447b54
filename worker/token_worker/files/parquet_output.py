"""Assemble a Parquet file from column chunks: copies of most chunks of another file, byte for byte, and new chunks.

Only the footer and the page index of a chunk know the position of the chunk. So a copied chunk keeps everything, also
parts that no library knows: encodings, statistics, filters, and types.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from token_worker.errors import CheckFailed, OperatorError
from token_worker.files import thrift
from token_worker.files.parquet_footer import (
    ASIDE,
    MAGIC,
    PAGES,
    ChunkField,
    FileField,
    Footer,
    GroupField,
    Leaf,
    MetaField,
    Physical,
    Top,
    framed,
    span,
)
from token_worker.files.thrift import Items, Struct

MAX_GROUP_ROWS = 1 << 26
"""Most rows that ``pyarrow`` writes into one row group."""

_BLOCK_BYTES = 1 << 20
_BLOOM_HEADER_BYTES = 256
"""Longer than the header of any Bloom filter."""

_CODECS: Final = {0: "NONE", 1: "SNAPPY", 2: "GZIP", 4: "BROTLI", 5: "LZ4", 6: "ZSTD", 7: "LZ4"}
_ENCODINGS: Final = frozenset({0, 2, 3, 4, 5, 6, 7, 8, 9})
"""Encodings that ``pyarrow`` reads."""

_NUMBERS = frozenset({Physical.INT32, Physical.INT64})
_ON_DEMAND: Final = {
    5: ("DELTA_BINARY_PACKED", _NUMBERS),
    6: ("DELTA_LENGTH_BYTE_ARRAY", {Physical.BYTE_ARRAY}),
    7: ("DELTA_BYTE_ARRAY", {Physical.BYTE_ARRAY, Physical.FIXED_LEN_BYTE_ARRAY}),
    9: ("BYTE_STREAM_SPLIT", {*_NUMBERS, Physical.FLOAT, Physical.DOUBLE, Physical.FIXED_LEN_BYTE_ARRAY}),
}
"""Encodings that ``pyarrow`` uses only on demand: their names, and the types that they are for."""

_OFFSET_INDEX: Final[int] = ChunkField.OFFSET_INDEX
_DICTIONARIES = frozenset({2, 8})
_DATA_PAGE_V2 = 3
_TYPE_DEFINED_ORDER = 1

_IN_ORDER = frozenset(
    {"boolean", "int8", "int16", "int32", "int64", "float", "double", "date", "time", "timestamp",
     "binary", "string", "enum", "json", "bson", "uuid"}
)  # fmt: skip
"""Kinds of values that are sorted like their physical type. Statistics of other kinds would be wrong."""


class Piece(NamedTuple):
    """A column chunk in a file.

    Attributes:
        chunk: its description in the footer.
        file: the file that holds it.
        slack: number of bytes after its end that may belong to it.
    """

    chunk: Struct
    file: BinaryIO
    slack: int = 0


class Output:
    """Writes a file.

    Args:
        file: takes the bytes.
        like: footer of a file with the same columns.
    """

    def __init__(self, file: BinaryIO, like: Footer) -> None:
        self._file = file
        self._like = like
        self._groups = Items(thrift.STRUCT)
        self._indexes: dict[ChunkField, list[tuple[Struct, bytes]]] = {start: [] for start, _ in ASIDE}
        self._at = 0
        self._write(MAGIC)

    def add(self, group: Struct, pieces: Iterable[Piece], rows: int, changed: frozenset[int]) -> None:
        """Add a row group like another one. ``changed`` are the leaves with new values, which are no longer sorted."""
        first = self._at
        chunks = Items(thrift.STRUCT)
        filters = []
        for piece in pieces:
            chunk = self._chunk(piece)
            chunks.append(chunk)
            if chunk.struct(ChunkField.META).number(MetaField.BLOOM_FILTER, 0):
                filters.append((piece.file, chunk.struct(ChunkField.META)))
        for file, meta in filters:
            self._filter(file, meta)
        metas = [chunk.struct(ChunkField.META) for chunk in chunks]
        shown = group.copy()
        shown.set(GroupField.COLUMNS, thrift.LIST, chunks)
        shown.set(GroupField.NUM_ROWS, thrift.I64, rows)
        shown.set(GroupField.TOTAL_BYTES, thrift.I64, sum(meta.number(MetaField.UNCOMPRESSED_BYTES) for meta in metas))
        for field, value in (
            (GroupField.FILE_OFFSET, first),
            (GroupField.COMPRESSED_BYTES, sum(meta.number(MetaField.COMPRESSED_BYTES) for meta in metas)),
            (GroupField.ORDINAL, len(self._groups)),
        ):
            if field in shown:
                shown.set(field, shown.fields[field][0], value)
        _unsort(shown, changed)
        self._groups.append(shown)

    def finish(self) -> None:
        """Write the indexes and the footer."""
        for start, length in ASIDE:
            for chunk, data in self._indexes[start]:
                chunk.set(start, thrift.I64, self._at)
                chunk.set(length, thrift.I32, len(data))
                self._write(data)
        struct = self._like.struct.copy()
        struct.set(FileField.ROW_GROUPS, thrift.LIST, self._groups)
        left_out = self._like.num_rows - sum(group.number(GroupField.NUM_ROWS) for group in self._groups)
        struct.set(FileField.NUM_ROWS, thrift.I64, max(0, struct.number(FileField.NUM_ROWS) - left_out))
        self._write(framed(struct))

    def _chunk(self, piece: Piece) -> Struct:
        """Copy a chunk. Return its description for the footer."""
        chunk, meta = piece.chunk.copy(), piece.chunk.struct(ChunkField.META).copy()
        chunk.set(ChunkField.META, thrift.STRUCT, meta)
        start, length = span(meta)
        shift = self._at - start
        for field in PAGES:
            if meta.number(field, 0) > 0:
                meta.set(field, thrift.I64, meta.number(field) + shift)
        if chunk.number(ChunkField.FILE_OFFSET, 0):
            chunk.set(ChunkField.FILE_OFFSET, thrift.I64, self._at)
        self._copy(piece.file, start, length + piece.slack)
        for place, size in ASIDE:
            if chunk.number(place, 0) and chunk.number(size, 0):
                data = _read(piece.file, chunk.number(place), chunk.number(size))
                self._indexes[place].append((chunk, _shifted(data, shift) if place == _OFFSET_INDEX else data))
        return chunk

    def _filter(self, file: BinaryIO, meta: Struct) -> None:
        """Copy a Bloom filter."""
        start = meta.number(MetaField.BLOOM_FILTER)
        length = meta.number(MetaField.BLOOM_FILTER_BYTES, 0)
        if not length:
            file.seek(start)
            header, end = thrift.read(file.read(_BLOOM_HEADER_BYTES))
            length = end + header.number(1)
        meta.set(MetaField.BLOOM_FILTER, thrift.I64, self._at)
        self._copy(file, start, length)

    def _copy(self, file: BinaryIO, start: int, length: int) -> None:
        while length > 0:
            data = _read(file, start, min(length, _BLOCK_BYTES))
            self._write(data)
            start += len(data)
            length -= len(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)


def check(footer: Footer, file: BinaryIO, named: Sequence[Top]) -> None:
    """Check that the named columns have a value for each row, and that rows of every column can be left out.

    Raises:
        CheckFailed: the file is damaged.
        OperatorError: ``pyarrow`` cannot read a column, or cannot write it with the same structure.
    """
    for number, group in enumerate(footer.groups):
        if group.number(GroupField.NUM_ROWS) > MAX_GROUP_ROWS:
            raise OperatorError(
                f"row group {number + 1} of the input has more rows than pyarrow can write: {MAX_GROUP_ROWS:,}"
            )
        for top in footer.tops:
            for chunk in footer.chunks(top, number):
                meta = chunk.struct(ChunkField.META)
                if top in named and meta.number(MetaField.NUM_VALUES) != group.number(GroupField.NUM_ROWS):
                    raise CheckFailed(f"the input is damaged: column {top.name} has more or fewer values than rows")
                codec = _CODECS.get(meta.number(MetaField.CODEC))
                if codec is None or (codec != "NONE" and not pa.Codec.is_available(codec.lower())):
                    raise OperatorError(f"column {top.name} is compressed in a way that pyarrow does not know")
                if not all(encoding in _ENCODINGS for encoding in meta.items(MetaField.ENCODINGS, thrift.I32)):
                    raise OperatorError(f"column {top.name} is encoded in a way that pyarrow does not know")
    for top in footer.tops:
        try:
            was = footer.view([top], [])
            written = _written(pq.ParquetFile(file, metadata=was, pre_buffer=False).schema_arrow)
            same = _shape(written) == _shape(was.schema)
        except (OperatorError, pa.ArrowException):
            same = False
        if not same:
            raise OperatorError(f"column {top.name} has a structure that pyarrow would write in another way")


def rewritten(table: Any, footer: Footer, top: Top, group: int) -> list[Piece]:
    """Write all rows of a column again, with the encodings and settings that a row group has."""
    likes, leaves = footer.chunks(top, group), footer.leaves[top.leaves.start : top.leaves.stop]
    orders = footer.struct.items(FileField.ORDERS, thrift.STRUCT)[top.leaves.start : top.leaves.stop]
    is_ordered = all(_TYPE_DEFINED_ORDER in order for order in orders)
    written = _written(table.schema)
    paths = [written.column(place).path for place in range(len(leaves))]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **_writer_options(likes, paths, leaves, is_ordered=is_ordered)) as writer:
        writer.write_table(table, row_group_size=table.num_rows)
    file = io.BytesIO(sink.getvalue())
    pieces = []
    for chunk, like in zip(Footer(file).groups[0].items(GroupField.COLUMNS, thrift.STRUCT), likes, strict=True):
        meta, was = chunk.struct(ChunkField.META), like.struct(ChunkField.META)
        for field in (MetaField.TYPE, MetaField.PATH, MetaField.KEY_VALUES):
            if field in was:
                meta.set(field, *was.fields[field])
        pieces.append(Piece(chunk, file))
    return pieces


def _writer_options(
    likes: Sequence[Struct], paths: Sequence[str], leaves: Sequence[Leaf], *, is_ordered: bool
) -> dict[str, Any]:
    """Return options for ``pyarrow``, so that new column chunks are written like the old ones."""
    metas = [like.struct(ChunkField.META) for like in likes]
    encodings = [meta.items(MetaField.ENCODINGS, thrift.I32) for meta in metas]
    dictionaries = [path for path, some in zip(paths, encodings, strict=True) if _DICTIONARIES.intersection(some)]
    on_demand = {
        path: _ON_DEMAND[number][0]
        for path, some, leaf in zip(paths, encodings, leaves, strict=True)
        for number in some
        if path not in dictionaries and number in _ON_DEMAND and leaf.physical in _ON_DEMAND[number][1]
    }
    stats = [meta.items(MetaField.ENCODING_STATS, thrift.STRUCT) for meta in metas]
    return {
        "version": "2.6",
        "store_schema": False,
        "compression": {path: _CODECS[meta.number(MetaField.CODEC)] for path, meta in zip(paths, metas, strict=True)},
        "use_dictionary": dictionaries,
        "column_encoding": on_demand or None,
        "write_statistics": [
            path
            for path, meta, leaf in zip(paths, metas, leaves, strict=True)
            if MetaField.STATISTICS in meta and is_ordered and _is_in_order(leaf)
        ],
        "data_page_version": "2.0"
        if any(stat.number(1) == _DATA_PAGE_V2 for some in stats for stat in some)
        else "1.0",
        "write_page_index": any(like.number(ChunkField.OFFSET_INDEX, 0) for like in likes),
    }


def _is_in_order(leaf: Leaf) -> bool:
    is_whole = leaf.kind == "decimal" and leaf.physical in _NUMBERS
    return leaf.kind in _IN_ORDER or is_whole or leaf.kind.startswith("fixed_size_binary")


def _written(schema: Any) -> Any:
    """Return the Parquet schema for an Arrow schema."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema, store_schema=False).close()
    return pq.read_metadata(pa.BufferReader(sink.getvalue())).schema


def _shape(schema: Any) -> list[tuple[Any, ...]]:
    """Return the parts of a schema that column chunks depend on."""
    leaves = (schema.column(place) for place in range(len(schema)))
    return [(leaf.physical_type, leaf.length, leaf.max_definition_level, leaf.max_repetition_level) for leaf in leaves]


def _unsort(group: Struct, changed: frozenset[int]) -> None:
    """Keep the declared order of rows, up to the first column whose values have changed."""
    kept = Items(thrift.STRUCT)
    for column in group.items(GroupField.SORTING, thrift.STRUCT):
        if column.number(1) in changed:
            break
        kept.append(column)
    if kept:
        group.set(GroupField.SORTING, thrift.LIST, kept)
    else:
        group.drop(GroupField.SORTING)


def _shifted(data: bytes, shift: int) -> bytes:
    """Return a page index for pages that have moved."""
    index, _ = thrift.read(data)
    for page in index.items(1, thrift.STRUCT):
        page.set(1, thrift.I64, page.number(1) + shift)
    return thrift.write(index)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) < length:
        raise CheckFailed("the input cannot be read: it is shorter than it was")
    return data

"""Parquet files with features that few writers use, made when a test asks for them."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from token_worker.files import thrift
from token_worker.files.parquet_footer import (
    MAGIC,
    PAGES,
    ChunkField,
    ElementField,
    FileField,
    Footer,
    GroupField,
    MetaField,
    framed,
)
from token_worker.files.thrift import Items, Struct

DUCKDB: Final = """
COPY (
    SELECT
        CASE WHEN i % 5 > 0 THEN 'name ' || i END AS text, i::INTEGER AS number, to_days(i::INTEGER) AS interval,
        TIMETZ '12:00:00+02' AS timetz, (4294967295 - i)::UINTEGER AS uint32,
        (18446744073709551615 - i)::UBIGINT AS uint64, (i % 100)::UTINYINT AS uint8,
        make_timestamp_ns(1000000000000000000 + i) AS ns,
        TIMESTAMPTZ '2026-01-01 00:00:00+00' AS stamp, i::HUGEINT AS huge, i::DECIMAL(18, 3) AS amount,
        uuid() AS uuid, ('POINT(' || i || ' 2)')::GEOMETRY AS shape,
        {'a': i, 'b': [i, NULL]} AS struct, MAP {'k': i} AS map, 'b' || (i % 3) AS few,
        CASE WHEN i % 2 > 0 THEN 'x' ELSE 'y' END::ENUM('x', 'y') AS enum, ('{"a":' || i || '}')::JSON AS json,
        i::BIT AS bits, ('\\x0' || (i % 9))::BLOB AS data
    FROM range(5000) AS t(i)
) TO '<path>' (FORMAT parquet, ROW_GROUP_SIZE 2048, KV_METADATA {made_by: 'duckdb'})
"""

GEOMETRY: Final = """
COPY (
    SELECT 'POINT(' || i || ' 2)' AS wkt,
        CASE i % 4 WHEN 0 THEN 'POINT EMPTY' WHEN 1 THEN 'POINT ZM(1 2 3 ' || i || ')'
            WHEN 2 THEN 'LINESTRING(0 0, ' || i || ' 9)' END::GEOMETRY AS shape
    FROM range(40) AS t(i)
) TO '<path>' (FORMAT parquet, GEOPARQUET_VERSION 'V2')
"""

ROWS: Final = range(40)
TEXTS: Final = [f"name {row}" if row % 5 else None for row in ROWS]
_LOGICAL_UNKNOWN: Final = 300
_CODEC_HADOOP_LZ4: Final = 5
_UNCOMPRESSED, _COMPRESSED = 2, 3
"""Fields of ``PageHeader``: bytes of the page."""


def asked_of_duckdb(query: str) -> Callable[[Path], None]:
    """Give a function that has DuckDB write a file."""

    def write(path: Path) -> None:
        duckdb.execute(query.replace("<path>", str(path)))

    return write


def write_pyarrow(path: Path) -> None:
    """Write all that pyarrow has for types and ways to write."""
    rows = range(3000)
    texts = [f"name {row}" if row % 5 else None for row in rows]
    table = pa.table(
        {
            "text": pa.array(texts).dictionary_encode(),
            "ns": pa.array([10**18 + row for row in rows], pa.timestamp("ns")),
            "zoned": pa.array(list(rows), pa.timestamp("us", "Europe/Berlin")),
            "time": pa.array(list(rows), pa.time64("ns")),
            "duration": pa.array(list(rows), pa.duration("ns")),
            "uint32": pa.array([2**32 - 1 - row for row in rows], pa.uint32()),
            "amount": pa.array(list(rows)).cast(pa.decimal128(25, 2)),
            "half": pa.array([float(row % 50) for row in rows], pa.float16()),
            "view": pa.array(texts, pa.string_view()),
            "large": pa.array(texts, pa.large_string()),
            "lists": pa.array([[row, None] if row % 4 else None for row in rows], pa.large_list(pa.int16())),
            "structs": pa.array([{"a": row, "b": [{"c": "x"}]} for row in rows]),
            "maps": pa.array([[("k", row)] for row in rows], pa.map_(pa.string(), pa.int64())),
            "fixed": pa.array([row.to_bytes(8, "big") for row in rows], pa.binary(8)),
            "delta": pa.array(list(rows), pa.int64()),
            "split": pa.array([float(row) for row in rows]),
            "nothing": pa.nulls(len(rows)),
        }
    ).replace_schema_metadata({"made by": "pyarrow"})
    pq.write_table(
        table, path, row_group_size=1000, compression={"ns": "zstd", "delta": "gzip", "text": "brotli"},
        use_dictionary=["text", "view"], column_encoding={"delta": "DELTA_BINARY_PACKED", "split": "BYTE_STREAM_SPLIT"},
        data_page_version="2.0", data_page_size=1000, write_page_index=True, write_page_checksum=True,
        sorting_columns=[pq.SortingColumn(1), pq.SortingColumn(0)],
    )  # fmt: skip


def write_sorted(path: Path) -> None:
    """Write row groups that are sorted by a number, downwards, and then by a text."""
    table = pa.table({"a": pa.array(ROWS[::-1], pa.int64()), "b": [f"b{row}" for row in ROWS]})
    order = [pq.SortingColumn(0, descending=True, nulls_first=True), pq.SortingColumn(1)]
    pq.write_table(table, path, row_group_size=16, sorting_columns=order)


def write_chunk_metadata(path: Path) -> None:
    """Write column chunks that have metadata of their own, one with a key that has no value."""
    pq.write_table(pa.table({"a": pa.array(ROWS, pa.int32()), "b": TEXTS}), path)
    entries = Items(thrift.STRUCT, [_strings(b"made by", b"a test"), _strings(b"no value")])

    def add(footer: Footer) -> None:
        for meta in metas(footer):
            meta.set(MetaField.KEY_VALUES, thrift.LIST, entries)

    changed(path, add)


def write_unknown_type(path: Path) -> None:
    """Write a column whose logical type is of a later version of the format."""
    pq.write_table(pa.table({"a": TEXTS, "b": [b"%d" % row for row in ROWS]}), path, store_schema=False)
    later = Struct({_LOGICAL_UNKNOWN: (thrift.STRUCT, Struct())})
    changed(
        path,
        lambda footer: footer.struct.items(FileField.SCHEMA, thrift.STRUCT)[2].set(
            ElementField.LOGICAL, thrift.STRUCT, later
        ),
    )


def write_short_lengths(path: Path) -> None:
    """Write column chunks as parquet-mr before 1.2.9 did: their lengths leave out the header of the dictionary."""
    names = [b"a name %d" % row for row in range(4)]
    table = pa.table({"number": pa.array(ROWS, pa.int32()), "name": names * 10, "other": TEXTS})
    pq.write_table(table, path, compression="NONE", write_statistics=False, store_schema=False)
    data = path.read_bytes()

    def shorten(footer: Footer) -> None:
        footer.struct.set(FileField.CREATED_BY, thrift.BINARY, b"parquet-mr version 1.2.8")
        for meta in metas(footer):
            start = meta.number(MetaField.DICTIONARY_PAGE)
            header = thrift.read(data, start)[1] - start
            meta.set(MetaField.COMPRESSED_BYTES, thrift.I64, meta.number(MetaField.COMPRESSED_BYTES) - header)

    changed(path, shorten)


def write_hadoop_lz4(path: Path) -> None:
    """Write LZ4 with Hadoop's lengths before each block, which newer writers leave out."""
    table = pa.table({"a": pa.array(ROWS, pa.int64()), "b": TEXTS, "c": [row / 2 for row in ROWS]})
    pq.write_table(table, path, compression="LZ4", store_schema=False)
    data = path.read_bytes()
    with path.open("rb") as file:
        footer = Footer(file)
    out = bytearray(MAGIC)
    for meta in metas(footer):
        at = min(meta.number(field) for field in PAGES if field in meta)
        end, first = at + meta.number(MetaField.COMPRESSED_BYTES), len(out)
        while at < end:
            for field in PAGES:
                if meta.number(field, 0) == at:
                    meta.set(field, thrift.I64, len(out))
                    break
            page, at = thrift.read(data, at)
            size = page.number(_COMPRESSED)
            page.set(_COMPRESSED, thrift.I32, size + 8)
            out += thrift.write(page) + page.number(_UNCOMPRESSED).to_bytes(4, "big") + size.to_bytes(4, "big")
            out += data[at : at + size]
            at += size
        meta.set(MetaField.COMPRESSED_BYTES, thrift.I64, len(out) - first)
        meta.set(MetaField.CODEC, thrift.I32, _CODEC_HADOOP_LZ4)
    path.write_bytes(bytes(out) + framed(footer.struct))


class _Keys(encryption.KmsClient):  # type: ignore[misc]  # pyarrow has no types
    """Keeps keys as they are: these files are only ever refused."""

    def wrap_key(self, key_bytes: bytes, _master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, _master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


def write_encrypted(path: Path, *, plaintext_footer: bool) -> None:
    """Write a column with a key of its own; the footer is encrypted, or it is signed."""
    table = pa.table({"a": TEXTS, "b": ROWS})
    config = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["a"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(lambda _config: _Keys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def changed(path: Path, by: Callable[[Footer], object]) -> None:
    """Change the footer of a file."""
    with path.open("rb") as file:
        footer = Footer(file)
    by(footer)
    path.write_bytes(path.read_bytes()[: footer.end] + framed(footer.struct))


def metas(footer: Footer) -> list[Struct]:
    """Give what is said of each column chunk, in the order in which they are stored."""
    chunks = (chunk for group in footer.groups for chunk in group.items(GroupField.COLUMNS, thrift.STRUCT))
    return [chunk.struct(ChunkField.META) for chunk in chunks]


def _strings(*values: bytes) -> Struct:
    """A structure of texts, with fields from 1 on."""
    return Struct({number: (thrift.BINARY, value) for number, value in enumerate(values, 1)})


MADE: Final[dict[str, Callable[[Path], Any]]] = {
    "duckdb": asked_of_duckdb(DUCKDB),
    "geometry": asked_of_duckdb(GEOMETRY),
    "pyarrow": write_pyarrow,
    "sorted": write_sorted,
    "chunk-metadata": write_chunk_metadata,
    "unknown-type": write_unknown_type,
    "short-lengths": write_short_lengths,
    "hadoop-lz4": write_hadoop_lz4,
}
"""Files by name, each with the function that writes it."""

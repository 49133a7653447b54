"""Files as other programs write them go through ``token-worker file`` with all but the named column as it was.

DuckDB and pyarrow, which know nothing of the product, say what is in a file before and after.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from harness.parquet_files import MADE
from token_worker.client import Answer
from token_worker.client.errors import refusal
from token_worker.contract.messages import Op
from token_worker.errors import Code
from token_worker.files.columns import Column, SentItem
from token_worker.files.job import Job
from token_worker.files.output_paths import OutputPaths
from token_worker.files.progress import JobOptions

FILES = Path(__file__).parents[2] / "parquet"

NAMED = {
    "duckdb": ("text", "str"),
    "geometry": ("wkt", "str"),
    "pyarrow": ("text", "str"),
    "sorted": ("a", "int64"),
    "chunk-metadata": ("a", "int32"),
    "unknown-type": ("a", "str"),
    "short-lengths": ("number", "int32"),
    "hadoop-lz4": ("a", "int64"),
    "fastparquet": ("text", "str"),
    "pandas": ("text", "str"),
    "polars": ("text", "str"),
    "parquet-java-append": ("string", "str"),
    "parquet-java-empty-row-group": ("a", "int32"),
    "alltypes_dictionary": ("id", "int32"),
    "alltypes_plain": ("id", "int32"),
    "cluster_test_table_2.snappy": ("varchar", "str"),
    "data_index_bloom_encoding_stats": ("String", "str"),
    "datapage_v2.snappy": ("a", "str"),
    "delta_encoding_optional_column": ("c_customer_sk", "int64"),
    "delta_encoding_required_column": ("c_customer_sk:", "int32"),
    "delta_length_byte_array": ("FRUIT", "str"),
    "dms_test_table_LOAD00000001": ("my_text", "str"),
    "empty": ("value", "int32"),
    "lz4_raw_compressed": ("c0", "int64"),
    "nested_lists.snappy": ("b", "int32"),
    "nested_maps.snappy": ("b", "int32"),
    "null_columns": ("name", "str"),
    "nullable.impala": ("id", "int64"),
    "repeated_no_annotation": ("id", "int32"),
    "shredded_variant-case-045": ("id", "int32"),
}
"""A file, and which of its columns is tokenized."""

ROWS = 5000
DUCK = duckdb.connect(config={"threads": 1})

SCHEMA = "SELECT * EXCLUDE (file_name) FROM parquet_schema('{}')"
KEY_VALUES = "SELECT * EXCLUDE (file_name) FROM parquet_kv_metadata('{}')"
FILE = "SELECT * EXCLUDE (file_name, footer_size, file_size_bytes) FROM parquet_file_metadata('{}')"
CHUNKS = """SELECT * EXCLUDE (
    file_name, file_offset, index_page_offset, dictionary_page_offset, data_page_offset, bloom_filter_offset,
    column_index_offset, offset_index_offset, offset_index_length, row_group_bytes, row_group_compressed_bytes
) FROM parquet_metadata('{}')"""
"""All that is said of column chunks but where they are."""


class Reversing:
    """Reverses texts and flips numbers, so that the same again turns it back; refuses every third if asked."""

    def __init__(self, *, losing: bool) -> None:
        self._losing = losing
        self._count = 0

    def submit(self, _op: Op, items: Sequence[SentItem], *, mark_other: bool) -> Future[list[Answer]]:
        future: Future[list[Answer]] = Future()
        future.set_result([self._answer(value) for _, value, *_ in items])
        return future

    def _answer(self, value: Any) -> Answer:
        self._count += 1
        if self._losing and self._count % 3 == 0:
            return refusal(Code.INVALID_EMAIL, "a reason")
        return ~value if isinstance(value, int) else value[::-1]


def written(name: str, folder: Path) -> Path:
    """A file that is there, or that is made now."""
    path = folder / "in.parquet"
    if name in MADE:
        MADE[name](path)
    else:
        path.write_bytes((FILES / f"{name}.parquet").read_bytes())
    return path


def through(source: Path, out: Path, column: tuple[str, str], *, losing: bool = False) -> set[int]:
    """Take a file through; numbers of the rows that were left out."""
    places = OutputPaths(out, out.with_suffix(".errors"))
    options = JobOptions(op=Op.TOKENIZE, columns=(Column(*column),), format="parquet", errors=str(places.errors))
    job = Job(options, Reversing(losing=losing), stopping=threading.Event(), wait_seconds=1)
    counts = job.run(source, places, resume=False, force=False)
    lines = (out.with_suffix(".errors")).read_bytes().splitlines()
    assert counts.lost == len(lines)
    return {msgspec.json.decode(line)["row"] for line in lines}


def answer(query: str, *paths: Path) -> Any:
    """The answer of DuckDB."""
    return DUCK.execute(query.format(*paths)).fetchall()


def rows(path: Path, column: str) -> list[tuple[Any, ...]]:
    """All but a column, by DuckDB; each row with its number."""
    query = f"SELECT * EXCLUDE (\"{column}\") FROM read_parquet('{{}}', file_row_number = true)"  # noqa: S608
    return [(row[-1] + 1, repr(row[:-1])) for row in answer(query, path)]


@pytest.mark.parametrize("name", NAMED)
def test_all_but_the_column_is_as_it_was(tmp_path: Path, name: str) -> None:
    """Schema, metadata, row groups, and of every other column types, encodings, statistics and sizes."""
    source, out = written(name, tmp_path), tmp_path / "out.parquet"
    column = NAMED[name]
    assert not through(source, out, column)
    for query in (SCHEMA, KEY_VALUES, FILE, f"{CHUNKS} WHERE path_in_schema <> '{column[0]}'"):
        assert repr(answer(query, out)) == repr(answer(query, source)), query
    assert rows(out, column[0]) == rows(source, column[0])
    before, after = pq.ParquetFile(source), pq.ParquetFile(out)
    assert after.schema.equals(before.schema)
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)


@pytest.mark.parametrize("name", NAMED)
def test_detokenized_table_is_the_original_one(tmp_path: Path, name: str) -> None:
    """The detokenized table is the original one, with the same types."""
    source, out, back = written(name, tmp_path), tmp_path / "out.parquet", tmp_path / "back.parquet"
    column = NAMED[name]
    through(source, out, column)
    through(out, back, column)
    query = "SELECT {0} FROM read_parquet('{1}')"
    values = [repr(answer(query.format(f'"{column[0]}"', path))) for path in (source, out, back)]
    assert values[0] == values[2]
    assert values[0] != values[1] or not rows(source, column[0])
    tables = [pq.read_table(path, columns=[column[0]]) for path in (source, back)]
    assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
    assert tables[0].to_pylist() == tables[1].to_pylist()


@pytest.mark.parametrize("name", NAMED)
def test_rows_are_left_out_of_any_column(tmp_path: Path, name: str) -> None:
    """A row that cannot be done takes its cells of all columns along, whatever these are; schema and metadata stay."""
    source, out = written(name, tmp_path), tmp_path / "out.parquet"
    column = NAMED[name]
    lost = through(source, out, column, losing=True)
    assert [text for _, text in rows(out, column[0])] == [
        text for number, text in rows(source, column[0]) if number not in lost
    ]
    compression = "SELECT DISTINCT path_in_schema, type, compression FROM parquet_metadata('{}') ORDER BY ALL"
    for query in (SCHEMA, KEY_VALUES, compression):
        if answer(query, out) or lost != {number for number, _ in rows(source, column[0])}:
            was, now = (repr(answer(query, path)).replace("'LZ4_RAW'", "'LZ4'") for path in (source, out))
            assert now == was, query
    before, after = pq.ParquetFile(source), pq.ParquetFile(out)
    assert after.schema.equals(before.schema)
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)


@pytest.mark.parametrize("losing", [False, True])
def test_readers_that_skip_find_all(tmp_path: Path, losing: bool) -> None:
    """Statistics, Bloom filters and indexes of pages hide no row from who reads by them."""
    source, out = written("duckdb", tmp_path), tmp_path / "out.parquet"
    lost = through(source, out, NAMED["duckdb"], losing=losing)
    numbers = [number for number in (1, 2000, 2049, 4999) if number not in lost]
    assert numbers
    for number in numbers:
        row = number - 1
        for condition in (
            f"number = {row}", f"uint32 = {4294967295 - row}", f"uint64 = {18446744073709551615 - row}",
            f"interval = to_days({row})", f"amount = {row}", f"huge = {row}", f"few = 'b{row % 3}' AND number = {row}",
            f"ns = make_timestamp_ns({10**18 + row})",
        ):  # fmt: skip
            query = f"SELECT count(*) FROM read_parquet('{{}}') WHERE {condition}"  # noqa: S608
            assert answer(query, out) == [(1,)], condition
    query = "SELECT count(*) FROM read_parquet('{}') WHERE few = 'b1'"
    assert answer(query, out) == [(sum(number % 3 == 2 and number not in lost for number in range(1, ROWS + 1)),)]


def test_no_value_is_left_between_columns(tmp_path: Path) -> None:
    """If a writer gave wrong lengths, and more bytes are copied, none of them belong to the named column."""
    source, out = written("short-lengths", tmp_path), tmp_path / "out.parquet"
    values = pq.read_table(source).column("name").to_pylist()
    assert all(value in source.read_bytes() for value in values)
    through(source, out, ("name", "bytes"))
    assert not [value for value in values if value in out.read_bytes()]
    assert pq.read_table(out).column("other").equals(pq.read_table(source).column("other"))

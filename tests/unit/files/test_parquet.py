"""Parquet in ``token-worker file``: other columns keep their bytes, and unknown features are refused by name."""

import datetime as dt
import decimal
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import file_kills
from harness.parquet_files import changed, write_encrypted
from token_worker.client import Answer
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError, TokenWorkerError
from token_worker.files.columns import Column, SentItem
from token_worker.files.job import Job
from token_worker.files.output_paths import OutputPaths
from token_worker.files.parquet_footer import ChunkField, Footer, GroupField, MetaField
from token_worker.files.progress import Counts, JobOptions
from token_worker.files.thrift import Items, Struct

FILES = Path(__file__).parents[2] / "parquet"
TIMES = pa.array([dt.datetime(2020, 1, 1)] * 4)  # noqa: DTZ001 - without a zone, as INT96 is
VALUES = ["one", "two", "3", None]


def through(folder: Path, table: Any, *, column: str = "a", **manner: Any) -> tuple[Counts, Any]:
    """A table written in this manner, taken through; what became of it."""
    source, places = folder / "in.parquet", OutputPaths(folder / "out.parquet", folder / "errors")
    pq.write_table(table, source, **manner)
    options = JobOptions(op=Op.TOKENIZE, columns=(Column(column, "str"),), format="parquet", errors=str(places.errors))
    job = Job(options, file_kills.Client(), stopping=threading.Event(), wait_seconds=1)
    return job.run(source, places, resume=False, force=False), pq.ParquetFile(places.out)


@pytest.mark.parametrize(
    ("other", "manner"),
    [
        (TIMES, {"use_deprecated_int96_timestamps": True}),
        (TIMES, {}),
        (pa.array([decimal.Decimal("1.5")] * 4), {"store_decimal_as_integer": True}),
        (pa.array([decimal.Decimal("1.5")] * 4), {}),
        (pa.array(["x"] * 4, pa.string_view()), {}),
        (pa.array(["x"] * 4).dictionary_encode(), {"version": "1.0"}),
        (pa.array([{"a": ["x"]}] * 4), {"store_schema": False}),
    ],
)
def test_other_columns_are_stored_as_they_were(tmp_path: Path, other: Any, manner: dict[str, Any]) -> None:
    """Types are those of the input, also how they are stored: timestamps of 96 bits, decimals as whole numbers."""
    table = pa.table({"a": VALUES, "other": other})
    counts, out = through(tmp_path, table, **manner)
    assert counts.lost == 0
    before = pq.ParquetFile(tmp_path / "in.parquet")
    assert [*out.schema] == [*before.schema]
    assert out.read().column("other").equals(before.read().column("other"))
    assert out.read().column("a").to_pylist() == ["eno", "owt", "3", None]


def test_a_column_may_have_any_name(tmp_path: Path) -> None:
    """A column may have a name that the code uses for a column of its own."""
    _, out = through(tmp_path, pa.table({"done": VALUES, "a": VALUES}), column="done")
    assert out.read().to_pydict() == {"done": ["eno", "owt", "3", None], "a": VALUES}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_that_is_none_costs_its_row(tmp_path: Path, kind: Any) -> None:
    """A file may say text where there are other bytes."""
    data = pa.array([b"one", b"\xff", None, b""], pa.binary() if kind == pa.string() else pa.large_binary())
    column = pa.Array.from_buffers(kind, 4, data.buffers())
    counts, out = through(tmp_path, pa.table({"a": column}))
    assert counts.problems == {"wrong_encoding": 1}
    assert out.read().to_pydict() == {"a": ["eno", None, ""]}


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.binary_view(), pa.decimal128(30, 3)])
def test_a_row_is_left_out_beside_any_type(tmp_path: Path, kind: Any) -> None:
    """Rows are left out, also beside a column whose type pyarrow cannot filter by itself."""
    values = pa.array([decimal.Decimal(1), 2]) if pa.types.is_decimal(kind) else pa.array(["x", "y"])
    counts, out = through(tmp_path, pa.table({"a": ["7", "x"], "other": values.cast(kind)}))
    assert counts.problems == {"invalid_email": 1}
    assert out.read().column("other").combine_chunks().equals(values[1:].cast(kind))


class Tokens:
    """Gives other values of the same types, and counts those that were sent."""

    def __init__(self) -> None:
        self.sent: list[SentItem] = []

    def submit(self, _op: Op, items: Sequence[SentItem], *, mark_other: bool) -> Future[list[Answer]]:
        self.sent += items
        future: Future[list[Answer]] = Future()
        future.set_result([~value if isinstance(value, int) else value[::-1] for _, value, *_ in items])
        return future


def run(source: Path, out: Path, kind: str, client: Tokens, *, column: str = "a") -> Counts:
    """Take a column through."""
    options = JobOptions(op=Op.TOKENIZE, columns=(Column(column, kind),), format="parquet")
    return Job(options, client, stopping=threading.Event(), wait_seconds=1).run(
        source, OutputPaths(out, None), resume=False, force=True
    )


TEXTS = ["one", None, "", "two"]
NUMBERS = [1, None, 0, 2**31 - 1]
DATA = [b"0123456789abcdef", None, b"fedcba9876543210", bytes(range(16))]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *(("str", pa.array(TEXTS, form)) for form in (pa.string(), pa.large_string(), pa.string_view())),
        ("email", pa.array(TEXTS).dictionary_encode()),
        ("str", pa.array(TEXTS, pa.large_string()).dictionary_encode()),
        *(("bytes", pa.array(DATA, form)) for form in (pa.binary(), pa.large_binary(), pa.binary_view())),
        *(("bytes", pa.array(DATA, form)) for form in (pa.binary(16), pa.uuid())),
        ("bytes", pa.array(DATA).dictionary_encode()),
        ("int32", pa.array(NUMBERS, pa.int32()).dictionary_encode()),
        *(("int32", pa.array(NUMBERS, form)) for form in (pa.int32(), pa.int64())),
        *(("int32", pa.array(NUMBERS, pa.int64()).cast(pa.decimal128(form))) for form in (19, 38)),
        ("int64", pa.array([2**63 - 1, None, -(2**63), 5], pa.int64())),
        *(("int64", pa.array([10**15, None, -7, 5]).cast(pa.decimal128(form))) for form in (19, 38)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("decimals", [False, True])
def test_a_column_of_any_type_that_holds_tokens(tmp_path: Path, kind: str, values: Any, decimals: bool) -> None:
    """Tokens have the type of their column, and detokenizing gives the same table."""
    source, out, back = (tmp_path / name for name in ("in", "out", "back"))
    pq.write_table(pa.table({"a": values, "b": range(4)}), source, store_decimal_as_integer=decimals)
    for path, to in ((source, out), (out, back)):
        assert run(path, to, kind, Tokens()).lost == 0
    before, after = pq.read_table(source), pq.read_table(out)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert pq.ParquetFile(out).schema.equals(pq.ParquetFile(source).schema)
    assert pq.read_table(back).equals(before, check_metadata=True)
    for was, now in zip(before.column("a").to_pylist(), after.column("a").to_pylist(), strict=True):
        expected = was if not was and not isinstance(was, int | decimal.Decimal) else None
        assert now == expected if expected is not None or was is None else now != was


def test_a_number_beyond_its_type_costs_its_row(tmp_path: Path) -> None:
    """A column may hold more than the type of its tokens."""
    pq.write_table(
        pa.table({"a": pa.array([2**31, 5]), "d": pa.array([10**30, 5], pa.decimal128(38))}), tmp_path / "in"
    )
    for column, kind in (("a", "int32"), ("d", "int64")):
        counts = run(tmp_path / "in", tmp_path / "out", kind, Tokens(), column=column)
        assert counts.problems == {"value_out_of_range": 1}
        assert pq.read_table(tmp_path / "out").column(column).to_pylist() == [-6]


@pytest.mark.parametrize(
    ("kind", "values", "complaint"),
    [
        *(("int32", pa.array([1], form), f"a is {form}, which does not hold all tokens of type int32; int32, int64 and")
          for form in (pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
        ("int64", pa.array([1], pa.uint64()), "a is uint64, which does not hold all tokens of type int64; int64 and"),
        ("int64", pa.array([1], pa.int32()), "a is int32, which does not hold"),
        ("int64", pa.array([1]).cast(pa.decimal128(19, 0)).cast(pa.decimal128(18, 0)), r"a is decimal\(18, 0\), which"),
        ("int64", pa.array([1]).cast(pa.decimal128(38, 2)), r"a is decimal\(38, 2\), which does not hold"),
        ("str", pa.array([1]), "a is int64, and tokens of type str are not"),
        ("int64", pa.array([1], pa.timestamp("ns")), "a is timestamp, and"),
        ("int64", pa.array([True]), "a is boolean, and"),
        ("str", pa.array([b"x"]), "a is binary, and"),
        ("bytes", pa.array(["x"]), "a is string, and"),
        ("bytes", pa.array([1.0], pa.float16()), "a is float16, and"),
        ("str", pa.array([["x"]]), "a is nested, and"),
        ("str", pa.array([{"b": "x"}]), "a is nested, and"),
        ("str", pa.nulls(1), "a is null, and"),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_that_does_not_hold_tokens(tmp_path: Path, kind: str, values: Any, complaint: str) -> None:
    """Such a column is refused by its name and type, before anything is sent, and no file is left."""
    pq.write_table(pa.table({"a": values}), tmp_path / "in")
    client = Tokens()
    with pytest.raises(OperatorError, match=f"column {complaint}"):
        run(tmp_path / "in", tmp_path / "out", kind, client)
    assert not client.sent
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_enumeration_of_polars(tmp_path: Path) -> None:
    """An enumeration is refused, because polars would read the tokens as null."""
    with pytest.raises(OperatorError, match="column enum is an enumeration, and tokens of type str are not"):
        run(FILES / "polars.parquet", tmp_path / "out", "str", Tokens(), column="enum")


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_encrypted_files_are_refused(tmp_path: Path, plaintext_footer: bool) -> None:
    """The error says that the file is encrypted."""
    write_encrypted(tmp_path / "in", plaintext_footer=plaintext_footer)
    with pytest.raises(OperatorError, match="the input is encrypted Parquet"):
        run(tmp_path / "in", tmp_path / "out", "str", Tokens())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("byte_array_decimal", r"decimal\(4, 2\)"),
        ("fixed_length_decimal", r"decimal\(25, 2\)"),
        ("fixed_length_decimal_legacy", r"decimal\(13, 2\)"),
        ("int32_decimal", r"decimal\(4, 2\)"),
        ("int64_decimal", r"decimal\(10, 2\)"),
    ],
)
def test_decimals_with_a_fraction_are_refused_however_stored(tmp_path: Path, name: str, complaint: str) -> None:
    """The error names the decimal type, which does not depend on the form of the stored values."""
    with pytest.raises(
        OperatorError, match=f"column value is {complaint}, which does not hold all tokens of type int64"
    ):
        run(FILES / f"{name}.parquet", tmp_path / "out", "int64", Tokens(), column="value")


def test_lists_of_other_writers(tmp_path: Path) -> None:
    """Lists of any writer are refused as nested."""
    with pytest.raises(OperatorError, match="column int64_list is nested"):
        run(FILES / "list_columns.parquet", tmp_path / "out", "int64", Tokens(), column="int64_list")


def meta(footer: Footer, leaf: int) -> Struct:
    """The metadata of the first chunk of a column."""
    return footer.chunks(footer.tops[leaf], 0)[0].struct(ChunkField.META)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda footer: meta(footer, 1).set(MetaField.CODEC, 5, 3), "column b is compressed in a way"),
        (lambda footer: meta(footer, 1).set(MetaField.ENCODINGS, 9, Items(5, [77])), "column b is encoded in a way"),
        (lambda footer: meta(footer, 1).set(MetaField.COMPRESSED_BYTES, 6, 1 << 40), "columns are outside"),
        (lambda footer: footer.chunks(footer.tops[0], 0)[0].set(1, 8, b"x"), "only names other files"),
        (
            lambda footer: footer.groups[0].set(GroupField.NUM_ROWS, 6, 1 << 27),
            "more rows than pyarrow can write: 67,108,864",
        ),
        (lambda footer: footer.groups[0].set(GroupField.NUM_ROWS, 6, 5), "more or fewer values than rows"),
        (lambda footer: footer.groups[0].set(GroupField.COLUMNS, 9, Items(12)), "not a Parquet file"),
    ],
)
def test_what_cannot_be_done_is_told_at_the_start(
    tmp_path: Path, change: Callable[[Footer], object], complaint: str
) -> None:
    """The footer is checked before anything is sent."""
    pq.write_table(pa.table({"a": ["x", "y", "z"], "b": range(3)}), tmp_path / "in")
    changed(tmp_path / "in", change)
    client = Tokens()
    with pytest.raises((OperatorError, CheckFailed), match=complaint):
        run(tmp_path / "in", tmp_path / "out", "str", client)
    assert not client.sent
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_rows_are_not_said_to_be_in_order_of_tokens(tmp_path: Path) -> None:
    """The order of rows is kept in the metadata up to the first column with other values."""
    order = [pq.SortingColumn(place) for place in range(3)]
    pq.write_table(pa.table({"b": [1, 1], "a": ["x", "y"], "c": [1, 2]}), tmp_path / "in", sorting_columns=order)
    run(tmp_path / "in", tmp_path / "out", "str", Tokens())
    assert pq.read_metadata(tmp_path / "out").row_group(0).sorting_columns == (order[0],)


def test_statistics_of_what_is_written_anew_are_right_or_missing(tmp_path: Path) -> None:
    """If a row is left out, columns with another order than that of their storage lose their statistics."""
    table = pa.table(
        {
            "a": ["7", "x", "y"],
            "number": [5, 6, 7],
            "unsigned": pa.array([1, 2**32 - 1, 3], pa.uint32()),
            "amount": pa.array([-1, -2, 3]).cast(pa.decimal128(20)),
        }
    )
    _, out = through(tmp_path, table)
    stats = [out.metadata.row_group(0).column(place).statistics for place in range(4)]
    assert (stats[1].min, stats[1].max) == (6, 7)
    assert stats[2] is stats[3] is None


def test_a_footer_of_noise_is_told(tmp_path: Path) -> None:
    """With any changed byte of a footer, the run succeeds or ends with one line, and never with a traceback."""
    path = tmp_path / "in"
    pq.write_table(pa.table({"a": ["x", "y"], "b": [["x"], []], "c": range(2)}), path, write_page_index=True)
    with path.open("rb") as file:
        end = Footer(file).end
    data = bytearray(path.read_bytes())
    generator = random.Random(1)
    outcomes = set()
    for _ in range(150):
        noisy = bytearray(data)
        for _ in range(generator.choice((1, 1, 1, 3))):
            noisy[generator.randrange(end, len(data) - 8)] = generator.randrange(256)
        path.write_bytes(noisy)
        try:
            run(path, tmp_path / "out", "str", Tokens())
            outcomes.add("done")
        except TokenWorkerError as error:
            outcomes.add(type(error).__name__)
    assert {"done", "OperatorError"} <= outcomes

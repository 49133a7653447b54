"""Parquet in ``token-worker file``: what other columns are made of stays, and what no reader knows is told."""

import datetime as dt
import decimal
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import file_kills
from token_worker.contract.messages import Op
from token_worker.errors import Finding
from token_worker.files.job import Job, Places
from token_worker.files.progress import Asked, Counts

TIMES = pa.array([dt.datetime(2020, 1, 1)] * 4)  # noqa: DTZ001 - without a zone, as INT96 is
VALUES = ["one", "two", "3", None]


def through(folder: Path, table: Any, *, column: str = "a", **manner: Any) -> tuple[Counts, Any]:
    """A table written in this manner, taken through; what became of it."""
    source, places = folder / "in.parquet", Places(folder / "out.parquet", folder / "errors")
    pq.write_table(table, source, **manner)
    asked = Asked(op=Op.TOKENIZE, columns=((column, "str"),), form="parquet", errors=str(places.errors))
    job = Job(asked, file_kills.Client(), stopping=threading.Event(), wait_seconds=1)
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
    """Also one that this has for itself."""
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


def test_what_cannot_be_filtered_is_told(tmp_path: Path) -> None:
    """A type that the library writes and cannot leave rows out of ends the run in a line, where a row is left out."""
    table = pa.table({"a": ["x", "7"], "other": pa.array(["x"] * 2, pa.string_view())})
    with pytest.raises(Finding, match="the output cannot be written"):
        through(tmp_path, table)

"""Writes tests/parquet/{pandas,polars,fastparquet}.parquet, so that tests need none of these three.

Run ``python make_parquet_files.py FOLDER`` in an environment that has them and pyarrow. Each file has text in ``text``,
whole numbers in ``number``, and beside these whatever the writer has a type of its own for.
"""

import datetime as dt
import decimal
import sys
from pathlib import Path

import fastparquet
import pandas as pd
import polars as pl

ROWS = 40
TEXTS = [f"name {row}" if row % 5 else None for row in range(ROWS)]
TIMES = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=row) for row in range(ROWS)]


def write_pandas(path: Path) -> None:
    """Write an index with a name, categories, nanoseconds, zones, periods of time and nullable integers."""
    frame = pd.DataFrame(
        {
            "text": pd.Categorical(TEXTS),
            "number": range(ROWS),
            "plain": TEXTS,
            "ordered": pd.Categorical(["low", "high"] * (ROWS // 2), categories=["low", "high"], ordered=True),
            "nanoseconds": pd.to_datetime([10**18 + row for row in range(ROWS)]),
            "zoned": pd.to_datetime(TIMES).tz_convert("Europe/Berlin"),
            "duration": pd.to_timedelta(list(range(ROWS)), unit="ns"),
            "small": pd.array([row if row % 3 else None for row in range(ROWS)], dtype="UInt8"),
            "flag": [row % 2 == 0 for row in range(ROWS)],
        },
        index=pd.Index([row * 7 for row in range(ROWS)], name="key"),
    )
    frame.attrs = {"made by": "pandas"}
    frame.to_parquet(path)


def write_polars(path: Path) -> None:
    """Write views, categories, enumerations, decimals, lists, structures, times of day and nanoseconds."""
    frame = pl.DataFrame(
        {
            "text": TEXTS,
            "number": pl.Series(range(ROWS), dtype=pl.Int32),
            "category": pl.Series(["a", "b"] * (ROWS // 2), dtype=pl.Categorical),
            "enum": pl.Series(["x", "y"] * (ROWS // 2), dtype=pl.Enum(["x", "y"])),
            "unsigned": pl.Series([2**32 - 1 - row for row in range(ROWS)], dtype=pl.UInt32),
            "tiny": pl.Series(range(ROWS), dtype=pl.Int8),
            "amount": pl.Series([decimal.Decimal(f"{row}.25") for row in range(ROWS)], dtype=pl.Decimal(12, 2)),
            "nanoseconds": pl.Series([10**18 + row for row in range(ROWS)], dtype=pl.Int64).cast(pl.Datetime("ns")),
            "duration": pl.Series(range(ROWS), dtype=pl.Int64).cast(pl.Duration("us")),
            "time": [dt.time(row % 24, 1, 2) for row in range(ROWS)],
            "data": [bytes([row]) for row in range(ROWS)],
            "list": [[row, None] if row % 3 else None for row in range(ROWS)],
            "struct": [{"a": row, "b": [f"{row}"]} for row in range(ROWS)],
        }
    )
    frame.write_parquet(path, row_group_size=16, metadata={"made by": "polars"})


def write_fastparquet(path: Path) -> None:
    """Write categories, times of 96 bits, JSON, and several row groups."""
    frame = pd.DataFrame(
        {
            "text": pd.Series(TEXTS, dtype=object),
            "number": range(ROWS),
            "category": pd.Categorical(["a", "b"] * (ROWS // 2)),
            "old": pd.to_datetime([dt.datetime(2026, 1, 1) + dt.timedelta(days=row) for row in range(ROWS)]),  # noqa: DTZ001
            "json": pd.Series([{"row": row} for row in range(ROWS)], dtype=object),
            "data": pd.Series([bytes([row]) for row in range(ROWS)], dtype=object),
        }
    )
    encodings = {
        "text": "utf8",
        "number": "infer",
        "category": "infer",
        "old": "infer",
        "json": "json",
        "data": "bytes",
    }
    fastparquet.write(
        str(path), frame, row_group_offsets=16, times="int96", object_encoding=encodings, compression="GZIP",
        custom_metadata={"made by": "fastparquet"},
    )  # fmt: skip


def main() -> None:
    """Write one file with each."""
    folder = Path(sys.argv[1])
    write_pandas(folder / "pandas.parquet")
    write_polars(folder / "polars.parquet")
    write_fastparquet(folder / "fastparquet.parquet")


if __name__ == "__main__":
    main()

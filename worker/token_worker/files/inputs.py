"""The input as ``job`` needs it, whatever its format: what stands before the rows, and the rows in chunks."""

import threading
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from token_worker.errors import GiveUp
from token_worker.files import json_lines
from token_worker.files.columns import Column, Wrong
from token_worker.files.delimited import DELIMITERS, Delimited, Dialect
from token_worker.files.json_lines import JsonLines
from token_worker.files.progress import Asked
from token_worker.files.records import MARK_BYTES, Encoding, Records
from token_worker.files.rows import Chunk, Format, chunks
from token_worker.files.suggest import Sample

FORMS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Formats by the end of a file's name."""

SAMPLE_ROWS = 1000
"""Rows that are looked at before anything is sent."""

MORE_ROWS = 1_000_000
"""Rows that are looked at for a member that is in none of those, where the input can be read twice."""


class Head(NamedTuple):
    """What stands before the rows: its bytes, which the output begins with as well, where it ends, its rows."""

    data: bytes
    offset: int
    rows: int


class Input(Protocol):
    """A file of which columns are to be changed."""

    total: int | None
    """Where ``Progress.offset`` ends; None where that is not known."""

    head: Head

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """The rows from an offset on, after row number ``row``; raises ``GiveUp`` for columns that are not there."""

    def sample(self) -> dict[str, Sample]:
        """The first values of every column; for ``suggest``."""

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """Make the output of what was written, where that is another; raises ``Stopped``."""


def open_input(asked: Asked, file: BinaryIO, *, again: bool) -> Input:
    """Look at the beginning of a file; ``again``: it can be read more than once.

    Raises:
        GiveUp: it cannot be read as it was asked for.
    """
    if asked.form == "parquet":
        from token_worker.files.parquet import ParquetInput  # noqa: PLC0415 - pyarrow is large, and may not be there

        return ParquetInput(file)
    return TextInput(asked, file, again=again)


class TextInput:
    """CSV, TSV or JSON Lines."""

    def __init__(self, asked: Asked, file: BinaryIO, *, again: bool) -> None:
        self._asked = asked
        self._file = file
        self._again = again
        start = file.read(MARK_BYTES)
        self._encoding = Encoding(asked.encoding, start)
        self._dialect: Dialect | None = None
        self._cut = json_lines.cut
        if asked.form in DELIMITERS:
            delimiter = DELIMITERS[asked.form] if asked.delimiter is None else asked.delimiter
            self._dialect = Dialect(self._encoding, delimiter, quotes=asked.quotes)
            self._cut = self._dialect.cut
        self.total = Path(file.name).stat().st_size if again else None
        self._records = Records(file, self._encoding, self._cut, start=start[len(self._encoding.mark) :])
        self._has_header = asked.header and self._dialect is not None
        self._first, rows = b"", 0
        if self._dialect is not None:
            found = self._records.peek(SAMPLE_ROWS)
            place = next((place for place, record in enumerate(found) if record.strip(b"\r\n")), None)
            if place is None and self._has_header:
                raise GiveUp("the input has no header")
            self._first = b"" if place is None else found[place]
            rows = (place or 0) + 1 if self._has_header else 0
        before = b"".join(self._records.take(rows))
        self.head = Head(
            self._encoding.mark + self._encoding.written(before),
            len(self._encoding.mark) + self._encoding.size(before),
            rows,
        )

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """See ``Input``."""
        form: Format
        if self._dialect is None:
            form = JsonLines(self._encoding, columns, self._some(), op=self._asked.op, numbers=self._asked.numbers)
        else:
            form = Delimited(self._dialect, columns, self._first, header=self._has_header)
        if offset != self.head.offset:
            self._file.seek(offset)
            self._records = Records(self._file, self._encoding, self._cut, row)
        return chunks(form, self._records.blocks(), row, dedupe=dedupe)

    def _some(self) -> Iterator[bytes]:
        """Rows that a member should be in that is asked for; at least a blank one."""
        first = self._records.peek(SAMPLE_ROWS)
        if not self._again or len(first) < SAMPLE_ROWS:
            return iter(first)
        return chain(first, self._more())

    def _more(self) -> Iterator[bytes]:
        with Path(self._file.name).open("rb") as file:
            file.seek(self.head.offset)
            yield from islice(chain.from_iterable(Records(file, self._encoding, self._cut).blocks()), MORE_ROWS)

    def sample(self) -> dict[str, Sample]:
        """See ``Input``."""
        records = [record for record in self._records.peek(SAMPLE_ROWS) if record.strip()]
        if self._dialect is None:
            return json_lines.sample(records)
        if self._has_header:
            records.insert(0, self._first)
        texts = [[_text(self._dialect, field) for field in self._dialect.fields(record)] for record in records]
        names = [str(number + 1) for number in range(len(texts[0]))] if texts else []
        if self._has_header:
            names = [name or "" for name in texts[0]]
        rows = [row for row in texts[self._has_header :] if len(row) == len(names)]
        return {name: Sample([row[place] for row in rows]) for place, name in enumerate(names)}

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """See ``Input``."""


def _text(dialect: Dialect, field: bytes) -> str | None:
    try:
        return dialect.text(field)
    except Wrong:
        return None

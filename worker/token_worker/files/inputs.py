"""Open an input of any format: find the bytes before its rows, and yield the rows in chunks."""

import re
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol

from token_worker.errors import OperatorError
from token_worker.files import json_lines
from token_worker.files.columns import Column, RowError, format_names
from token_worker.files.compressed import DecompressedFile, compression_of
from token_worker.files.delimited import DELIMITERS, Delimited, Dialect
from token_worker.files.json_lines import JsonLines
from token_worker.files.progress import JobOptions
from token_worker.files.records import MARK_BYTES, Encoding, Records
from token_worker.files.rows import SAMPLE_ROWS, Chunk, Head, RowFormat, chunks
from token_worker.files.suggest import Sample

FORMATS_BY_ENDING = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Format of a file, by the ending of its name."""

START_BYTES = 64
"""Bytes that are searched for a byte order mark and for a first line with ``sep=``."""

_DIRECTIVE = re.compile(rb'("?)sep=([^\r\n])\1[\r\n]', re.IGNORECASE)

MORE_ROWS = 1_000_000
"""Most rows that are searched for a member that the sample rows do not have, if the input can be read twice."""


class Input(Protocol):
    """An input file."""

    total: int | None
    """Position at the end of the input, see ``position``. None if it is unknown."""

    head: Head
    """The bytes before the rows."""

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """Yield the rows from an offset on. Raises ``OperatorError`` if a column does not exist."""

    def position(self, offset: int) -> int:
        """Return how much of ``total`` has been read at an offset, for the progress bar."""

    def sample(self) -> dict[str, Sample]:
        """Return the first values of every column, for ``suggest``."""

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """Assemble the output, if the format needs this after the last row. Raises ``Stopped``."""


def open_input(
    options: JobOptions, file: BinaryIO, *, again: bool, tell: Callable[[str], object] = lambda _: None
) -> Input:
    """Open an input and look at its beginning.

    Args:
        options: options of the job.
        file: the file, at its start.
        again: True if the file can be read more than once.
        tell: takes a line for the user, while the rows are read.

    Raises:
        OperatorError: the file cannot be read with these options.
    """
    if options.format == "parquet":
        from token_worker.files.parquet import ParquetInput  # noqa: PLC0415 - pyarrow is large, and optional

        return ParquetInput(file)
    return TextInput(options, file, again=again, tell=tell)


class TextInput:
    """A CSV, TSV or JSON Lines file. See ``Input``."""

    def __init__(self, options: JobOptions, file: BinaryIO, *, again: bool, tell: Callable[[str], object]) -> None:
        self._options = options
        self._raw = file
        name = getattr(file, "name", None)
        kind = compression_of(name) if isinstance(name, str) else None
        self._file = file if kind is None else DecompressedFile(file, kind)
        self._is_compressed = kind is not None
        self._again = again
        self._tell = tell
        self._told_markers: set[tuple[str, str]] = set()
        self._has_told_joined = False
        start = self._file.read(START_BYTES)
        self._encoding = Encoding(options.encoding, start[:MARK_BYTES])
        start = start[len(self._encoding.mark) :]
        self._dialect: Dialect | None = None
        self._cut = json_lines.cut
        directive: str | None = None
        if options.format in DELIMITERS:
            directive = self._directive(start)
            given = directive if options.delimiter is None else options.delimiter
            if directive not in (None, given):
                raise OperatorError("--delimiter differs from the delimiter in the first line of the input: sep=")
            delimiter = DELIMITERS[options.format] if given is None else given
            self._dialect = Dialect(self._encoding, delimiter, quotes=options.quotes)
            self._cut = self._dialect.cut
        self.total = Path(file.name).stat().st_size if again else None
        self._records = Records(self._file, self._encoding, self._cut, start=start)
        self._has_header = options.header and self._dialect is not None
        self._first, rows = b"", 0
        if self._dialect is not None:
            skipped = int(directive is not None)
            found = self._records.peek(SAMPLE_ROWS)
            not_blank = (place for place, record in enumerate(found) if place >= skipped and record.strip(b"\r\n"))
            place = next(not_blank, None)
            if place is None and self._has_header:
                raise OperatorError("the input has no header")
            self._first = b"" if place is None else found[place]
            rows = (place or 0) + 1 if self._has_header else skipped
        before = b"".join(self._records.take(rows))
        self.head = Head(
            self._encoding.mark + self._encoding.written(before),
            len(self._encoding.mark) + self._encoding.size(before),
            rows,
        )

    def _directive(self, start: bytes) -> str | None:
        """Return the delimiter of a first line such as ``sep=;``, which Excel knows. This line is not a row."""
        found = _DIRECTIVE.match(self._encoding.reader()(start, False))
        return None if found is None else found[2].decode("ascii", "replace")

    def position(self, offset: int) -> int:
        """See ``Input``."""
        return self._raw.tell() if self._is_compressed and self._again else offset

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """See ``Input``."""
        row_format: RowFormat
        if self._dialect is None:
            row_format = JsonLines(
                self._encoding, columns, self._first_rows(), op=self._options.op, numbers=self._options.numbers
            )
        else:
            row_format = Delimited(
                self._dialect, columns, self._first,
                header=self._has_header, nulls=self._options.nulls, tell_marker=self._tell_marker,
                tell_joined=self._tell_joined,
            )  # fmt: skip
        if offset != self.head.offset:
            self._file.seek(offset)
            self._records = Records(self._file, self._encoding, self._cut, row)
        return chunks(row_format, self._records.blocks(), row, dedupe=dedupe)

    def _tell_marker(self, column: str, text: str) -> None:
        """Tell the user that cells seem to mean "no value", once for each column and text."""
        if (column, text) not in self._told_markers:
            self._told_markers.add((column, text))
            self._tell(
                f"column {format_names([column])}: a cell says {text} and is handled as a value; if it means no value,"
                f" --null {shlex.quote(text)} keeps it"
            )

    def _tell_joined(self) -> None:
        """Tell the user once that a quote may have joined rows, whose other values then stay in the clear."""
        if not self._has_told_joined:
            self._has_told_joined = True
            self._tell(
                "a quoted field goes over several lines that all look like rows; if quotes are ordinary characters in"
                " this file, use --no-quotes: otherwise values of all these lines but one stay as they are"
            )

    def _first_rows(self) -> Iterator[bytes]:
        """Yield rows to search for the members that the columns name, up to ``MORE_ROWS`` if necessary."""
        first = self._records.peek(SAMPLE_ROWS)
        if not self._again or len(first) < SAMPLE_ROWS:
            return iter(first)
        return chain(first, self._more_rows())

    def _more_rows(self) -> Iterator[bytes]:
        with Path(self._raw.name).open("rb") as raw:
            kind = compression_of(self._raw.name)
            file = raw if kind is None else DecompressedFile(raw, kind)
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
        samples = {name: Sample([row[place] for row in rows]) for place, name in enumerate(names)}
        twice = {name for name in names if names.count(name) > 1}
        return samples | {name: Sample([], (), refused="more than one column has this name") for name in twice}

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """See ``Input``."""


def _text(dialect: Dialect, field: bytes) -> str | None:
    try:
        return dialect.text(field)
    except RowError:
        return None

"""The input as ``job`` needs it, whatever its format: what stands before the rows, and the rows in chunks."""

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
"""Formats by the end of a file's name."""

START_BYTES = 64
"""Read for the byte order mark and the delimiter that a first line may say."""

_DIRECTIVE = re.compile(rb'("?)sep=([^\r\n])\1[\r\n]', re.IGNORECASE)

MORE_ROWS = 1_000_000
"""Rows that are looked at for a member that is in none of those, where the input can be read twice."""


class Input(Protocol):
    """A file of which columns are to be changed."""

    total: int | None
    """Where ``far`` ends; None where that is not known."""

    head: Head

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """Yield the rows from an offset on. Raises ``OperatorError`` if a column does not exist."""

    def far(self, offset: int) -> int:
        """How far it is at an offset, of ``total``."""

    def sample(self) -> dict[str, Sample]:
        """The first values of every column; for ``suggest``."""

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """Make the output of what was written, where that is another; raises ``Stopped``."""


def open_input(
    options: JobOptions, file: BinaryIO, *, again: bool, tell: Callable[[str], object] = lambda _: None
) -> Input:
    """Look at the beginning of a file.

    Args:
        options: what to do with it.
        file: at its start.
        again: whether it can be read more than once.
        tell: takes a line for the user, while the rows are read.

    Raises:
        OperatorError: it cannot be read as it was asked for.
    """
    if options.format == "parquet":
        from token_worker.files.parquet import ParquetInput  # noqa: PLC0415 - pyarrow is large, and may not be there

        return ParquetInput(file)
    return TextInput(options, file, again=again, tell=tell)


class TextInput:
    """CSV, TSV or JSON Lines."""

    def __init__(self, options: JobOptions, file: BinaryIO, *, again: bool, tell: Callable[[str], object]) -> None:
        self._options = options
        self._raw = file
        name = getattr(file, "name", None)
        kind = compression_of(name) if isinstance(name, str) else None
        self._file = file if kind is None else DecompressedFile(file, kind)
        self._is_compressed = kind is not None
        self._again = again
        self._tell = tell
        self._met: set[tuple[str, str]] = set()
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
                raise OperatorError("--delimiter is another than the one that the first line of the input says: sep=")
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
            there = (place for place, record in enumerate(found) if place >= skipped and record.strip(b"\r\n"))
            place = next(there, None)
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
        """The delimiter that a first line of a table for Excel says; it is no row."""
        found = _DIRECTIVE.match(self._encoding.reader()(start, False))
        return None if found is None else found[2].decode("ascii", "replace")

    def far(self, offset: int) -> int:
        """See ``Input``."""
        return self._raw.tell() if self._is_compressed and self._again else offset

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """See ``Input``."""
        form: RowFormat
        if self._dialect is None:
            form = JsonLines(self._encoding, columns, self._some(), op=self._options.op, numbers=self._options.numbers)
        else:
            form = Delimited(
                self._dialect, columns, self._first,
                header=self._has_header, nulls=self._options.nulls, met=self._met_marker,
            )  # fmt: skip
        if offset != self.head.offset:
            self._file.seek(offset)
            self._records = Records(self._file, self._encoding, self._cut, row)
        return chunks(form, self._records.blocks(), row, dedupe=dedupe)

    def _met_marker(self, column: str, text: str) -> None:
        """Tell that cells seem to stand for no value, once for each column and text."""
        if (column, text) not in self._met:
            self._met.add((column, text))
            self._tell(
                f"column {format_names([column])}: a cell says {text} and is taken for a value; where that means no"
                f" value, --null {shlex.quote(text)} keeps it as it is"
            )

    def _some(self) -> Iterator[bytes]:
        """Rows that a member should be in that is asked for; at least a blank one."""
        first = self._records.peek(SAMPLE_ROWS)
        if not self._again or len(first) < SAMPLE_ROWS:
            return iter(first)
        return chain(first, self._more())

    def _more(self) -> Iterator[bytes]:
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

"""Parquet, with ``pyarrow`` (the extra ``parquet``): one row group after another, in the memory of one column.

No program can append to an unfinished Parquet file. So during the run only the new columns are written, as a sequence
of Arrow messages. At the end the output is assembled: all other columns are copied byte for byte from the input, with
schema and metadata. Only if a row is left out, the other columns of its row group are written again, with the same
bytes for each value.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from token_worker.client import Value
from token_worker.contract.messages import TypeName
from token_worker.errors import CheckFailed, OperatorError
from token_worker.files.columns import Column, RowError, format_names
from token_worker.files.rows import SAMPLE_ROWS, Chunk, Head, chunks
from token_worker.files.sending import Stopped
from token_worker.files.suggest import Sample

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError:
    raise OperatorError("Parquet needs pyarrow: pip install 'token-worker[parquet]'") from None

from token_worker.files.parquet_cells import CellCodec, codec_for, why_unsupported
from token_worker.files.parquet_footer import Footer, GroupField, Top
from token_worker.files.parquet_output import Output, Piece, check, rewritten

BATCH_ROWS = 5000
"""Rows in one read."""

_SUGGESTED = (TypeName.EMAIL, TypeName.STR, TypeName.INT64, TypeName.INT32, TypeName.BYTES)
"""Types, in the order in which they are suggested."""


class ParquetInput:
    """A Parquet file; see ``inputs.Input``. Offsets are rows.

    Raises:
        OperatorError: the file is not Parquet.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._footer = Footer(file)
        self._format: ParquetRows | None = None
        self.total: int | None = self._footer.num_rows
        self.head = Head(b"", 0, 0)

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """See ``Input``."""
        self._format = ParquetRows(self._footer, columns)
        check(self._footer, self._file, self._format.tops)
        return chunks(self._format, self._rows(self._format.tops, offset), row, dedupe=dedupe)

    def position(self, offset: int) -> int:
        """See ``Input``."""
        return offset

    def _rows(self, tops: Sequence[Top], offset: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the cells of these columns, from a row on."""
        file = self._opened(self._footer.view(tops))
        for number, group in enumerate(self._footer.groups):
            rows = group.number(GroupField.NUM_ROWS)
            if offset >= rows:
                offset -= rows
                continue
            for batch in _batches(file, number, rows):
                skipped = min(offset, batch.num_rows)
                offset -= skipped
                yield [*zip(*(column.to_pylist() for column in batch.slice(skipped).columns), strict=True)]

    def _opened(self, metadata: Any) -> Any:
        return pq.ParquetFile(self._file, metadata=metadata, pre_buffer=False)

    def sample(self) -> dict[str, Sample]:
        """See ``Input``."""
        kinds = [{name: codec_for(self._footer, top, name) for name in _SUGGESTED} for top in self._footer.tops]
        types = [[name for name, cells in candidates.items() if cells is not None] for candidates in kinds]
        shown = [place for place, names in enumerate(types) if names]
        batch = None
        if shown:
            file = self._opened(self._footer.view([self._footer.tops[place] for place in shown]))
            with _reading():
                batch = next(file.iter_batches(SAMPLE_ROWS), None)
        samples = {}
        for place, top in enumerate(self._footer.tops):
            cells = kinds[place][types[place][0]] if types[place] else None
            stored = [] if batch is None or cells is None else batch.column(shown.index(place)).to_pylist()
            texts = [cells and _text(cells, cell) for cell in stored]
            kind = str(self._footer.leaves[top.leaves.start]) if top.is_flat else "nested"
            samples[top.name] = Sample(texts, types[place], kind)
        return samples

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """See ``Input``."""
        if self._format is None:
            return
        assembled.unlink(missing_ok=True)  # if the path is a link, its target must not change
        with _writing(), _NewColumns(partial, self._format.new_schema) as new, assembled.open("xb") as file:
            output = Output(file, self._footer)
            changed = frozenset(place for top in self._format.tops for place in top.leaves)
            for number, group in enumerate(self._footer.groups):
                rows = group.number(GroupField.NUM_ROWS)
                table = new.take(rows)
                done = table.column(table.num_columns - 1)
                count = pc.sum(done, min_count=0).as_py()
                if count or not rows:
                    output.add(group, self._pieces(number, table, done, count == rows, stopping), count, changed)
            output.finish()
            file.flush()
            os.fsync(file.fileno())

    def _pieces(self, group: int, new: Any, done: Any, is_whole: bool, stopping: threading.Event) -> Iterator[Piece]:
        """Yield the column chunks of a row group, in order."""
        named = {top: place for place, top in enumerate(self._format.tops)} if self._format else {}
        for top in self._footer.tops:
            if stopping.is_set():
                raise Stopped
            if not new.num_rows or (is_whole and top not in named):
                for chunk in self._footer.chunks(top, group):
                    yield Piece(chunk, self._file, self._footer.slack(chunk))
                continue
            with _reading():
                file = self._opened(self._footer.view([top], [group]))
                schema = file.schema_arrow
                if top in named:
                    table = pa.table([new.column(named[top]).filter(done)], schema=schema)
                else:
                    table = _filtered(file, schema, done)
            yield from rewritten(table, self._footer, top, group)


class ParquetRows:
    """Reads and writes rows of Parquet; see ``rows.RowFormat``.

    Raises:
        OperatorError: a column does not exist, or its type cannot hold every token.
    """

    def __init__(self, footer: Footer, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.types = [TypeName(column.type) for column in columns]
        self.tops: list[Top] = []
        self._cells: list[CellCodec] = []
        for column in columns:
            found = [top for top in footer.tops if top.name == column.name]
            if len(found) != 1:
                existing = format_names(top.name for top in footer.tops)
                count = "more than one" if found else "no"
                raise OperatorError(f"there is {count} column {column.name}; the columns are {existing}")
            cells = codec_for(footer, found[0], TypeName(column.type))
            if cells is None:
                raise OperatorError(
                    f"column {column.name} is {why_unsupported(footer, found[0], TypeName(column.type))}"
                )
            self.tops.append(found[0])
            self._cells.append(cells)
        fields = [(str(place), cells.arrow) for place, cells in enumerate(self._cells)]
        self.new_schema = pa.schema([*fields, ("done", pa.bool_())])

    cell_slice = slice(None)

    def input_size(self, _record: tuple[Any, ...]) -> int:
        """See ``rows.RowFormat``."""
        return 1

    def memory_bytes(self, record: tuple[Any, ...]) -> int:
        """See ``rows.RowFormat``."""
        return sum(len(cell) if isinstance(cell, bytes) else 8 for cell in record)

    def split_row(self, record: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``rows.RowFormat``."""
        return record

    def whole_row(self, record: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``rows.RowFormat``."""
        return record

    def read_cell(self, cell: Any, column: int) -> Value | None:
        """See ``rows.RowFormat``."""
        return None if cell is None else self._cells[column].read(cell)

    def write_cell(self, value: Value, _cell: Any, column: int) -> Any:
        """See ``rows.RowFormat``."""
        return self._cells[column].write(value)

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """See ``rows.RowFormat``."""
        arrays = [
            pa.array([cell if is_done else None for cell, is_done in zip(cells, done, strict=True)], kind)
            for cells, kind in zip(columns, self.new_schema.types, strict=False)
        ]
        batch = pa.record_batch([*arrays, pa.array(done, pa.bool_())], schema=self.new_schema)
        return bytes(batch.serialize())


class _NewColumns:
    """Reads the new columns again, in order."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._file = pa.OSFile(str(path))
        self._schema = schema
        self._pending = pa.Table.from_batches([], schema)

    def take(self, rows: int) -> Any:
        """Return the next rows, so many."""
        parts = [self._pending]
        count = self._pending.num_rows
        while count < rows:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self._schema)
            parts.append(pa.Table.from_batches([batch]))
            count += batch.num_rows
        table = pa.concat_tables(parts)
        self._pending = table.slice(rows)
        return table.slice(0, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


def _batches(file: Any, group: int, rows: int) -> Iterator[Any]:
    """Yield the rows of a row group, which must be so many."""
    batches = file.iter_batches(BATCH_ROWS, row_groups=[group])
    while True:
        with _reading():
            batch = next(batches, None)
        rows -= 0 if batch is None else batch.num_rows
        if rows < 0 or (batch is None and rows):
            raise CheckFailed("the input cannot be read: it is damaged, a column has more or fewer values than rows")
        if batch is None:
            return
        yield batch


def _filtered(file: Any, schema: Any, done: Any) -> Any:
    """Return the rows that are done, of a file with one row group."""
    kept, at = [], 0
    for batch in _batches(file, 0, len(done)):
        kept.append(batch.filter(done.slice(at, batch.num_rows).combine_chunks()))
        at += batch.num_rows
    return pa.Table.from_batches(kept, schema)


@contextmanager
def _reading() -> Iterator[None]:
    """Replace errors of the library. Its texts are about bytes, not about rows."""
    try:
        yield
    except (pa.ArrowException, OSError):
        raise CheckFailed("the input cannot be read: it is damaged, or pyarrow cannot read it") from None


@contextmanager
def _writing() -> Iterator[None]:
    """Replace errors of the library about the output. A full disk is an ``OSError``, which stays."""
    try:
        yield
    except pa.ArrowException:
        raise CheckFailed("the output cannot be written: pyarrow cannot write the types of its columns") from None


def _text(cells: CellCodec, cell: Any) -> str | None:
    try:
        value = None if cell is None else cells.read(cell)
    except RowError:
        return None
    return None if value is None else value.hex() if isinstance(value, bytes) else str(value)

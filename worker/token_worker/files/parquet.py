"""Parquet, with ``pyarrow`` (the extra ``parquet``): row group by row group, in the memory of one column.

A Parquet file cannot be gone on with once its writer is gone. So the new columns alone are kept while the run lasts, as
Arrow messages one after another. At the end the output is put together: what the input holds of other columns is
copied byte for byte, with schema and metadata. Only where a row is left out are the other columns of its row group
written anew, with the same bytes for each value.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from token_worker.contract.messages import TypeName
from token_worker.errors import CheckFailed, OperatorError
from token_worker.files.columns import Column, RowError, Value, format_names
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
"""Rows that are read at once."""

_SUGGESTED = (TypeName.EMAIL, TypeName.STR, TypeName.INT64, TypeName.INT32, TypeName.BYTES)
"""Types in the order in which they are suggested."""


class ParquetInput:
    """A file; see ``inputs.Input``. Its offsets are rows.

    Raises:
        OperatorError: it is no Parquet.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._footer = Footer(file)
        self._form: ParquetRows | None = None
        self.total: int | None = self._footer.num_rows
        self.head = Head(b"", 0, 0)

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """See ``Input``."""
        self._form = ParquetRows(self._footer, columns)
        check(self._footer, self._file, self._form.tops)
        return chunks(self._form, self._rows(self._form.tops, offset), row, dedupe=dedupe)

    def far(self, offset: int) -> int:
        """See ``Input``."""
        return offset

    def _rows(self, tops: Sequence[Top], offset: int) -> Iterator[list[tuple[Any, ...]]]:
        """Cells of these columns, from a row on."""
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
        types = [[name for name, cells in those.items() if cells is not None] for those in kinds]
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
        if self._form is None:
            return
        assembled.unlink(missing_ok=True)  # where that is a link, what it leads to is not ours
        with _writing(), _New(partial, self._form.new_schema) as new, assembled.open("xb") as file:
            output = Output(file, self._footer)
            changed = frozenset(place for top in self._form.tops for place in top.leaves)
            for number, group in enumerate(self._footer.groups):
                rows = group.number(GroupField.NUM_ROWS)
                table = new.take(rows)
                done = table.column(table.num_columns - 1)
                left = pc.sum(done, min_count=0).as_py()
                if left or not rows:
                    output.add(group, self._pieces(number, table, done, left == rows, stopping), left, changed)
            output.finish()
            file.flush()
            os.fsync(file.fileno())

    def _pieces(self, group: int, new: Any, done: Any, is_whole: bool, stopping: threading.Event) -> Iterator[Piece]:
        """Column chunks of a row group, in order."""
        named = {top: place for place, top in enumerate(self._form.tops)} if self._form else {}
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
    """Rows of which some columns are to be changed; see ``rows.Format``.

    Raises:
        OperatorError: a column is not there, or its type does not hold every token.
    """

    def __init__(self, footer: Footer, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.types = [TypeName(column.type) for column in columns]
        self.tops: list[Top] = []
        self._cells: list[CellCodec] = []
        for column in columns:
            found = [top for top in footer.tops if top.name == column.name]
            if len(found) != 1:
                there = format_names(top.name for top in footer.tops)
                raise OperatorError(
                    f"there is {'more than one' if found else 'no'} column {column.name}; there are {there}"
                )
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
        """See ``rows.Format``."""
        return 1

    def memory_bytes(self, record: tuple[Any, ...]) -> int:
        """See ``rows.Format``."""
        return sum(len(cell) if isinstance(cell, bytes) else 8 for cell in record)

    def split_row(self, record: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``rows.Format``."""
        return record

    def whole_row(self, record: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``rows.Format``."""
        return record

    def read_cell(self, cell: Any, column: int) -> Value | None:
        """See ``rows.Format``."""
        return None if cell is None else self._cells[column].read(cell)

    def write_cell(self, value: Value, _cell: Any, column: int) -> Any:
        """See ``rows.Format``."""
        return self._cells[column].write(value)

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """See ``rows.Format``."""
        arrays = [
            pa.array([cell if is_done else None for cell, is_done in zip(cells, done, strict=True)], kind)
            for cells, kind in zip(columns, self.new_schema.types, strict=False)
        ]
        batch = pa.record_batch([*arrays, pa.array(done, pa.bool_())], schema=self.new_schema)
        return bytes(batch.serialize())


class _New:
    """The new columns, read again in order."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._file = pa.OSFile(str(path))
        self._schema = schema
        self._left = pa.Table.from_batches([], schema)

    def take(self, rows: int) -> Any:
        """So many further rows."""
        parts = [self._left]
        there = self._left.num_rows
        while there < rows:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self._schema)
            parts.append(pa.Table.from_batches([batch]))
            there += batch.num_rows
        table = pa.concat_tables(parts)
        self._left = table.slice(rows)
        return table.slice(0, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


def _batches(file: Any, group: int, rows: int) -> Iterator[Any]:
    """The rows of a row group, so many."""
    batches = file.iter_batches(BATCH_ROWS, row_groups=[group])
    while True:
        with _reading():
            batch = next(batches, None)
        rows -= 0 if batch is None else batch.num_rows
        if rows < 0 or (batch is None and rows):
            raise CheckFailed(
                "the input cannot be read: it is damaged, a column has not as many values as there are rows"
            )
        if batch is None:
            return
        yield batch


def _filtered(file: Any, schema: Any, done: Any) -> Any:
    """The rows that are done, of the only row group."""
    kept, at = [], 0
    for batch in _batches(file, 0, len(done)):
        kept.append(batch.filter(done.slice(at, batch.num_rows).combine_chunks()))
        at += batch.num_rows
    return pa.Table.from_batches(kept, schema)


@contextmanager
def _reading() -> Iterator[None]:
    """Errors of the library are of one kind; its texts are about bytes, not about rows."""
    try:
        yield
    except (pa.ArrowException, OSError):
        raise CheckFailed(
            "the input cannot be read: it is damaged, or pyarrow does not know how it is written"
        ) from None


@contextmanager
def _writing() -> Iterator[None]:
    """The same of the output; for a full disk there are ``OSError``."""
    try:
        yield
    except pa.ArrowException:
        raise CheckFailed(
            "the output cannot be written: pyarrow does not know how, for the types of its columns"
        ) from None


def _text(cells: CellCodec, cell: Any) -> str | None:
    try:
        value = None if cell is None else cells.read(cell)
    except RowError:
        return None
    return None if value is None else value.hex() if isinstance(value, bytes) else str(value)

"""Parquet, with ``pyarrow`` (the extra ``parquet``): row group by row group, in the memory of one.

A Parquet file cannot be gone on with once its writer is gone. So the new columns alone are kept while the run lasts, as
Arrow messages one after another, and at the end the output is written in one go from the input and these: row groups,
types, metadata and compression as they were, but for rows that could not be done.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from token_worker.contract.messages import TypeName
from token_worker.errors import Finding, GiveUp
from token_worker.files.columns import Column, RowCode, Value, Wrong, check_number, listed
from token_worker.files.inputs import SAMPLE_ROWS, Head
from token_worker.files.rows import Chunk, chunks
from token_worker.files.sending import Stopped
from token_worker.files.suggest import Sample

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError:
    raise GiveUp("Parquet needs pyarrow: pip install 'token-worker[parquet]'") from None

_TYPES: dict[str, Sequence[Any]] = {
    TypeName.INT32.value: (pa.int32(),),
    TypeName.INT64.value: (pa.int64(),),
    TypeName.STR.value: (pa.string(), pa.large_string()),
    TypeName.EMAIL.value: (pa.string(), pa.large_string()),
    TypeName.BYTES.value: (pa.binary(), pa.large_binary()),
}
"""What a column may be, so that its tokens have the type of its values."""

BATCH_ROWS = 5000
"""Rows that are read at once."""

_WITH_DICTIONARY = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})


class ParquetInput:
    """A file; see ``inputs.Input``. Its offsets are rows.

    Raises:
        GiveUp: it is no Parquet.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._file = pq.ParquetFile(file)
        except (pa.ArrowException, OSError):
            raise GiveUp("the input is no Parquet file") from None
        self._form: ParquetRows | None = None
        self.total: int | None = self._file.metadata.num_rows
        self.head = Head(b"", 0, 0)

    def chunks(self, columns: Sequence[Column], offset: int, row: int, *, dedupe: bool) -> Iterator[Chunk]:
        """See ``Input``."""
        self._form = ParquetRows(self._file.schema_arrow, columns)
        return chunks(self._form, self._rows([column.name for column in columns], offset), row, dedupe=dedupe)

    def far(self, offset: int) -> int:
        """See ``Input``."""
        return offset

    def _rows(self, names: Sequence[str], offset: int) -> Iterator[list[tuple[Any, ...]]]:
        """Cells of these columns, from a row on."""
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if offset >= rows:
                offset -= rows
                continue
            batches = self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(names))
            while True:
                with _reading():
                    batch = next(batches, None)
                if batch is None:
                    break
                skipped = min(offset, batch.num_rows)
                offset -= skipped
                found = batch.slice(skipped)
                yield [*zip(*(_cells(found.column(name)) for name in names), strict=True)]

    def sample(self) -> dict[str, Sample]:
        """See ``Input``."""
        with _reading():
            batch = next(self._file.iter_batches(SAMPLE_ROWS), None)
        samples = {}
        for field in self._file.schema_arrow:
            types = [TypeName(name) for name in reversed(_TYPES) if field.type in _TYPES[name]]  # e-mail before text
            cells = [] if batch is None or not types else _cells(batch.column(field.name))
            samples[field.name] = Sample([_text(cell) for cell in cells], types, str(field.type))
        return samples

    def complete(self, partial: Path, assembled: Path, stopping: threading.Event) -> None:
        """See ``Input``."""
        if self._form is None:
            return
        schema, new = self._file.schema_arrow, _New(partial, self._form.new_schema)
        assembled.unlink(missing_ok=True)  # where that is a link, what it leads to is not ours
        with _writing(), new, pq.ParquetWriter(assembled, schema, **_manner(self._file.metadata)) as writer:
            for group in range(self._file.num_row_groups):
                if stopping.is_set():
                    raise Stopped
                with _reading():
                    table = self._file.read_row_group(group)
                columns = new.take(table.num_rows)
                *cells, done = columns.columns
                for column, new_cells in zip(self._form.columns, cells, strict=True):
                    place = schema.get_field_index(column.name)
                    table = table.set_column(place, schema.field(place), new_cells)
                if not pc.all(done).as_py():  # not every type can be filtered
                    table = table.filter(done)
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
        with assembled.open("rb") as file:
            os.fsync(file.fileno())


class ParquetRows:
    """Rows of which some columns are to be changed; see ``rows.Format``.

    Raises:
        GiveUp: a column is not there, or has not the type that its tokens would have.
    """

    def __init__(self, schema: Any, columns: Sequence[Column]) -> None:
        for column in columns:
            if (count := schema.names.count(column.name)) != 1:
                there = listed(schema.names)
                raise GiveUp(f"there is {'more than one' if count else 'no'} column {column.name}; there are {there}")
            if (kind := schema.field(column.name).type) not in _TYPES[column.type]:
                raise GiveUp(f"column {column.name} is {kind}, and tokens of type {column.type} are not")
        self.columns = columns
        self.types = [TypeName(column.type) for column in columns]
        fields = [schema.field(column.name) for column in columns]
        self.new_schema = pa.schema([(field.name, field.type) for field in fields] + [("done", pa.bool_())])

    cells = slice(None)

    def size(self, _record: tuple[Any, ...]) -> int:
        """See ``rows.Format``."""
        return 1

    def weight(self, record: tuple[Any, ...]) -> int:
        """See ``rows.Format``."""
        return sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in record)

    def open(self, record: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``rows.Format``."""
        return record

    def keep(self, record: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``rows.Format``."""
        return record

    def read(self, cell: Any, column: int) -> Value | None:
        """See ``rows.Format``."""
        if isinstance(cell, int):
            return check_number(cell, self.types[column])
        if isinstance(cell, bytes) and self.types[column] != TypeName.BYTES:
            raise Wrong(RowCode.WRONG_ENCODING, "expected text in utf-8")
        return cell or None

    def write(self, value: Value, _cell: Any, _column: int) -> Value:
        """See ``rows.Format``."""
        return value

    def join(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
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


def _manner(metadata: Any) -> dict[str, Any]:
    """How the input was written, as far as it tells."""
    if not metadata.num_row_groups:
        return {}
    group = metadata.row_group(0)
    columns = [group.column(place) for place in range(metadata.num_columns)]
    schema = metadata.schema
    return {
        "version": metadata.format_version,
        "compression": {it.path_in_schema: it.compression.replace("UNCOMPRESSED", "NONE") for it in columns},
        "use_dictionary": [it.path_in_schema for it in columns if _WITH_DICTIONARY & set(it.encodings)],
        "write_statistics": [it.path_in_schema for it in columns if it.is_stats_set],
        "use_deprecated_int96_timestamps": any(it.physical_type == "INT96" for it in columns),
        "store_decimal_as_integer": any(_is_decimal(schema.column(place)) for place in range(len(columns))),
        "store_schema": b"ARROW:schema" in (metadata.metadata or {}),
    }


@contextmanager
def _reading() -> Iterator[None]:
    """Errors of the library are of one kind; its texts are about bytes, not about rows."""
    try:
        yield
    except (pa.ArrowException, OSError):
        raise Finding("the input cannot be read: it is damaged, or pyarrow does not know how it is written") from None


@contextmanager
def _writing() -> Iterator[None]:
    """The same of the output; for a full disk there are ``OSError``."""
    try:
        yield
    except pa.ArrowException:
        raise Finding("the output cannot be written: pyarrow does not know how, for the types of its columns") from None


def _is_decimal(column: Any) -> bool:
    """Whether it holds decimal numbers as whole ones."""
    return column.logical_type.type == "DECIMAL" and column.physical_type in ("INT32", "INT64")


def _cells(column: Any) -> list[Any]:
    """Values of a column; of text that is none, its bytes."""
    try:
        cells: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        kind = pa.large_binary() if column.type == pa.large_string() else pa.binary()
        return [_decoded(cell) for cell in column.cast(kind).to_pylist()]
    return cells


def _decoded(cell: bytes | None) -> str | bytes | None:
    try:
        return cell if cell is None else cell.decode()
    except UnicodeDecodeError:
        return cell


def _text(value: Any) -> str | None:
    return None if value is None else value.hex() if isinstance(value, bytes) else str(value)

"""Chunks of rows: parse the rows of any format, list the values to send, and put the answers into the rows. Pure.

A chunk holds its cells by column, not by row. So most of the work is done once for all rows, or once for a cell that
occurs many times.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, compress, islice, repeat
from typing import Any, Final, NamedTuple, Protocol, Self

from token_worker.chunks import bounded_chunks
from token_worker.client import Answer, Item, OtherFormat, RequestRefused, Value
from token_worker.contract.messages import TypeName
from token_worker.files.columns import Column, RowError, SentItem, without_path

CHUNK_ITEMS = 1000
"""Most cells in a chunk, unless a single row has more. By default a request may have as many items."""

CHUNK_BYTES = 1 << 18
"""Most bytes of rows in a chunk, unless a single row has more."""

ABSENT: Final = ()
"""Stands for a cell that a row does not have. It equals no cell."""

SAMPLE_ROWS = 1000
"""Rows that are looked at before anything is sent."""


class Head(NamedTuple):
    """The part of a file before its rows, which the output begins with.

    Attributes:
        data: its bytes in the output.
        offset: its end in the input.
        rows: number of its rows.
    """

    data: bytes
    offset: int
    rows: int


class CellGroup(tuple[Any, ...]):
    """All cells that one row has in one column, such as the elements of a list."""

    __slots__ = ()


class FlatColumn(NamedTuple):
    """All cells of a column, one after another, and the position of the row of each cell."""

    cells: Sequence[Any]
    rows: Sequence[int]

    def of_rows(self, flags: Sequence[bool]) -> Sequence[bool]:
        """Convert one flag for each row to one flag for each cell."""
        return flags if isinstance(self.rows, range) else [flags[row] for row in self.rows]


class RowFormat(Protocol):
    """Reads and writes rows of a format, of which some columns are changed.

    A *record* is a row as it was read from the file. A *split row* is a tuple that holds the cells to change, and the
    rest of the row around them.
    """

    @property
    def columns(self) -> Sequence[Column]:
        """The columns to change."""

    @property
    def types(self) -> Sequence[TypeName]:
        """The types of these columns."""

    @property
    def cell_slice(self) -> slice:
        """Positions of the cells in a split row, in the order of the columns."""

    def input_size(self, record: Any) -> int:
        """Return the size of a record in the input, in the unit of offsets."""

    def memory_bytes(self, record: Any) -> int:
        """Return about how many bytes of memory a record takes."""

    def split_row(self, record: Any) -> tuple[Any, ...] | None:
        """Split a record. None: the record has no cells and is kept. Raises ``RowError``."""

    def whole_row(self, record: Any) -> tuple[Any, ...]:
        """Return a split row for a record that is kept: all its cells are ``ABSENT``."""

    def read_cell(self, cell: Any, column: int) -> Value | None:
        """Return the value of a cell. None: the cell is empty. Raises ``RowError``."""

    def write_cell(self, value: Value, cell: Any, column: int) -> Any:
        """Return a cell like this one with another value. Raises ``RowError``."""

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """Return the output for split rows, given by column. Rows that are not done are left out."""


class Problem(NamedTuple):
    """The reason why a row is not in the output, without anything of the row."""

    row: int
    column: str | None
    code: str
    message: str


class Finished(NamedTuple):
    """The result of a chunk.

    Attributes:
        output: bytes of the rows that could be done.
        problems: problems of the other rows, in order.
        lost: number of these rows.
        empty: number of cells that were kept because they are empty.
        other_format: rows in the output with tokens that were made before in another format, by column: the number of
            the row, once for each such cell.
    """

    output: bytes
    problems: list[Problem]
    lost: int
    empty: int
    other_format: dict[str, list[int]]


class _Problems:
    """The problems of a chunk. Rows are given by their position in the chunk.

    Args:
        row: number of the row before the chunk.
        rows: number of rows in the chunk.
        columns: the columns to change.
    """

    def __init__(self, row: int, rows: int, columns: Sequence[Column]) -> None:
        self._row = row
        self._rows = rows
        self._columns = columns
        self._by_place: dict[int, list[Problem]] = {}

    def add(self, place: int, column: str | None, error: RowError) -> None:
        problem = Problem(self.row_number(place), column, error.code, error.message)
        problems = self._by_place.setdefault(place, [])
        if problem not in problems:  # two cells of one column may have the same problem
            problems.append(problem)

    def row_number(self, place: int) -> int:
        return self._row + 1 + place

    def add_cells(self, column: int, outcomes: Iterable[tuple[int, Any]]) -> None:
        """Add the outcomes that are errors; each outcome has the place of its row."""
        for place, outcome in outcomes:
            if isinstance(outcome, RowError):
                self.add(place, self._columns[column].name, outcome)

    def good_rows(self) -> list[bool]:
        """Return for each row if it has no problem so far."""
        return [place not in self._by_place for place in range(self._rows)]

    def in_order(self) -> list[Problem]:
        return [problem for place in sorted(self._by_place) for problem in self._by_place[place]]


class _ParsedColumn(NamedTuple):
    """One column to change.

    Attributes:
        flat: its cells.
        values: the value of every distinct cell. Empty cells map to None, invalid cells to the ``RowError``.
        sent: the cells whose values are sent, in order.
    """

    flat: FlatColumn
    values: dict[Any, Any]
    sent: list[Any]


class _ParsedRows(NamedTuple):
    """The rows of a chunk, parsed.

    Attributes:
        split_columns: the split rows, by column.
        columns: the columns to change.
        is_sent: for each row, if its values are sent: rows with a problem are not.
        blank: number of rows that are kept because they have no cells.
    """

    split_columns: list[tuple[Any, ...]]
    columns: list[_ParsedColumn]
    is_sent: list[bool]
    blank: int


class Chunk:
    """Rows that are sent together. ``parse`` makes a chunk.

    Attributes:
        items: the items to send.
        rows: number of rows.
        blank: number of rows that are kept because they have no cells.
        input_size: size of the rows in the input, in the unit of offsets.
        memory_bytes: about how many bytes of memory the rows take.
    """

    def __init__(
        self, row_format: RowFormat, records: Sequence[Any], parsed: _ParsedRows, problems: _Problems, *, dedupe: bool
    ) -> None:
        self._format = row_format
        self._parsed = parsed
        self._problems = problems
        self._dedupe = dedupe
        self.items: list[SentItem] = []
        for (_, _, token_format), kind, column in zip(
            row_format.columns, row_format.types, parsed.columns, strict=True
        ):
            values = map(column.values.__getitem__, column.sent)
            if token_format is None:
                self.items += zip(repeat(kind), values, strict=False)
            else:
                self.items += map(Item, repeat(kind), values, repeat(None), repeat(token_format))
        self.rows = len(records)
        self.blank = parsed.blank
        self.input_size = sum(map(row_format.input_size, records))
        self.memory_bytes = sum(map(row_format.memory_bytes, records))

    @classmethod
    def parse(cls, row_format: RowFormat, row: int, records: Sequence[Any], *, dedupe: bool) -> Self:
        """Parse rows, and list the items to send.

        Args:
            row_format: format of the file.
            row: number of the row before the first.
            records: the rows, at least one.
            dedupe: send a value that occurs several times only once. False if each shall have its own token.
        """
        problems = _Problems(row, len(records), row_format.columns)
        split_rows, blank = _split_rows(row_format, records, problems)
        split_columns = [*zip(*split_rows, strict=True)]
        flat_columns = [_flatten(cells) for cells in split_columns[row_format.cell_slice]]
        values = [_read_cells(row_format, column, flat, problems) for column, flat in enumerate(flat_columns)]
        is_sent = problems.good_rows()
        columns = []
        for flat, value_of in zip(flat_columns, values, strict=True):
            cells = compress(flat.cells, flat.of_rows(is_sent))
            sent = [cell for cell in (dict.fromkeys(cells) if dedupe else cells) if value_of[cell] is not None]
            columns.append(_ParsedColumn(flat, value_of, sent))
        return cls(row_format, records, _ParsedRows(split_columns, columns, is_sent, blank), problems, dedupe=dedupe)

    def finish(self, answers: Sequence[Answer]) -> Finished:
        """Put the answers into their cells. There is one answer for each item. Call this once."""
        row_format, parsed, rest = self._format, self._parsed, iter(answers)
        columns: list[Sequence[Any]] = [*parsed.split_columns]
        changed: list[list[Any]] = []
        others: list[set[Any]] = []
        before = parsed.split_columns[row_format.cell_slice]
        for number, (column, cells_before) in enumerate(zip(parsed.columns, before, strict=True)):
            flat = column.flat
            answered = [*islice(rest, len(column.sent))]
            are_other = (isinstance(answer, OtherFormat) for answer in answered)
            others.append({*compress(column.sent, are_other)})
            written = self._write_cells(number, column.sent, answered)
            is_sent = flat.of_rows(parsed.is_sent)
            if self._dedupe:
                new = dict(zip(column.sent, written, strict=True))
                cells = [*map(new.get, flat.cells, flat.cells)]
            else:
                values, each = column.values, iter(written)
                cells = [
                    next(each) if was_sent and values[cell] is not None else cell
                    for cell, was_sent in zip(flat.cells, is_sent, strict=True)
                ]
            if RowError in map(type, written):
                self._problems.add_cells(number, compress(zip(flat.rows, cells, strict=True), is_sent))
            changed.append(cells if isinstance(flat.rows, range) else _regroup(cells, cells_before))
        columns[row_format.cell_slice] = changed
        done = self._problems.good_rows()
        output = row_format.encode_rows(columns, done)
        problems = self._problems.in_order()
        return Finished(output, problems, done.count(False), self._count_empty(done), self._others(others, done))

    def _write_cells(self, column: int, sent: Sequence[Any], answers: Sequence[Answer]) -> list[Any]:
        """Return the new cell for each cell that was sent, or the ``RowError``."""
        write = self._format.write_cell
        written: list[Any] = []
        for cell, answer in zip(sent, answers, strict=True):
            if isinstance(answer, RequestRefused):
                written.append(RowError(answer.code, without_path(answer.message)))
                continue
            try:
                written.append(write(answer, cell, column))
            except RowError as error:
                written.append(error)
        return written

    def _count_empty(self, done: Sequence[bool]) -> int:
        """Count the empty cells of the rows that are done."""
        count = 0
        for flat, values, _ in self._parsed.columns:
            empty = {cell for cell, value in values.items() if value is None and cell is not ABSENT}
            count += _count_cells(flat, empty, done)
        return count

    def _others(self, others: Iterable[Collection[Any]], done: Sequence[bool]) -> dict[str, list[int]]:
        """Return the row of each cell whose token was made in another format, by column. All these rows are done."""
        found = {
            column.name: [*map(self._problems.row_number, _rows_of_cells(parsed.flat, cells, done))]
            for column, parsed, cells in zip(self._format.columns, self._parsed.columns, others, strict=True)
        }
        return {name: rows for name, rows in found.items() if rows}


def _split_rows(
    row_format: RowFormat, records: Iterable[Any], problems: _Problems
) -> tuple[list[tuple[Any, ...]], int]:
    """Return the split rows, and how many of them are kept because they have no cells."""
    rows, blank = [], 0
    for place, record in enumerate(records):
        try:
            row = row_format.split_row(record)
            blank += row is None
        except RowError as error:
            problems.add(place, None, error)
            row = None
        rows.append(row_format.whole_row(record) if row is None else row)
    return rows, blank


def _read_cells(row_format: RowFormat, column: int, flat: FlatColumn, problems: _Problems) -> dict[Any, Any]:
    """Map every distinct cell to its value. Empty cells map to None, invalid cells to the ``RowError``."""
    read = row_format.read_cell
    values: dict[Any, Any] = dict.fromkeys(flat.cells)
    for cell in values:
        if cell is not ABSENT:
            try:
                values[cell] = read(cell, column)
            except RowError as error:
                values[cell] = error
    if RowError in map(type, values.values()):
        problems.add_cells(column, zip(flat.rows, map(values.__getitem__, flat.cells), strict=True))
    return values


def _flatten(cells: Sequence[Any]) -> FlatColumn:
    if CellGroup not in map(type, cells):
        return FlatColumn(cells, range(len(cells)))
    groups = [cell if type(cell) is CellGroup else (cell,) for cell in cells]
    return FlatColumn([*chain.from_iterable(groups)], [row for row, group in enumerate(groups) for _ in group])


def _count_cells(flat: FlatColumn, wanted: Collection[Any], done: Sequence[bool]) -> int:
    """Count the cells of a column that are among the wanted ones, in the rows that are done."""
    return sum(map(wanted.__contains__, compress(flat.cells, flat.of_rows(done)))) if wanted else 0


def _rows_of_cells(flat: FlatColumn, wanted: Collection[Any], done: Sequence[bool]) -> list[int]:
    """Return the place of the row of each cell that is among the wanted ones, in the rows that are done."""
    if not wanted:
        return []
    cells = compress(zip(flat.cells, flat.rows, strict=True), flat.of_rows(done))
    return [row for cell, row in cells if cell in wanted]


def _regroup(flat: Iterable[Any], before: Iterable[Any]) -> list[Any]:
    """Return the cells of each row, grouped as they were before."""
    rest = iter(flat)
    return [CellGroup(islice(rest, len(cell))) if type(cell) is CellGroup else next(rest) for cell in before]


def chunks(row_format: RowFormat, blocks: Iterable[Sequence[Any]], row: int, *, dedupe: bool) -> Iterator[Chunk]:
    """Yield all records in chunks. ``row`` is the number of the row before the first."""
    max_rows = max(1, CHUNK_ITEMS // max(1, len(row_format.columns)))
    for block in blocks:
        counts, sizes = [1] * len(block), [*map(row_format.memory_bytes, block)]
        for records in bounded_chunks(block, counts, sizes, max_count=max_rows, max_size=CHUNK_BYTES):
            yield Chunk.parse(row_format, row, records, dedupe=dedupe)
            row += len(records)

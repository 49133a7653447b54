"""Rows of any format become chunks: what goes into a request, and how its answers become output again. Pure.

A chunk goes by columns, not by rows: most of the work is then done once for all its rows, or once for a cell that is
there many times.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, islice, repeat
from typing import Any, Final, NamedTuple, Protocol

from token_worker.client import Answer, RequestRefused
from token_worker.contract.messages import TypeName
from token_worker.files.columns import Column, RowError, SentItem, Value

CHUNK_ITEMS = 1000
"""Cells that a chunk has at most, but for a row of more: what a request may have by default."""

CHUNK_BYTES = 1 << 18
"""Bytes of rows that a chunk has at most, but for a row of more."""

ABSENT: Final = ()
"""In place of a cell that a row does not have. No cell is the same as it."""

SAMPLE_ROWS = 1000
"""Rows that are looked at before anything is sent."""


class Head(NamedTuple):
    """What stands before the rows: its bytes, which the output begins with as well, where it ends, its rows."""

    data: bytes
    offset: int
    rows: int


class CellGroup(tuple[Any, ...]):
    """In place of a cell, all those that a row has of one column."""

    __slots__ = ()


class FlatColumn(NamedTuple):
    """Cells of one column one after another, and the place of the row of each."""

    cells: Sequence[Any]
    rows: Sequence[int]

    def of_rows(self, flags: Sequence[bool]) -> Sequence[bool]:
        """For each cell what is said of its row."""
        return flags if isinstance(self.rows, range) else [flags[row] for row in self.rows]


class RowFormat(Protocol):
    """What is to be known of a format, for given columns."""

    @property
    def columns(self) -> Sequence[Column]:
        """Those to be changed."""

    @property
    def types(self) -> Sequence[TypeName]:
        """Their types."""

    @property
    def cell_slice(self) -> slice:
        """Where in a row its cells stand, one for each column, in order."""

    def input_size(self, record: Any) -> int:
        """How far a record takes the reader: bytes of the input."""

    def memory_bytes(self, record: Any) -> int:
        """Bytes of memory that it takes, about."""

    def split_row(self, record: Any) -> tuple[Any, ...] | None:
        """A row: the cells to be changed, and what else there is. None: it is kept as it is. Raises ``RowError``."""

    def whole_row(self, record: Any) -> tuple[Any, ...]:
        """The same for one that is kept: its cells are ``ABSENT``."""

    def read_cell(self, cell: Any, column: int) -> Value | None:
        """The value of a cell, None where there is none; raises ``RowError``."""

    def write_cell(self, value: Value, cell: Any, column: int) -> Any:
        """The cell with another value; raises ``RowError``."""

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """The output for rows, given as the columns of them all, and whether each could be done."""


class Problem(NamedTuple):
    """Why a row is not in the output; nothing of it."""

    row: int
    column: str | None
    code: str
    message: str


class Finished(NamedTuple):
    """A chunk when it is done.

    Attributes:
        output: for the rows that could be done.
        problems: of the others, in order.
        lost: how many these are.
        empty: cells that were left as they are, since there is no value in them.
    """

    output: bytes
    problems: list[Problem]
    lost: int
    empty: int


class Chunk:
    """Rows that are sent together.

    Args:
        row_format: of the file.
        row: number of the row before the first.
        records: one at least.
        dedupe: a value that is there several times is sent once; not where each is to get a token of its own.

    Attributes:
        items: to be sent.
        rows: how many there are.
        blank: how many of these are kept as they are, since they have no cells.
        size: how far they take the reader.
        weight: bytes that it holds, about.
    """

    def __init__(self, row_format: RowFormat, row: int, records: Sequence[Any], *, dedupe: bool) -> None:
        self._format = row_format
        self._row = row
        self._dedupe = dedupe
        self._problems: dict[int, list[Problem]] = {}
        """By the place of the row."""
        self.rows = len(records)
        self.blank = 0
        self.size = sum(map(row_format.input_size, records))
        self.weight = sum(map(row_format.memory_bytes, records))
        self._columns = [*zip(*self._opened(records), strict=True)]
        self._flat = [_flat(cells) for cells in self._columns[row_format.cell_slice]]
        self._values = [self._read(column, flat) for column, flat in enumerate(self._flat)]
        self._kept = self._done()
        self._sent: list[list[Any]] = []
        self.items: list[SentItem] = []
        for kind, flat, values in zip(row_format.types, self._flat, self._values, strict=True):
            kept = compress(flat.cells, flat.of_rows(self._kept))
            sent = [cell for cell in (dict.fromkeys(kept) if dedupe else kept) if values[cell] is not None]
            self._sent.append(sent)
            self.items += zip(repeat(kind), map(values.__getitem__, sent), strict=False)

    def _opened(self, records: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        for place, record in enumerate(records):
            try:
                row = self._format.split_row(record)
                self.blank += row is None
            except RowError as wrong:
                self._refuse(place, None, wrong)
                row = None
            yield self._format.whole_row(record) if row is None else row

    def _read(self, column: int, flat: FlatColumn) -> dict[Any, Any]:
        """The value of each cell, None where there is none; where the cell is wrong, what is."""
        read = self._format.read_cell
        values: dict[Any, Any] = dict.fromkeys(flat.cells)
        for cell in values:
            if cell is not ABSENT:
                try:
                    values[cell] = read(cell, column)
                except RowError as wrong:
                    values[cell] = wrong
        if RowError in map(type, values.values()):
            self._refuse_some(column, zip(flat.rows, map(values.__getitem__, flat.cells), strict=True))
        return values

    def _refuse_some(self, column: int, outcomes: Iterable[tuple[int, Any]]) -> None:
        for place, outcome in outcomes:
            if isinstance(outcome, RowError):
                self._refuse(place, self._format.columns[column].name, outcome)

    def _refuse(self, place: int, column: str | None, wrong: RowError) -> None:
        problem = Problem(self._row + 1 + place, column, wrong.code, wrong.message)
        problems = self._problems.setdefault(place, [])
        if problem not in problems:  # as of two cells of one column
            problems.append(problem)

    def _done(self) -> list[bool]:
        return [place not in self._problems for place in range(self.rows)]

    def finish(self, answers: Sequence[Answer]) -> Finished:
        """Put the answers, one for each of the items, in their cells; to be called once."""
        row_format, left = self._format, iter(answers)
        columns: list[Sequence[Any]] = [*self._columns]
        changed: list[list[Any]] = []
        for column, (flat, before) in enumerate(zip(self._flat, self._columns[row_format.cell_slice], strict=True)):
            written = self._written(column, left)
            kept = flat.of_rows(self._kept)
            if self._dedupe:
                new = dict(zip(self._sent[column], written, strict=True))
                cells = [*map(new.get, flat.cells, flat.cells)]
            else:
                values, each = self._values[column], iter(written)
                cells = [
                    next(each) if is_kept and values[cell] is not None else cell
                    for cell, is_kept in zip(flat.cells, kept, strict=True)
                ]
            if RowError in map(type, written):
                self._refuse_some(column, compress(zip(flat.rows, cells, strict=True), kept))
            changed.append(cells if isinstance(flat.rows, range) else _gathered(cells, before))
        columns[row_format.cell_slice] = changed
        done = self._done()
        empty = 0
        for flat, values in zip(self._flat, self._values, strict=True):
            if nothing := [cell for cell, value in values.items() if value is None and cell is not ABSENT]:
                empty += sum(map([*compress(flat.cells, flat.of_rows(done))].count, nothing))
        problems = [problem for place in sorted(self._problems) for problem in self._problems[place]]
        return Finished(row_format.encode_rows(columns, done), problems, done.count(False), empty)

    def _written(self, column: int, answers: Iterator[Answer]) -> list[Any]:
        """The new cell for each that was sent; where there is none, why."""
        write = self._format.write_cell
        written: list[Any] = []
        for cell, answer in zip(self._sent[column], answers, strict=False):
            if isinstance(answer, RequestRefused):
                written.append(RowError(answer.code, answer.message))
                continue
            try:
                written.append(write(answer, cell, column))
            except RowError as wrong:
                written.append(wrong)
        return written


def _flat(cells: Sequence[Any]) -> FlatColumn:
    if CellGroup not in map(type, cells):
        return FlatColumn(cells, range(len(cells)))
    each = [cell if type(cell) is CellGroup else (cell,) for cell in cells]
    return FlatColumn([*chain.from_iterable(each)], [row for row, those in enumerate(each) for _ in those])


def _gathered(flat: Iterable[Any], before: Iterable[Any]) -> list[Any]:
    """The cells of each row, of as many as there were before."""
    left = iter(flat)
    return [CellGroup(islice(left, len(cell))) if type(cell) is CellGroup else next(left) for cell in before]


def chunks(row_format: RowFormat, blocks: Iterable[Sequence[Any]], row: int, *, dedupe: bool) -> Iterator[Chunk]:
    """All records, block by block, in chunks; ``row`` is the number of the row before the first."""
    for block in blocks:
        for records in _parts(row_format, block):
            yield Chunk(row_format, row, records, dedupe=dedupe)
            row += len(records)


def _parts(row_format: RowFormat, block: Sequence[Any]) -> Iterator[Sequence[Any]]:
    most = max(1, CHUNK_ITEMS // max(1, len(row_format.columns)))
    start = weight = 0
    for at, more in enumerate(map(row_format.memory_bytes, block)):
        weight += more
        if at > start and (at - start >= most or weight > CHUNK_BYTES):
            yield block[start:at]
            start, weight = at, more
    if block:
        yield block[start:]

"""Rows of any format become chunks: what goes into a request or two, and how its answers become output again. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from token_worker.client import Answer, Item, RequestRefused
from token_worker.contract.messages import TypeName
from token_worker.files.columns import Column, Value, Wrong

CHUNK_ITEMS = 1000
"""Values that are sent together: what a request may have by default."""

CHUNK_BYTES = 1 << 18
"""Characters of values, and bytes of rows, that a chunk has at most; but it has one row at least."""

CHUNK_ROWS = 5000
"""Rows of a chunk, whatever they have to be sent."""


class Format(Protocol):
    """What is to be known of a format, for given columns."""

    @property
    def columns(self) -> Sequence[Column]:
        """Those to be changed."""

    @property
    def types(self) -> Sequence[TypeName]:
        """Their types."""

    def size(self, record: Any) -> int:
        """How far a record takes the reader: bytes of the input."""

    def open(self, record: Any) -> tuple[list[Any], Sequence[int]] | None:
        """The pieces of a record, of which the second, fourth … are cells to be changed, and whose columns these are.

        None: the record is kept as it is. Raises ``Wrong``.
        """

    def read(self, cell: Any, column: int) -> Value | None:
        """The value of a cell, None where there is none; raises ``Wrong``."""

    def write(self, value: Value, cell: Any, column: int) -> Any:
        """The cell with another value; raises ``Wrong``."""

    def join(self, rows: Sequence[list[Any] | None]) -> bytes:
        """The output for rows, given as their pieces; None: a row that could not be done."""


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


class _Row(NamedTuple):
    """A row of a chunk: its pieces, the columns of its cells, where in the request each one's value is (-1: none)."""

    number: int
    pieces: list[Any]
    columns: Sequence[int] = ()
    places: Sequence[int] = ()
    problems: Sequence[Problem] = ()


class Chunk:
    """Rows that are sent together.

    Args:
        form: of the file.
        dedupe: a value that is there several times is sent once; not where each is to get a token of its own.

    Attributes:
        items: to be sent.
        blank: how many of its rows are kept as they are, since they have no cells.
        size: how far its rows take the reader.
        weight: bytes that it holds, about.
    """

    def __init__(self, form: Format, *, dedupe: bool) -> None:
        self._form = form
        self._dedupe = dedupe
        self._rows: list[_Row] = []
        self._known: dict[Item, int] = {}
        self.items: list[Item] = []
        self.blank = 0
        self.size = 0
        self.weight = 0

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        """Whether it is time to send it."""
        return len(self.items) >= CHUNK_ITEMS or self.weight >= CHUNK_BYTES or len(self._rows) >= CHUNK_ROWS

    def add(self, number: int, record: Any) -> None:
        """Take the next row."""
        form = self._form
        size = form.size(record)
        self.size += size
        self.weight += size
        try:
            opened = form.open(record)
        except Wrong as wrong:
            self._rows.append(_Row(number, [], problems=[Problem(number, None, wrong.code, wrong.message)]))
            return
        if opened is None:
            self.blank += 1
            self._rows.append(_Row(number, [record]))
            return
        pieces, columns = opened
        found: list[Item | None] = []
        problems = []
        for column, cell in zip(columns, pieces[1::2], strict=True):
            try:
                value = form.read(cell, column)
            except Wrong as wrong:
                problems.append(Problem(number, form.columns[column].name, wrong.code, wrong.message))
            else:
                found.append(None if value is None else Item(form.types[column], value))
        places = [] if problems else [self._place(item) for item in found]
        self._rows.append(_Row(number, pieces, columns, places, problems))

    def _place(self, item: Item | None) -> int:
        if item is None:
            return -1
        new = len(self.items)
        place = self._known.setdefault(item, new) if self._dedupe else new
        if place == new:
            self.items.append(item)
            value = item.value
            self.weight += 8 if isinstance(value, int) else len(value)
        return place

    def finish(self, answers: Sequence[Answer]) -> Finished:
        """Put the answers, one for each of the items, in their cells."""
        form = self._form
        rows: list[list[Any] | None] = []
        problems: list[Problem] = []
        empty = 0
        for number, pieces, columns, places, refused in self._rows:
            before = len(problems)
            problems += refused
            left = 0
            for at, place in enumerate(places):
                if place < 0:
                    left += 1
                    continue
                answer, column = answers[place], columns[at]
                try:
                    if isinstance(answer, RequestRefused):
                        raise Wrong(answer.code, answer.message)  # noqa: TRY301 - as an answer that cannot be written
                    pieces[2 * at + 1] = form.write(answer, pieces[2 * at + 1], column)
                except Wrong as wrong:
                    problems.append(Problem(number, form.columns[column].name, wrong.code, wrong.message))
            is_done = len(problems) == before
            rows.append(pieces if is_done else None)
            empty += left if is_done else 0
        return Finished(form.join(rows), problems, rows.count(None), empty)


def chunks(form: Format, records: Iterable[Any], row: int, *, dedupe: bool) -> Iterator[Chunk]:
    """All records in chunks; ``row`` is the number of the row before the first."""
    chunk = Chunk(form, dedupe=dedupe)
    for number, record in enumerate(records, row + 1):
        chunk.add(number, record)
        if chunk.is_full:
            yield chunk
            chunk = Chunk(form, dedupe=dedupe)
    if chunk.rows:
        yield chunk

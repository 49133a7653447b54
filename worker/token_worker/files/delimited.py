"""CSV and TSV: records, their fields, and how a field is written. Pure.

Read as Python's ``csv`` does: a field that begins with a quote goes on to the next single quote, also over line ends;
a quote elsewhere is a character like others. A record ends with LF, CR LF or CR. Blank records are kept as they are.

Every pattern is possessive, so that no input makes it try again what it has tried. A pattern that is repeated so must
not fail behind its first byte: Python before 3.11.5 then goes on where the failed try ended (CPython's gh-106052).
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, compress
from typing import Any

from token_worker.contract.messages import TypeName
from token_worker.errors import OperatorError
from token_worker.files.columns import READ, WRITE, Column, RowCode, RowError, Value, format_names
from token_worker.files.records import Encoding
from token_worker.files.rows import ABSENT

DELIMITERS = {"csv": ",", "tsv": "\t"}
"""What stands between fields, unless it is said."""

USUAL_DELIMITERS = {",": "','", ";": "';'", "\t": "$'\\t'", "|": "'|'"}
"""Those that are tried to tell which one was meant, as a shell takes them."""

_VALUE = re.compile(r"@|(?:\d\D?){6}")
"""What a name does not have in it, but a value well may."""

MARKERS = frozenset(
    form(marker)
    for marker in (
        "\\N",
        "NULL",
        "None",
        "NaN",
        "N/A",
        "NA",
        "nil",
        "#N/A",
        "#NA",
        "<NA>",
        "<NULL>",
        "(null)",
        "[NULL]",
    )
    for form in (str, str.lower, str.upper, str.capitalize)
)
"""What many programs write where there is no value."""

_OPENED = rb'"[^"]*+(?:""[^"]*+)*+'
_QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')
_LINE_END = rb"(?:\r\n?|\n|\Z)"


class Dialect:
    """How fields are told apart.

    Args:
        encoding: of the file.
        delimiter: one character of ASCII.
        quotes: whether there are quoted fields; else a quote is a character like others.

    Raises:
        OperatorError: a delimiter that cannot be one.
    """

    def __init__(self, encoding: Encoding, delimiter: str, *, quotes: bool = True) -> None:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in '"\r\n\0-+':
            raise OperatorError(
                "the delimiter is one character of ASCII, and none that numbers, texts or quotes are made of"
            )
        self.encoding = encoding
        self.quotes = quotes
        self.delimiter = delimiter.encode()
        for character in (self.delimiter, b'"', b"\r", b"\n"):
            encoding.check(character)
        self.between = re.escape(self.delimiter)
        bare = rb"[^%s\r\n]*+" % self.between
        self.field = rb'(?:%s"%s|(?!")%s)' % (_OPENED, bare, bare) if quotes else bare
        self._ends = self.delimiter + b"\r\n"
        self._records = re.compile(rb"(?!\Z)" + self._record(bare, rb"\Z"))
        self._is_open = re.compile(self._record(bare, rb"(\Z)"))
        self._fields = re.compile(rb"(%s)%s" % (self.field, self.between))

    def _record(self, bare: bytes, never_closed: bytes) -> bytes:
        """A pattern of records; of the last one the last quote may be open, then all that is left is its field."""
        field = rb'(?:%s(?:"%s|%s)|(?!")%s)' % (_OPENED, bare, never_closed, bare) if self.quotes else bare
        return rb"%s(?:%s%s)*+%s" % (field, self.between, field, _LINE_END)

    def cut(self, data: bytes, final: bool) -> tuple[list[bytes], int]:
        """See ``records.Cut``."""
        if self.quotes and b'"' in data:
            records: list[bytes] = self._records.findall(data)
        else:
            records = data.splitlines(keepends=True)
        used = len(data)
        if records and (self._may_go_on(records[-1]) or not (final or data.endswith(b"\n"))):
            used -= len(records.pop())  # a CR may be half of a CR LF
        return records, used

    def _may_go_on(self, record: bytes) -> bool:
        """Whether a quote in it is open."""
        found = self._is_open.match(record)
        return found is None or found.lastindex is not None

    def fields(self, record: bytes) -> list[bytes]:
        """The fields of a record as they stand there, quotes included."""
        found: list[bytes] = self._fields.findall(record.rstrip(b"\r\n") + self.delimiter)
        return found

    def text(self, field: bytes) -> str:
        """What a field says; raises ``RowError``."""
        if self.quotes and field[:1] == b'"' and (found := _QUOTED.match(field)):
            field = found[1].replace(b'""', b'"') + field[found.end() :]
        try:
            return field.decode(self.encoding.cells)
        except UnicodeDecodeError:
            raise RowError(RowCode.WRONG_ENCODING, f"expected text in {self.encoding.cells}") from None

    def written(self, text: str, before: bytes) -> bytes:
        """A field that says this in place of another: quoted if that was, or if it has to be; raises ``RowError``."""
        try:
            field = text.encode(self.encoding.cells)
        except UnicodeEncodeError:
            raise RowError(RowCode.WRONG_ENCODING, f"the answer cannot be written in {self.encoding.cells}") from None
        if self.quotes and (before[:1] == b'"' or field[:1] == b'"' or field.translate(None, self._ends) != field):
            return b'"' + field.replace(b'"', b'""') + b'"'
        if not self.quotes and field.translate(None, self._ends) != field:
            raise RowError(
                RowCode.WRONG_FORM, "the answer has a delimiter or a line end in it, and there are no quotes"
            )
        return field


class Delimited:
    """Rows of a file of which some columns are to be changed; see ``rows.RowFormat``.

    Args:
        dialect: of the file.
        columns: to be changed.
        first: the first record that is not blank: the header, or without one any row.
        header: whether it is one; else columns are numbers from 1.
        nulls: cells, as they stand in the file, that are kept as the empty ones are.
        met: is told the column and the text of each cell that looks as if it stood for no value.

    Raises:
        OperatorError: a column that is not there, or more than once; or text that no cell can be.
    """

    def __init__(
        self,
        dialect: Dialect,
        columns: Sequence[Column],
        first: bytes,
        *,
        header: bool,
        nulls: Sequence[str] = (),
        met: Callable[[str, str], object] = lambda _column, _text: None,
    ) -> None:
        names = _names(dialect, first, header=header)
        for column in columns:
            if (count := names.count(column.name)) != 1:
                other = "" if count else _other_delimiter(dialect, columns, first, header=header)
                if header and any(_VALUE.search(name) for name in names):  # these are not to be shown
                    hint = other or "; is the first row one of values: --no-header?"
                    raise OperatorError(f"there is not one column {column.name}{hint}")
                there = format_names(names) if header else f"1 to {len(names)}"
                is_there = "more than one" if count else "no"
                raise OperatorError(f"there is {is_there} column {column.name}; there are {there}{other}")
        places = sorted((names.index(column.name), column) for column in columns)
        self.columns = [column for _, column in places]
        self.types = [TypeName(column.type) for column in self.columns]
        self._dialect = dialect
        self._count = len(names)
        self._row = re.compile(_pattern(dialect, [place for place, _ in places], len(names)))
        self._nothing = (ABSENT,) * (2 * len(columns))
        self._read = [READ[column.type] for column in self.columns]
        self._write: list[Any] = [WRITE[column.type] for column in self.columns]
        self.input_size = dialect.encoding.size
        self._is_exact = dialect.encoding.is_exact
        self._nulls = frozenset(_null(dialect, text) for text in nulls)
        self._met = met

    cell_slice = slice(1, None, 2)
    """A row is what stands before, between and after its cells, and these."""

    memory_bytes = staticmethod(len)

    def split_row(self, record: bytes) -> tuple[Any, ...] | None:
        """See ``rows.RowFormat``."""
        if record[0] in b"\r\n":
            return None
        found = self._row.match(record)
        if found is None:
            raise RowError(RowCode.WRONG_FIELDS, f"expected {self._count} fields")
        return found.groups()

    def whole_row(self, record: bytes) -> tuple[Any, ...]:
        """See ``rows.RowFormat``."""
        return (record, *self._nothing)

    def read_cell(self, cell: bytes, column: int) -> Value | None:
        """See ``rows.RowFormat``."""
        if self._nulls and cell in self._nulls:
            return None
        text = self._dialect.text(cell)
        if not text:
            return None
        if text in MARKERS:
            self._met(self.columns[column].name, text)
        if (cell[:1] == b'"' or not self._is_exact) and self._dialect.written(text, cell) != cell:
            raise RowError(RowCode.WRONG_FORM, "expected a cell as it would be written, with nothing behind its quotes")
        return self._read[column](text)

    def write_cell(self, value: Value, cell: bytes, column: int) -> bytes:
        """See ``rows.RowFormat``."""
        written = self._dialect.written(self._write[column](value), cell)
        if self._nulls and written in self._nulls:  # of millions of short texts it is one, by chance
            raise RowError(RowCode.WRONG_FORM, "the answer reads as --null says that no value does")
        return written

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """See ``rows.RowFormat``."""
        rows = compress(zip(*columns, strict=True), done)
        return self._dialect.encoding.written(b"".join(filter(None, chain.from_iterable(rows))))


def _names(dialect: Dialect, first: bytes, *, header: bool) -> list[str]:
    fields = dialect.fields(first)
    return [dialect.text(field) for field in fields] if header else [str(n + 1) for n in range(len(fields))]


def _other_delimiter(dialect: Dialect, columns: Sequence[Column], first: bytes, *, header: bool) -> str:
    """Says which delimiter would find all columns, if one of the usual would."""
    for delimiter, shown in USUAL_DELIMITERS.items():
        with suppress(OperatorError, RowError):
            names = _names(Dialect(dialect.encoding, delimiter, quotes=dialect.quotes), first, header=header)
            if all(names.count(column.name) == 1 for column in columns):
                return f"; --delimiter {shown} would find {'it' if len(columns) == 1 else 'them'}"
    return ""


def _null(dialect: Dialect, text: str) -> bytes:
    """A cell that stands for no value."""
    try:
        cell = text.encode(dialect.encoding.cells)
    except UnicodeEncodeError:
        cell = b""
    if not cell or dialect.fields(cell) != [cell]:
        raise OperatorError("--null: expected the text of a cell; empty ones are kept in any case")
    return cell


def _pattern(dialect: Dialect, places: Sequence[int], count: int) -> bytes:
    """A whole record of so many fields; its groups are those at the places, and what stands around them."""
    field, between = dialect.field, dialect.between
    pattern, at = b"(", 0
    for place in places:
        pattern += rb"(?:%s%s){%d}+)(%s)(" % (field, between, place - at, field)
        pattern += between if place < count - 1 else b""
        at = place + 1
    if at < count:
        pattern += rb"(?:%s%s){%d}+%s" % (field, between, count - at - 1, field)
    return pattern + _LINE_END + rb"\Z)"

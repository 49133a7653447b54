"""CSV and TSV: find records and their fields, and write fields. Pure.

Fields are read like Python's ``csv`` reads them. A field that begins with a quote ends at the next single quote, also
after line ends. A quote in another place is an ordinary character. A record ends with LF, CR LF or CR. Blank records
are kept.

Every pattern is possessive, so that no input causes backtracking. A group that is repeated possessively must not fail
after its first byte: Python before 3.11.5 then continues where the failed attempt ended (CPython's gh-106052).
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, compress
from typing import Any

from token_worker.client import Value
from token_worker.contract.messages import TypeName
from token_worker.errors import OperatorError
from token_worker.files.columns import READ, WRITE, Column, RowCode, RowError, format_names
from token_worker.files.records import Encoding
from token_worker.files.rows import ABSENT

DELIMITERS = {"csv": ",", "tsv": "\t"}
"""Default delimiters."""

USUAL_DELIMITERS = {",": "','", ";": "';'", "\t": "$'\\t'", "|": "'|'"}
"""Delimiters to suggest in error messages, and how to write them in a shell."""

_VALUE = re.compile(r"@|(?:\d\D?){6}")
"""Text that a value may contain, but hardly the name of a column."""

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
"""Texts that many programs write to mean "no value"."""

_JOINED_ROWS = (
    "expected nothing after the closing quote of a field of several lines: double the quotes within quoted fields, "
    "or use --no-quotes if quotes are ordinary characters in this file"
)

_OPENED = rb'"[^"]*+(?:""[^"]*+)*+'
_QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')
_JOINED = re.compile(rb'(?="[^"\r\n]*+(?:""[^"\r\n]*+)*+[\r\n])%s".' % _OPENED, re.DOTALL)
"""A quoted field that contains a line end, and continues after its closing quote."""

_LINE_END = rb"(?:\r\n?|\n|\Z)"


class Dialect:
    """Encoding, delimiter and quoting of a file.

    Args:
        encoding: encoding of the file.
        delimiter: one ASCII character.
        quotes: True if fields may be quoted. Otherwise a quote is an ordinary character.

    Raises:
        OperatorError: the delimiter is not allowed.
    """

    def __init__(self, encoding: Encoding, delimiter: str, *, quotes: bool = True) -> None:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in '"\r\n\0-+':
            raise OperatorError("the delimiter must be one ASCII character: not a letter, a digit, a quote, + or -")
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
        """Return a pattern of records. In the last record, a quote may be open: then the field has the whole rest."""
        field = rb'(?:%s(?:"%s|%s)|(?!")%s)' % (_OPENED, bare, never_closed, bare) if self.quotes else bare
        return rb"%s(?:%s%s)*+%s" % (field, self.between, field, _LINE_END)

    def cut(self, data: bytes, final: bool) -> tuple[list[bytes], int]:
        """See ``records.Cut``."""
        if self.quotes and b'"' in data:
            records: list[bytes] = self._records.findall(data)
        else:
            records = data.splitlines(keepends=True)
        used = len(data)
        if records and (self._has_open_quote(records[-1]) or not (final or data.endswith(b"\n"))):
            used -= len(records.pop())  # a CR at the end may be the first half of CR LF
        return records, used

    def _has_open_quote(self, record: bytes) -> bool:
        found = self._is_open.match(record)
        return found is None or found.lastindex is not None

    def fields(self, record: bytes) -> list[bytes]:
        """Return the fields of a record unchanged, with their quotes."""
        found: list[bytes] = self._fields.findall(record.rstrip(b"\r\n") + self.delimiter)
        return found

    def has_inner_line_end(self, record: bytes) -> bool:
        """Tell whether a quoted field of a record contains a line end."""
        if not self.quotes or b'"' not in record:
            return False
        row = record.rstrip(b"\r\n")
        return b"\n" in row or b"\r" in row

    def text(self, field: bytes) -> str:
        """Return the text of a field. Raises ``RowError``."""
        if self.quotes and field[:1] == b'"' and (found := _QUOTED.match(field)):
            field = found[1].replace(b'""', b'"') + field[found.end() :]
        try:
            return field.decode(self.encoding.cells)
        except UnicodeDecodeError:
            complaint = f"expected text in {self.encoding.cells}; --encoding names another encoding"
            raise RowError(RowCode.WRONG_ENCODING, complaint) from None

    def written(self, text: str, before: bytes) -> bytes:
        """Return the field for a text. It has quotes if the field before had quotes, or if the text needs them.

        Raises:
            RowError: the file cannot hold the text.
        """
        try:
            field = text.encode(self.encoding.cells)
        except UnicodeEncodeError:
            complaint = f"the answer cannot be written in {self.encoding.cells}: convert the file to utf-8 first"
            raise RowError(RowCode.WRONG_ENCODING, complaint) from None
        if self.quotes and (before[:1] == b'"' or field[:1] == b'"' or field.translate(None, self._ends) != field):
            return b'"' + field.replace(b'"', b'""') + b'"'
        if not self.quotes and field.translate(None, self._ends) != field:
            raise RowError(RowCode.WRONG_FORM, "the answer contains a delimiter or a line end, and --no-quotes is set")
        return field


class Delimited:
    """Reads and writes rows of CSV and TSV; see ``rows.RowFormat``.

    Args:
        dialect: dialect of the file.
        columns: the columns to change.
        first: the first record that is not blank.
        header: True if the first record is a header. Otherwise columns are numbered from 1.
        nulls: cells that are kept like empty ones, exactly as they are in the file.
        tell_marker: takes the column and the text of each cell that seems to mean "no value".
        tell_joined: called for each record of several lines that all look like rows.

    Raises:
        OperatorError: a column does not exist, or exists twice; or a text of ``nulls`` cannot be a cell.
    """

    def __init__(
        self,
        dialect: Dialect,
        columns: Sequence[Column],
        first: bytes,
        *,
        header: bool,
        nulls: Sequence[str] = (),
        tell_marker: Callable[[str, str], object] = lambda _column, _text: None,
        tell_joined: Callable[[], object] = lambda: None,
    ) -> None:
        names = _names(dialect, first, header=header)
        for column in columns:
            if (count := names.count(column.name)) != 1:
                other = "" if count else _other_delimiter(dialect, columns, first, header=header)
                if header and any(_VALUE.search(name) for name in names):  # values must not be shown
                    hint = other or "; does the first row have values? Then use --no-header"
                    raise OperatorError(f"there is not exactly one column {column.name}{hint}")
                existing = format_names(names) if header else f"1 to {len(names)}"
                found = "more than one" if count else "no"
                raise OperatorError(f"there is {found} column {column.name}; the columns are {existing}{other}")
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
        self._tell_marker = tell_marker
        self._tell_joined = tell_joined

    cell_slice = slice(1, None, 2)
    """A split row alternates between the bytes around the cells, and the cells."""

    memory_bytes = staticmethod(len)

    def split_row(self, record: bytes) -> tuple[Any, ...] | None:
        """See ``rows.RowFormat``."""
        if record[0] in b"\r\n":
            return None
        found = self._row.match(record)
        if found is None:
            raise RowError(RowCode.WRONG_FIELDS, f"expected {self._count} fields")
        if self._dialect.has_inner_line_end(record):
            self._check_joined(record)
        return found.groups()

    def _check_joined(self, record: bytes) -> None:
        """Look for a quote that was meant as a character, and has joined several rows into this record.

        Raises:
            RowError: text follows the closing quote of a field of several lines.
        """
        if any(map(_JOINED.match, self._dialect.fields(record))):
            raise RowError(RowCode.WRONG_FIELDS, _JOINED_ROWS)
        counts = {line.count(self._dialect.delimiter) for line in record.splitlines()}
        if self._count > 1 and counts == {self._count - 1}:
            self._tell_joined()

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
            self._tell_marker(self.columns[column].name, text)
        if (cell[:1] == b'"' or not self._is_exact) and self._dialect.written(text, cell) != cell:
            raise RowError(RowCode.WRONG_FORM, "expected a cell in its usual form, with nothing after its quotes")
        return self._read[column](text)

    def write_cell(self, value: Value, cell: bytes, column: int) -> bytes:
        """See ``rows.RowFormat``."""
        written = self._dialect.written(self._write[column](value), cell)
        if self._nulls and written in self._nulls:  # a short token can be such a text by chance
            raise RowError(RowCode.WRONG_FORM, "the answer is a text that --null declares to mean no value")
        return written

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """See ``rows.RowFormat``."""
        rows = compress(zip(*columns, strict=True), done)
        return self._dialect.encoding.written(b"".join(filter(None, chain.from_iterable(rows))))


def _names(dialect: Dialect, first: bytes, *, header: bool) -> list[str]:
    fields = dialect.fields(first)
    return [dialect.text(field) for field in fields] if header else [str(n + 1) for n in range(len(fields))]


def _other_delimiter(dialect: Dialect, columns: Sequence[Column], first: bytes, *, header: bool) -> str:
    """Return a hint if another usual delimiter would find all columns."""
    for delimiter, shown in USUAL_DELIMITERS.items():
        with suppress(OperatorError, RowError):
            names = _names(Dialect(dialect.encoding, delimiter, quotes=dialect.quotes), first, header=header)
            if all(names.count(column.name) == 1 for column in columns):
                return f"; --delimiter {shown} would find {'it' if len(columns) == 1 else 'them'}"
    return ""


def _null(dialect: Dialect, text: str) -> bytes:
    """Return the cell for a text of ``--null``."""
    try:
        cell = text.encode(dialect.encoding.cells)
    except UnicodeEncodeError:
        cell = b""
    if not cell or dialect.fields(cell) != [cell]:
        raise OperatorError("--null: expected the text of a cell; empty cells are always kept")
    return cell


def _pattern(dialect: Dialect, places: Sequence[int], count: int) -> bytes:
    """Return a pattern for a record of so many fields. Its groups are the fields at the places, and the rest around."""
    field, between = dialect.field, dialect.between
    pattern, at = b"(", 0
    for place in places:
        pattern += rb"(?:%s%s){%d}+)(%s)(" % (field, between, place - at, field)
        pattern += between if place < count - 1 else b""
        at = place + 1
    if at < count:
        pattern += rb"(?:%s%s){%d}+%s" % (field, between, count - at - 1, field)
    return pattern + _LINE_END + rb"\Z)"

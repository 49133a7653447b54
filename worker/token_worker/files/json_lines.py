"""JSON Lines: one object in each line, of which some values are changed. Pure.

The rest of a line is not changed: spaces, order, the form of numbers, and escapes. A value is a member of the object,
of an object in it, or of elements of lists: see ``json_paths``. A text is written with no more escapes than necessary.

Many JSON readers cannot hold 64-bit numbers, so tokens of type ``int64`` are text, as in the contract. Then every
``int64`` value must be a number: otherwise detokenizing could not tell if the value was a number or text. With
``numbers``, the token of a number is a number and the token of a text is a text, and the same in detokenizing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Any

import msgspec

from token_worker.client import Value
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import OperatorError
from token_worker.files.columns import NAMES_SHOWN, READ, WRITE, Column, RowCode, RowError, check_number, format_names
from token_worker.files.json_paths import PathNode, joined, tree
from token_worker.files.records import Encoding
from token_worker.files.rows import ABSENT, CellGroup
from token_worker.files.suggest import Sample

_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_VALUE = rb'[ \t\r\n]*+(%s|[^\s,"\[\]{}]++|(?=[\[{]))' % _TEXT
_ELEMENT = re.compile(_VALUE)
_MEMBER = re.compile(rb"[ \t\r\n]*+(%s)[ \t\r\n]*+:%s" % (_TEXT, _VALUE))
_NESTED = re.compile(rb"%s|[\[\]{}]" % _TEXT)
_OPENING = re.compile(rb"[ \t\r\n]*+\{")
_COMMA = re.compile(rb"[ \t\r\n]*+,")
_WHOLE_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,99}")
_parse = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

NAMES_ROWS = 1000
"""Rows whose members are listed in the message about a missing member."""

MAX_DEPTH = 16
"""Deepest nesting of objects and lists that is searched for names."""


def cut(data: bytes, final: bool) -> tuple[list[bytes], int]:
    """See ``records.Cut``."""
    used = len(data) if final else data.rfind(b"\n") + 1
    lines = data[:used].split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else []), used


def members(record: bytes) -> list[tuple[str, int, int]]:
    """Find each member of a line's object: its name, and the start and end of its value.

    Raises:
        RowError: the line is not a JSON object, or has a member twice.
    """
    try:
        record.decode()  # msgspec does not check the encoding of values that it skips
        count = len(_parse(record))
    except UnicodeError:
        raise RowError(RowCode.WRONG_JSON, "expected text in UTF-8") from None
    except (msgspec.DecodeError, RecursionError):
        raise RowError(RowCode.WRONG_JSON, "expected a JSON object") from None
    opening = _OPENING.match(record)
    found = _members(record, opening.end() if opening else 0)
    if len(found) != count:
        raise RowError(RowCode.WRONG_JSON, "a member occurs twice")
    return found


def _members(record: bytes, at: int) -> list[tuple[str, int, int]]:
    """Find the members of the object whose bracket is before this place. The line must be valid JSON."""
    found: list[tuple[str, int, int]] = []
    while member := _MEMBER.match(record, at):
        start, end = member.span(2)
        if start == end:
            end = _end_of_nested(record, start)
        name = member[1]
        found.append((msgspec.json.decode(name) if b"\\" in name else name[1:-1].decode(), start, end))
        comma = _COMMA.match(record, end)
        if comma is None:
            break
        at = comma.end()
    return found


def _inner_members(record: bytes, at: int) -> list[tuple[str, int, int]]:
    """Find the members of an inner object. Raises ``RowError`` if a member occurs twice."""
    found = _members(record, at)
    if len({name for name, _, _ in found}) < len(found):
        raise RowError(RowCode.WRONG_JSON, "a member occurs twice")
    return found


def _end_of_nested(record: bytes, start: int) -> int:
    depth = 0
    for found in _NESTED.finditer(record, start):
        if found[0] in b"[{":
            depth += 1
        elif found[0] in b"]}":
            depth -= 1
            if not depth:
                return found.end()
    raise RowError(RowCode.WRONG_JSON, "expected a JSON object")


def _elements(record: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each element of the list whose bracket is before this place."""
    while element := _ELEMENT.match(record, at):
        start, end = element.span(1)
        if start == end:
            end = _end_of_nested(record, start)
        yield start, end
        comma = _COMMA.match(record, end)
        if comma is None:
            break
        at = comma.end()


def _find(record: bytes, start: int, end: int, node: PathNode, found: list[tuple[int, int, int]]) -> None:
    """Find the cells in a value, in the order of the line. Add start, end and column of each cell to ``found``.

    Raises:
        RowError: the path needs an object or a list here, but the value is something else.
    """
    opening = record[start : start + 1]
    if node.column is not None:
        found.append((start, end, node.column))
    elif opening == b"{" and node.members:
        for name, inner_start, inner_end in _inner_members(record, start + 1):
            if inner := node.members.get(name):
                _find(record, inner_start, inner_end, inner, found)
    elif opening == b"[" and node.elements:
        for inner_start, inner_end in _elements(record, start + 1):
            _find(record, inner_start, inner_end, node.elements, found)
    elif record[start:end] != b"null":
        kind = "a list" if node.elements else "an object"
        raise RowError(RowCode.WRONG_FORM, f"{format_names([node.path])}: expected {kind} or null")


class JsonLines:
    """Reads and writes rows of JSON Lines; see ``rows.RowFormat``.

    Args:
        encoding: encoding of the file.
        columns: the columns to change.
        some: records to search for the columns.
        op: tokenize or detokenize.
        numbers: True if the token of a 64-bit number is a number.

    Raises:
        OperatorError: a name is malformed; or no record of ``some`` has a column, so that its name is probably wrong.
    """

    def __init__(
        self, encoding: Encoding, columns: Sequence[Column], some: Iterable[bytes], *, op: Op, numbers: bool
    ) -> None:
        if encoding.cells != "utf-8":
            raise OperatorError("JSON Lines must be UTF-8, UTF-16 or UTF-32")
        self.columns = columns
        self.types = [TypeName(column.type) for column in columns]
        self.input_size = encoding.size
        self._encoding = encoding
        self._root = tree(columns)
        keeps = [numbers or kind is not TypeName.INT64 for kind in self.types]
        self._is_text = [None if keeps_kind else op == Op.TOKENIZE for keeps_kind in keeps]
        """For each column, if the answers are texts. None: an answer is a text if its value is a text."""
        self._list_columns = frozenset(place for place, column in enumerate(columns) if "[]" in column.name)
        self._check_names(some)

    def _check_names(self, some: Iterable[bytes]) -> None:
        missing, existing = {*range(len(self.columns))}, dict[str, None]()
        is_empty, is_json = True, False
        for number, record in enumerate(some):
            is_empty = False
            is_json = is_json or bool(_members_or_none(record))
            if not missing:
                break
            missing.difference_update(self._columns_in(record))
            if number < NAMES_ROWS and len(existing) < NAMES_SHOWN:
                existing.update((path, None) for path, _ in leaves(record))
        if not (is_empty or is_json):
            raise OperatorError(
                "no line is a JSON object with members; JSON Lines have one object in each line, as jq -c writes them"
            )
        if missing and not is_empty:
            names = ", ".join(self.columns[place].name for place in sorted(missing))
            others = f"; the members are {format_names(existing)}" if existing else ""
            raise OperatorError(f"no row has a member {names}{others}")

    def _columns_in(self, record: bytes) -> set[int]:
        found: list[tuple[int, int, int]] = []
        for name, start, end in _members_or_none(record):
            if node := self._root.members.get(name):
                try:
                    _find(record, start, end, node, found)
                except RowError:  # this becomes a problem of the row later
                    continue
        return {column for _, _, column in found}

    cell_slice = slice(1, None)
    """A split row begins with the bytes around its cells, and the columns of the cells in the order of the line."""

    memory_bytes = staticmethod(len)

    def split_row(self, record: bytes) -> tuple[Any, ...] | None:
        """See ``rows.RowFormat``."""
        if not record.strip():
            return None
        found: list[tuple[int, int, int]] = []
        wanted = self._root.members.get
        for name, start, end in members(record):
            if (node := wanted(name)) is None:
                continue
            if node.column is None:
                _find(record, start, end, node, found)
            else:
                found.append((start, end, node.column))
        around, columns = [], []
        cells: list[Any] = [ABSENT] * len(self.columns)
        lists: dict[int, list[bytes]] = {place: [] for place in self._list_columns} if self._list_columns else {}
        at = 0
        for start, end, place in found:
            around.append(record[at:start])
            columns.append(place)
            if place in lists:
                lists[place].append(record[start:end])
            else:
                cells[place] = record[start:end]
            at = end
        for place, group in lists.items():
            cells[place] = CellGroup(group)
        return ((*around, record[at:]), columns), *cells

    def whole_row(self, record: bytes) -> tuple[Any, ...]:
        """See ``rows.RowFormat``."""
        return ((record,), ()), *[ABSENT] * len(self.columns)

    def read_cell(self, cell: bytes, column: int) -> Value | None:
        """See ``rows.RowFormat``."""
        kind = self.types[column]
        if cell[:1] == b'"':
            text: str = msgspec.json.decode(cell)
            if text and self._is_text[column]:
                raise RowError(
                    RowCode.WRONG_FORM,
                    "expected a number, because tokens are texts; with --numbers the token of a text is a text",
                )
            return READ[kind](text) if text else None
        if cell == b"null":
            return None
        if kind not in (TypeName.INT32, TypeName.INT64):
            raise RowError(RowCode.WRONG_FORM, "expected text")
        if not _WHOLE_NUMBER.fullmatch(cell):
            raise RowError(RowCode.WRONG_FORM, "expected a whole number")
        return check_number(int(cell), kind)

    def write_cell(self, value: Value, cell: bytes, column: int) -> bytes:
        """See ``rows.RowFormat``."""
        text = WRITE[self.types[column]](value)
        if (is_text := self._is_text[column]) is None:
            is_text = cell[:1] == b'"'
        return msgspec.json.encode(text) if is_text else text.encode()

    def encode_rows(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """See ``rows.RowFormat``."""
        pieces: list[bytes] = []
        for (around, places), *cells in compress(zip(*columns, strict=True), done):
            if self._list_columns:
                rest = [iter(cell) if type(cell) is CellGroup else iter((cell,)) for cell in cells]
                for before, place in zip(around, places, strict=False):
                    pieces += (before, next(rest[place]))
            else:
                for before, place in zip(around, places, strict=False):
                    pieces += (before, cells[place])
            pieces.append(around[-1])
        return self._encoding.written(b"".join(pieces))


def leaves(record: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield each text, number, boolean and null of a line, with its path. A line that is not JSON has none."""
    for name, start, end in _members_or_none(record):
        yield from _leaves(record, start, end, joined("", name), MAX_DEPTH)


def _leaves(record: bytes, start: int, end: int, path: str, depth: int) -> Iterator[tuple[str, bytes]]:
    opening = record[start : start + 1]
    if opening not in (b"{", b"["):
        yield path, record[start:end]
    elif not depth:
        return
    elif opening == b"[":
        for inner_start, inner_end in _elements(record, start + 1):
            yield from _leaves(record, inner_start, inner_end, path + "[]", depth - 1)
    else:
        try:
            inner = _inner_members(record, start + 1)
        except RowError:  # a member occurs twice
            return
        for name, inner_start, inner_end in inner:
            yield from _leaves(record, inner_start, inner_end, joined(path, name), depth - 1)


def sample(records: Iterable[bytes]) -> dict[str, Sample]:
    """Collect the values at each path in these lines."""
    found: dict[str, list[bytes]] = {}
    for record in records:
        for path, cell in leaves(record):
            found.setdefault(path, []).append(cell)
    return {path: _sample(cells) for path, cells in found.items()}


def _sample(cells: Sequence[bytes]) -> Sample:
    values = [cell for cell in cells if cell != b"null"]
    texts = [msgspec.json.decode(cell) for cell in values if cell[:1] == b'"']
    numbers = [cell.decode() for cell in values if cell[:1] in b"-0123456789"]
    if len(texts) == len(values):
        return Sample(texts, (TypeName.INT32, TypeName.EMAIL, TypeName.STR), "text")
    if len(numbers) == len(values):
        return Sample(numbers, (TypeName.INT32, TypeName.INT64), "number")
    if len(texts) + len(numbers) == len(values):
        return Sample(texts + numbers, (TypeName.INT32,), "text and number")
    return Sample([], (), "boolean", "true and false have no tokens")


def _members_or_none(record: bytes) -> list[tuple[str, int, int]]:
    try:
        return members(record)
    except RowError:
        return []

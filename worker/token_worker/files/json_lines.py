"""JSON Lines: an object a line, of which some values are to be changed. Pure.

The rest of a line is not touched: spaces, order, forms of numbers and escapes. Values are members of the object, of
objects in it and of elements of lists: see ``json_paths``. A text is written with no more escapes than it needs.

Numbers of 64 bits are more than many readers of JSON can hold, so tokens of type ``int64`` are texts, as in the
contract. A value of that type has to be a number then, or the way back could not tell which of the two it was. With
``numbers`` a number gets a number and a text gets a text, both ways.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Any

import msgspec

from token_worker.contract.messages import Op, TypeName
from token_worker.errors import OperatorError
from token_worker.files.columns import (
    NAMES_SHOWN,
    READ,
    WRITE,
    Column,
    RowCode,
    RowError,
    Value,
    check_number,
    format_names,
)
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
"""Rows whose members are listed where one is missing."""

DEEPEST = 16
"""Objects and lists within each other that are looked into for names."""


def cut(data: bytes, final: bool) -> tuple[list[bytes], int]:
    """See ``records.Cut``."""
    used = len(data) if final else data.rfind(b"\n") + 1
    lines = data[:used].split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else []), used


def members(record: bytes) -> list[tuple[str, int, int]]:
    """Each member of a line's object: its name, and where its value stands.

    Raises:
        RowError: the line is no JSON object, or has a member twice.
    """
    try:
        record.decode()  # the library looks into what it passes over less closely
        count = len(_parse(record))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise RowError(RowCode.WRONG_JSON, "expected a JSON object") from None
    opening = _OPENING.match(record)
    found = _members(record, opening.end() if opening else 0)
    if len(found) != count:
        raise RowError(RowCode.WRONG_JSON, "a member is there twice")
    return found


def _members(record: bytes, at: int) -> list[tuple[str, int, int]]:
    """The same for the object that opens before this place, in a line that is known to be JSON."""
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
    """The same; raises ``RowError`` where one is there twice."""
    found = _members(record, at)
    if len({name for name, _, _ in found}) < len(found):
        raise RowError(RowCode.WRONG_JSON, "a member is there twice")
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
    """Where each element stands of the list that opens before this place."""
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
    """Add the cells in a value, in the order of the line: where each stands, and its column.

    Raises:
        RowError: the value is no object or list as its name has it, so that there is no telling where the cells are.
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
    """Rows of a file of which some values are to be changed; see ``rows.RowFormat``.

    Args:
        encoding: of the file.
        columns: to be changed.
        some: records to look for the columns in.
        op: what becomes of the values.
        numbers: whether tokens of numbers of 64 bits are numbers.

    Raises:
        OperatorError: a name that is none; or none of these records has a column, so that its name is probably wrong.
    """

    def __init__(
        self, encoding: Encoding, columns: Sequence[Column], some: Iterable[bytes], *, op: Op, numbers: bool
    ) -> None:
        if encoding.cells != "utf-8":
            raise OperatorError("JSON Lines are UTF-8, or UTF-16 or UTF-32")
        self.columns = columns
        self.types = [TypeName(column.type) for column in columns]
        self.input_size = encoding.size
        self._encoding = encoding
        self._root = tree(columns)
        keeps = [numbers or kind is not TypeName.INT64 for kind in self.types]
        self._is_text = [None if it else op == Op.TOKENIZE for it in keeps]
        """Of each column, whether answers are texts; None: as the values are."""
        self._several = frozenset(place for place, column in enumerate(columns) if "[]" in column.name)
        self._check_names(some)

    def _check_names(self, some: Iterable[bytes]) -> None:
        missing, there = {*range(len(self.columns))}, dict[str, None]()
        is_empty, is_json = True, False
        for number, record in enumerate(some):
            is_empty = False
            is_json = is_json or bool(_members_or_none(record))
            if not missing:
                break
            missing.difference_update(self._columns_in(record))
            if number < NAMES_ROWS and len(there) < NAMES_SHOWN:
                there.update((path, None) for path, _ in leaves(record))
        if not (is_empty or is_json):
            raise OperatorError(
                "no line is a JSON object with members; JSON Lines have one a line, as jq -c writes them"
            )
        if missing and not is_empty:
            names = ", ".join(self.columns[place].name for place in sorted(missing))
            raise OperatorError(f"no row has a member {names}; there are {format_names(there) or 'none'}")

    def _columns_in(self, record: bytes) -> set[int]:
        found: list[tuple[int, int, int]] = []
        for name, start, end in _members_or_none(record):
            if node := self._root.members.get(name):
                try:
                    _find(record, start, end, node, found)
                except RowError:  # an error of this row, later
                    continue
        return {column for _, _, column in found}

    cell_slice = slice(1, None)
    """A row begins with what stands around its cells, and their columns in the order of the line."""

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
        lists: dict[int, list[bytes]] = {place: [] for place in self._several} if self._several else {}
        at = 0
        for start, end, place in found:
            around.append(record[at:start])
            columns.append(place)
            if place in lists:
                lists[place].append(record[start:end])
            else:
                cells[place] = record[start:end]
            at = end
        for place, those in lists.items():
            cells[place] = CellGroup(those)
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
                    RowCode.WRONG_FORM, "expected a number, as tokens are texts; --numbers keeps which is which"
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
            if self._several:
                left = [iter(cell) if type(cell) is CellGroup else iter((cell,)) for cell in cells]
                for before, place in zip(around, places, strict=False):
                    pieces += (before, next(left[place]))
            else:
                for before, place in zip(around, places, strict=False):
                    pieces += (before, cells[place])
            pieces.append(around[-1])
        return self._encoding.written(b"".join(pieces))


def leaves(record: bytes) -> Iterator[tuple[str, bytes]]:
    """Each text, number, boolean and null of a line, with its path; none of what is no line of JSON."""
    for name, start, end in _members_or_none(record):
        yield from _leaves(record, start, end, joined("", name), DEEPEST)


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
        except RowError:  # a member is there twice
            return
        for name, inner_start, inner_end in inner:
            yield from _leaves(record, inner_start, inner_end, joined(path, name), depth - 1)


def sample(records: Iterable[bytes]) -> dict[str, Sample]:
    """The values at each path in these lines."""
    found: dict[str, list[bytes]] = {}
    for record in records:
        for path, cell in leaves(record):
            found.setdefault(path, []).append(cell)
    return {path: _sample(cells) for path, cells in found.items()}


def _sample(cells: Sequence[bytes]) -> Sample:
    there = [cell for cell in cells if cell != b"null"]
    texts = [msgspec.json.decode(cell) for cell in there if cell[:1] == b'"']
    numbers = [cell.decode() for cell in there if cell[:1] in b"-0123456789"]
    if len(texts) == len(there):
        return Sample(texts, (TypeName.INT32, TypeName.EMAIL, TypeName.STR), "text")
    if len(numbers) == len(there):
        return Sample(numbers, (TypeName.INT32, TypeName.INT64), "number")
    if len(texts) + len(numbers) == len(there):
        return Sample(texts + numbers, (TypeName.INT32,), "text and number")
    return Sample([], (), "boolean", "true and false have no tokens")


def _members_or_none(record: bytes) -> list[tuple[str, int, int]]:
    try:
        return members(record)
    except RowError:
        return []

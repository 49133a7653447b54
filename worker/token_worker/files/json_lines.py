"""JSON Lines: an object a line, of whose members the values of some are to be changed. Pure.

The rest of a line is not touched: spaces, order, forms of numbers and escapes. Members are those of the object itself,
not of objects within it. A number stays a number, a text stays text, with no more escapes than it needs.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import msgspec

from token_worker.contract.messages import TypeName
from token_worker.errors import GiveUp
from token_worker.files.columns import NAMES_SHOWN, READ, WRITE, Column, RowCode, Value, Wrong, check_number, listed
from token_worker.files.records import Encoding
from token_worker.files.rows import ABSENT
from token_worker.files.suggest import Sample

_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_MEMBER = re.compile(rb'[ \t\r\n]*+(%s)[ \t\r\n]*+:[ \t\r\n]*+(%s|[^\s,"\[\]{}]++|(?=[\[{]))' % (_TEXT, _TEXT))
_NESTED = re.compile(rb"%s|[\[\]{}]" % _TEXT)
_OPENING = re.compile(rb"[ \t\r\n]*+\{")
_COMMA = re.compile(rb"[ \t\r\n]*+,")
_WHOLE_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,99}")
_parse = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def cut(data: bytes, final: bool) -> tuple[list[bytes], int]:
    """See ``records.Cut``."""
    used = len(data) if final else data.rfind(b"\n") + 1
    lines = data[:used].split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else []), used


def members(record: bytes) -> list[tuple[str, int, int]]:
    """Each member of an object: its name, and where its value stands.

    Raises:
        Wrong: the line is no JSON object, or has a member twice.
    """
    try:
        record.decode()  # the library looks into what it passes over less closely
        count = len(_parse(record))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Wrong(RowCode.WRONG_JSON, "expected a JSON object") from None
    found: list[tuple[str, int, int]] = []
    opening = _OPENING.match(record)
    at = opening.end() if opening else 0
    while count:  # from here on it is known to be an object
        member = _MEMBER.match(record, at)
        if member is None:
            raise Wrong(RowCode.WRONG_JSON, "expected a JSON object")
        start, end = member.span(2)
        if start == end:
            end = _end_of_nested(record, start)
        name = member[1]
        found.append((msgspec.json.decode(name) if b"\\" in name else name[1:-1].decode(), start, end))
        comma = _COMMA.match(record, end)
        if comma is None:
            break
        at = comma.end()
    if len(found) != count:
        raise Wrong(RowCode.WRONG_JSON, "a member is there twice")
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
    raise Wrong(RowCode.WRONG_JSON, "expected a JSON object")


class JsonLines:
    """Rows of a file of which some members are to be changed; see ``rows.Format``.

    Args:
        encoding: of the file.
        columns: to be changed.
        some: records to look for the columns in.

    Raises:
        GiveUp: none of these has a column, so that the name is probably wrong.
    """

    def __init__(self, encoding: Encoding, columns: Sequence[Column], some: Iterable[bytes]) -> None:
        if encoding.cells != "utf-8":
            raise GiveUp("JSON Lines are UTF-8, or UTF-16 or UTF-32")
        self.columns = columns
        self.types = [TypeName(column.type) for column in columns]
        self.size = encoding.size
        self._encoding = encoding
        self._places = {column.name: place for place, column in enumerate(columns)}
        missing, there = set(self._places), dict[str, None]()
        is_empty = True
        for record in some:
            is_empty = False
            if not missing:
                break
            names = [name for name, _, _ in _members_or_none(record)]
            missing.difference_update(names)
            there.update(dict.fromkeys(names if len(there) < NAMES_SHOWN else ()))
        if missing and not is_empty:
            raise GiveUp(f"no row has a member {', '.join(sorted(missing))}; there are {listed(there) or 'none'}")

    cells = slice(1, None)
    """A row begins with what stands around its cells, and their columns in the order of the line."""

    weight = staticmethod(len)

    def open(self, record: bytes) -> tuple[Any, ...] | None:
        """See ``rows.Format``."""
        if not record.strip():
            return None
        around, columns = [], []
        cells: list[Any] = [ABSENT] * len(self.columns)
        at = 0
        for name, start, end in members(record):
            if (place := self._places.get(name)) is not None:
                around.append(record[at:start])
                columns.append(place)
                cells[place] = record[start:end]
                at = end
        return ((*around, record[at:]), columns), *cells

    def keep(self, record: bytes) -> tuple[Any, ...]:
        """See ``rows.Format``."""
        return ((record,), ()), *[ABSENT] * len(self.columns)

    def read(self, cell: bytes, column: int) -> Value | None:
        """See ``rows.Format``."""
        kind = self.types[column]
        if cell[:1] == b'"':
            text: str = msgspec.json.decode(cell)
            return READ[kind](text) if text else None
        if cell == b"null":
            return None
        if kind not in (TypeName.INT32, TypeName.INT64):
            raise Wrong(RowCode.WRONG_FORM, "expected text")
        if not _WHOLE_NUMBER.fullmatch(cell):
            raise Wrong(RowCode.WRONG_FORM, "expected a whole number")
        return check_number(int(cell), kind)

    def write(self, value: Value, cell: bytes, column: int) -> bytes:
        """See ``rows.Format``."""
        text = WRITE[self.types[column]](value)
        return msgspec.json.encode(text) if cell[:1] == b'"' else text.encode()

    def join(self, columns: Sequence[Sequence[Any]], done: Sequence[bool]) -> bytes:
        """See ``rows.Format``."""
        pieces: list[bytes] = []
        for (around, places), *cells in compress(zip(*columns, strict=True), done):
            for before, place in zip(around, places, strict=False):
                pieces += (before, cells[place])
            pieces.append(around[-1])
        return self._encoding.written(b"".join(pieces))


def sample(records: Iterable[bytes]) -> dict[str, Sample]:
    """The values of each member that is a text, a number or null in all of these lines."""
    found: dict[str, list[bytes]] = {}
    for record in records:
        for name, start, end in _members_or_none(record):
            found.setdefault(name, []).append(record[start:end])
    samples = {}
    for name, cells in found.items():
        there = [cell for cell in cells if cell != b"null"]
        texts = [msgspec.json.decode(cell) for cell in there if cell[:1] == b'"']
        numbers = [cell.decode() for cell in there if cell[:1] in b"-0123456789"]
        if len(texts) == len(there):
            samples[name] = Sample(texts)
        elif len(texts) + len(numbers) == len(there):
            samples[name] = Sample(texts + numbers, (TypeName.INT32, TypeName.INT64))
    return samples


def _members_or_none(record: bytes) -> list[tuple[str, int, int]]:
    try:
        return members(record)
    except Wrong:
        return []

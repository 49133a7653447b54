"""How dates and times are written: templates of ``date`` and ``datetime``, and the layout of ISO 8601. Pure.

A template is text with these directives, the same on every system and in every locale. All digits are ASCII.

- ``%Y`` year, 4 digits. ``%y`` its last 2 digits.
- ``%m`` month, 2 digits. ``%-m`` 1 or 2 digits, without a leading zero.
- ``%d`` day of the month, 2 digits. ``%-d`` 1 or 2 digits, without a leading zero.
- ``%j`` day of the year, 3 digits from 001.
- ``%H`` hour, 00 to 23. ``%M`` minute, 00 to 59. ``%S`` second, 00 to 59. Each has 2 digits.
- ``%f`` fraction of the second, 1 to 9 digits. The sign before the digits stands in the template: ``%S.%f``.
- ``%z`` offset: ``Z``, ``+hh``, ``+hhmm`` or ``+hh:mm``, hours to 23, or the same with ``-``.
- ``%%`` a percent sign.

A template with any other ``%`` is refused, also with one at the end: names of months and days, weeks, and hours of 12
are not supported. So is a template with a character below U+0020. Everything else stands for itself, byte for byte.

A template is refused if a text could be read in two ways, or if the text does not determine the date:

- It has one of ``%Y`` and ``%y``. Besides it has either ``%j`` alone, or one of ``%m`` and ``%-m`` with one of ``%d``
  and ``%-d``. No directive stands in it twice, but for ``%%``.
- For ``datetime``, it has ``%H`` and ``%M``, or these and ``%S``, or these three and ``%f``; and ``%z`` or not. For
  ``date``, it has none of these five.
- ``%-m``, ``%-d`` and ``%f`` have no fixed width. So no digit and no directive but ``%z`` and ``%%`` stands directly
  before or after them.
- Nothing stands after ``%z``.

The directives stand in any order, but for ``%z``.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date
from itertools import permutations
from typing import NamedTuple

from token_worker.tokens.formats.base import FormatError


class Drawn(NamedTuple):
    """The meaning of a token.

    Attributes:
        day: the date.
        second: second of the day, from 0.
        fraction: digits of the fraction of the second.
    """

    day: date
    second: int = 0
    fraction: bytes = b""


class Field(NamedTuple):
    """A directive.

    Attributes:
        group: what it says. In a pattern, the group of this name.
        pattern: what it can be in a value.
        shown: how it looks in a message.
        write: returns its text for a token. None: the text of the value stays.
        is_open: True if its width can differ.
    """

    group: str
    pattern: str
    shown: str
    write: Callable[[Drawn], bytes] | None
    is_open: bool = False


_TWO = "[0-9]{2}"
_SIXTY = "[0-5][0-9]"
_OPEN = "[1-9][0-9]?"
_HOUR = "(?:[01][0-9]|2[0-3])"
_OFFSET = f"Z|[+-]{_HOUR}(?::?{_SIXTY})?"

FIELDS: Mapping[str, Field] = {
    "%Y": Field("year", "[0-9]{4}", "YYYY", lambda drawn: b"%04d" % drawn.day.year),
    "%y": Field("year", _TWO, "YY", lambda drawn: b"%02d" % (drawn.day.year % 100)),
    "%m": Field("month", _TWO, "MM", lambda drawn: b"%02d" % drawn.day.month),
    "%-m": Field("month", _OPEN, "M", lambda drawn: b"%d" % drawn.day.month, is_open=True),
    "%d": Field("day", _TWO, "DD", lambda drawn: b"%02d" % drawn.day.day),
    "%-d": Field("day", _OPEN, "D", lambda drawn: b"%d" % drawn.day.day, is_open=True),
    "%j": Field("day_of_year", "[0-9]{3}", "DDD", lambda drawn: b"%03d" % drawn.day.timetuple().tm_yday),
    "%H": Field("hour", _HOUR, "hh", lambda drawn: b"%02d" % (drawn.second // 3600)),
    "%M": Field("minute", _SIXTY, "mm", lambda drawn: b"%02d" % (drawn.second // 60 % 60)),
    "%S": Field("second", _SIXTY, "ss", lambda drawn: b"%02d" % (drawn.second % 60)),
    "%f": Field("fraction", "[0-9]{1,9}", "fff", lambda drawn: drawn.fraction, is_open=True),
    "%z": Field("offset", _OFFSET, "±hh:mm", None),
}
"""All directives but ``%%``."""

_DATE_GROUPS = ({"month", "day"}, {"day_of_year"})
_TIME_GROUPS = ("hour", "minute", "second", "fraction")


class Layout:
    """Layouts of values and tokens.

    Args:
        pattern: the whole text, with a group for each field.
        fields: the fields, in the order in which they stand there.
        shown: the text as people write such a layout.

    Attributes:
        groups: names of what the fields say.
        has_short_year: True if the year has two digits.
    """

    def __init__(self, pattern: str, fields: list[Field], shown: str) -> None:
        self._pattern = re.compile(pattern.encode())
        self._written = [(field.group, field.write) for field in fields if field.write is not None]
        self.groups = frozenset(field.group for field in fields)
        self.has_short_year = FIELDS["%y"] in fields
        self.shown = shown

    def read(self, value: bytes) -> re.Match[bytes] | None:
        """Find the fields of a value. Whether such a day exists is not checked."""
        return self._pattern.fullmatch(value)

    def write(self, value: re.Match[bytes], drawn: Drawn) -> bytes:
        """Write a token as the value is written: only the texts of fields change."""
        return self._splice(value, [(group, write(drawn)) for group, write in self._written])

    def is_written_alike(self, value: re.Match[bytes], token: re.Match[bytes]) -> bool:
        """Return True if the token differs from the value only in the texts of fields, and not in their precision."""
        if any(len(value[group] or b"") != len(token[group] or b"") for group in _PRECISION & self.groups):
            return False
        return self._splice(value, [(group, token[group]) for group, _ in self._written]) == token[0]

    @staticmethod
    def _splice(value: re.Match[bytes], texts: list[tuple[str, bytes]]) -> bytes:
        whole, at, parts = value[0], 0, list[bytes]()
        for group, text in texts:
            start, end = value.span(group)
            if start >= 0:  # the value has this field
                parts += whole[at:start], text
                at = end
        return b"".join(parts) + whole[at:]


_PRECISION = {"second", "fraction"}


def compile_template(template: str, *, with_time: bool) -> Layout:
    """Make the layout of a template of dates, or of dates with a time of day.

    Raises:
        FormatError: the template is refused.
    """
    pieces = [(match.start() + 1, match[0]) for match in re.finditer(r"%-?.?|.", template, re.DOTALL)]
    fields: list[Field] = []
    pattern = shown = ""
    before = ""
    for at, piece in pieces:
        field = FIELDS.get(piece)
        if field is not None:
            _check_field(at, piece, {other.group for other in fields}, with_time=with_time)
            fields.append(field)
            pattern += f"(?P<{field.group}>{field.pattern})"
            shown += field.shown
        elif piece.startswith("%") and piece != "%%":
            raise _wrong(at, f"there is no directive {piece}")
        elif piece < " ":
            raise _wrong(at, "a control character")
        else:
            pattern += re.escape(piece[0])
            shown += piece[0]
        _check_neighbours(at, before, piece)
        before = piece
    _check_complete({field.group for field in fields}, with_time=with_time)
    return Layout(pattern, fields, shown)


def _wrong(at: int, text: str) -> FormatError:
    return FormatError("template", f"character {at}: {text}")


def _check_field(at: int, directive: str, groups: set[str], *, with_time: bool) -> None:
    group = FIELDS[directive].group
    if not with_time and group in (*_TIME_GROUPS, "offset"):
        raise _wrong(at, f"a date has no {directive}; the kind datetime has")
    if group in groups or any(group in one and groups & other for one, other in permutations(_DATE_GROUPS)):
        raise _wrong(at, f"{directive} says again what stands before")


def _check_neighbours(at: int, before: str, piece: str) -> None:
    """Refuse a piece that could be read together with the piece before it."""
    if before == "%z":
        raise _wrong(at, "%z has to be the end, because its length can differ")
    left, right = FIELDS.get(before), FIELDS.get(piece)
    if (left is None or not left.is_open) and (right is None or not right.is_open):
        return
    if _is_digits(before) and _is_digits(piece):
        raise _wrong(at, f"{before} and {piece} cannot be told apart: put something other than a digit between them")


def _is_digits(piece: str) -> bool:
    return piece != "%z" if piece in FIELDS else piece.isascii() and piece.isdigit()


def _check_complete(groups: set[str], *, with_time: bool) -> None:
    if "year" not in groups:
        raise FormatError("template", "the year is missing: %Y, or %y")
    if not any(needed <= groups for needed in _DATE_GROUPS):
        raise FormatError("template", "the day is missing: %m and %d, or %j")
    times = [group in groups for group in _TIME_GROUPS]
    if with_time and (times[:2] != [True, True] or times != sorted(times, reverse=True)):
        raise FormatError("template", "the time is not whole: it has %H and %M, or %H, %M and %S, or these and %f")

"""What ``date`` and ``datetime`` have in common: days in a range, and how their tokens are drawn. Pure.

The calendar is the proleptic Gregorian calendar, as in ISO 8601. A day that does not exist, such as 2023-02-29, is no
value. The docstring of each kind tells the rest.
"""

import re
from datetime import date, timedelta
from typing import Annotated, NamedTuple, TypeVar

from msgspec import Meta

from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats.base import Format, FormatError, MinSpace, Parameters
from token_worker.tokens.formats.date_layout import Drawn, Layout
from token_worker.tokens.formats.places import DIGITS

_DAY_MINUTES = 24 * 60
_DAY_SECONDS = 60 * _DAY_MINUTES
_FRACTION_DIGITS = 9

Template = Annotated[str, Meta(min_length=1, max_length=64, extra={"expected": "text of 1 to 64 characters"})]
Day = Annotated[date, Meta(extra={"expected": "a date like 1900-01-31"})]


class DateParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of kinds with a date.

    Attributes:
        min: the first day of values and tokens.
        max: the last day of values and tokens.
        keep_year: True: a token has the year of its value.
    """

    min: Day = date(1900, 1, 1)
    max: Day = date(2099, 12, 31)
    keep_year: bool = False
    min_space: MinSpace = 300


P = TypeVar("P", bound=DateParameters)


class Moment(NamedTuple):
    """A value that was read.

    Attributes:
        text: the value, with its fields.
        day: its date.
    """

    text: re.Match[bytes]
    day: date


class Dates(Format[P, Moment]):
    """Dates, with or without a time of day.

    Args:
        name: the name that requests and routes use.
        parameters: the parameters of the kind.
        layout: how values are written.
    """

    def __init__(self, name: str, parameters: P, layout: Layout) -> None:
        self.layout = layout
        self._first, self._last, self._keep_year = parameters.min, parameters.max, parameters.keep_year
        if self._last < self._first:
            raise FormatError("max", "the last day is before the first day, min")
        if layout.has_short_year and _whole_years(self._first, self._last) >= 100:
            raise FormatError("template", "%y does not tell the century: set min and max less than 100 years apart")
        super().__init__(name, parameters)

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"min": self._first.isoformat(), "max": self._last.isoformat(), "keep_year": self._keep_year}

    def _largest_space(self) -> int:
        years = range(self._first.year, self._last.year + 1)
        days = max(len(self._days(date(year, 12, 31))) for year in years)
        groups = self.layout.groups
        fraction = 10**_FRACTION_DIGITS if "fraction" in groups else 1
        return days * (_times("second" in groups) if "hour" in groups else 1) * fraction

    def _days(self, day: date) -> range:
        """Return the ordinals of the days that tokens of a day can be."""
        if not self._keep_year:
            return range(self._first.toordinal(), self._last.toordinal() + 1)
        first = max(self._first, date(day.year, 1, 1))
        last = min(self._last, date(day.year, 12, 31))
        return range(first.toordinal(), last.toordinal() + 1)

    def _read(self, value: bytes) -> Moment | None:
        text = self.layout.read(value)
        if text is None:
            return None
        year = int(text["year"])
        if not self.layout.has_short_year:
            return self._moment(text, year)
        year += self._first.year // 100 * 100
        return self._moment(text, year) or self._moment(text, year + 100)

    def _moment(self, text: re.Match[bytes], year: int) -> Moment | None:
        day = self._day(text, year)
        return Moment(text, day) if day is not None and self._first <= day <= self._last else None

    def _day(self, text: re.Match[bytes], year: int) -> date | None:
        try:
            if "day_of_year" not in self.layout.groups:
                return date(year, int(text["month"]), int(text["day"]))
            day = date(year, 1, 1) + timedelta(int(text["day_of_year"]) - 1)
        except (ValueError, OverflowError):
            return None
        return day if day.year == year else None

    def _space(self, read: Moment) -> int:
        return len(self._days(read.day)) * self._times(read) * int(10 ** len(self._text(read, "fraction")))

    def _times(self, read: Moment) -> int:
        """Return how many times of day there are in the precision of a value, without the fraction."""
        if "hour" not in self.layout.groups:
            return 1
        return _times(bool(self._text(read, "second")))

    def _text(self, read: Moment, group: str) -> bytes:
        return read.text[group] or b"" if group in self.layout.groups else b""

    def _draw(self, stream: ByteStream, read: Moment) -> bytes:
        days, times = self._days(read.day), self._times(read)
        day = date.fromordinal(days[stream.below(len(days))])
        if times == 1:
            return self.layout.write(read.text, Drawn(day))
        second = stream.below(times) * (_DAY_SECONDS // times)
        fraction = stream.characters(DIGITS, len(self._text(read, "fraction")))
        return self.layout.write(read.text, Drawn(day, second, fraction))

    def _could_draw(self, read: Moment, token: bytes) -> bool:
        other = self._read(token)
        if other is None or other.day.toordinal() not in self._days(read.day):
            return False
        return self.layout.is_written_alike(read.text, other.text)


def _times(has_seconds: bool) -> int:
    return _DAY_SECONDS if has_seconds else _DAY_MINUTES


def _whole_years(first: date, last: date) -> int:
    """Return the number of years between two days, without the part of a year that is left over."""
    return last.year - first.year - ((last.month, last.day) < (first.month, first.day))

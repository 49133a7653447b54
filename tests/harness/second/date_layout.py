"""Dates and times as templates write them: reading one, and writing another in its place."""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

_FORMS = {
    "%Y": "[0-9]{4}",
    "%y": "[0-9]{2}",
    "%m": "[0-9]{2}",
    "%-m": "[1-9][0-9]?",
    "%d": "[0-9]{2}",
    "%-d": "[1-9][0-9]?",
    "%j": "[0-9]{3}",
    "%H": "[0-9]{2}",
    "%M": "[0-9]{2}",
    "%S": "[0-9]{2}",
    "%f": "[0-9]{1,9}",
    "%z": "Z|[+-][0-9]{2}(?::?[0-9]{2})?",
}
_DIRECTIVE = re.compile(r"%-?.|[^%]", re.DOTALL)

Parts = dict[str, str]
"""The directives of a template, and the text that stands for each. ``%-m`` and ``%-d`` stand under their own names."""


def read(template: str, text: str) -> Parts:
    """Patterns of the directives, by directive."""
    names: list[str] = []
    pattern = ""
    for piece in _DIRECTIVE.findall(template):
        if piece in _FORMS:
            names.append(piece)
            pattern += f"({_FORMS[piece]})"
        else:
            pattern += re.escape("%" if piece == "%%" else piece)
    found = re.fullmatch(pattern, text)
    if found is None:
        raise ValueError("the value does not match the template")
    return dict(zip(names, found.groups(), strict=True))


def write(template: str, parts: Parts) -> str:
    """The template with these texts in it."""
    return "".join(parts.get(piece, "%" if piece == "%%" else piece) for piece in _DIRECTIVE.findall(template))


def _day_of(parts: Parts, year: int) -> date | None:
    try:
        if "%j" in parts:
            day = date(year, 1, 1) + timedelta(int(parts["%j"]) - 1)
            return day if day.year == year else None
        return date(year, int(parts.get("%m") or parts["%-m"]), int(parts.get("%d") or parts["%-d"]))
    except (ValueError, OverflowError):
        return None


def _bounds(definition: Mapping[str, Any]) -> tuple[date, date]:
    return date.fromisoformat(definition["min"]), date.fromisoformat(definition["max"])


def day_of(parts: Parts, definition: Mapping[str, Any]) -> date:
    """The day. Of a year with two digits, the one in the range."""
    first, last = _bounds(definition)
    years = range(first.year, last.year + 1)
    fits = [year for year in years if (year == int(parts["%Y"]) if "%Y" in parts else year % 100 == int(parts["%y"]))]
    days = [day for year in fits if (day := _day_of(parts, year)) and first <= day <= last]
    if len(days) != 1:
        raise ValueError("the value is no day of the range")
    return days[0]


def days_of_tokens(day: date, definition: Mapping[str, Any]) -> tuple[date, int]:
    """The first day that can be a token of this one, and how many can."""
    first, last = _bounds(definition)
    if definition["keep_year"]:
        first, last = max(first, date(day.year, 1, 1)), min(last, date(day.year, 12, 31))
    return first, (last - first).days + 1


def parts_of(day: date) -> Parts:
    """The texts of a day, for all directives of dates."""
    return {
        "%Y": f"{day.year:04}",
        "%y": f"{day.year % 100:02}",
        "%m": f"{day.month:02}",
        "%-m": str(day.month),
        "%d": f"{day.day:02}",
        "%-d": str(day.day),
        "%j": f"{(day - date(day.year, 1, 1)).days + 1:03}",
    }

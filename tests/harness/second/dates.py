"""Format kinds ``date`` and ``datetime``: calendar dates, and dates with a time of day."""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from harness.second import date_layout
from harness.second.source import DIGITS, Source

_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ])[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-].*)?")


def _day(source: Source, day: date, definition: Mapping[str, Any]) -> date:
    first, count = date_layout.days_of_tokens(day, definition)
    return first + timedelta(source.below(count))


def date_token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A day of the range, written as the value is."""
    template = definition["template"]
    day = date_layout.day_of(date_layout.read(template, value), definition)
    return date_layout.write(template, date_layout.parts_of(_day(source, day, definition)))


def _iso_template(value: str) -> str:
    """Layout in which ISO 8601 writes dates and times with the parts that this value has."""
    found = _ISO.fullmatch(value)
    if found is None:
        raise ValueError("the value is no date and time of ISO 8601")
    between, seconds, fraction, offset = found.groups()
    return f"%Y-%m-%d{between}%H:%M" + ":%S" * bool(seconds) + ".%f" * bool(fraction) + "%z" * bool(offset)


def datetime_token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A day of the range with a time of day, as precise as the value, with the value's offset."""
    template = definition.get("template") or _iso_template(value)
    parts = date_layout.read(template, value)
    new = date_layout.parts_of(_day(source, date_layout.day_of(parts, definition), definition))
    second = source.below(86_400) if "%S" in parts else 60 * source.below(1_440)
    new |= {"%H": f"{second // 3600:02}", "%M": f"{second // 60 % 60:02}", "%S": f"{second % 60:02}"}
    new["%f"] = source.characters(DIGITS, len(parts.get("%f", "")))
    new["%z"] = parts.get("%z", "")
    return date_layout.write(template, new)

"""Format kind ``ssn``: social security numbers of the United States."""

from collections.abc import Mapping
from typing import Any

from harness.second import places
from harness.second.source import DIGITS, Source


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A number with an area from 900 and a group from 01 to 49."""
    area = "9" + source.characters(DIGITS, 2)
    group = f"{source.below(49) + 1:02}"
    serial = value[-4:] if definition["keep_last"] == 4 else source.characters(DIGITS, 4)
    return places.with_separators_of(value, area + group + serial)

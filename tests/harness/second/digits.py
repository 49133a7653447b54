"""Format kind ``digits``: numbers of any sort."""

from collections.abc import Mapping
from typing import Any

from harness.second import places
from harness.second.source import DIGITS, Source


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """Draw as many digits, of which the first and last stay."""
    first, new, last = places.split(value, definition["keep_first"], definition["keep_last"])
    return places.with_separators_of(value, first + source.characters(DIGITS, new) + last)

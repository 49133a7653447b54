"""Format kind ``phone``: international telephone numbers. Only the table is the product's."""

from collections.abc import Mapping
from typing import Any

from harness.second import places
from harness.second.source import DIGITS, Source
from token_worker.tokens.formats.phone_table import DEAD_PREFIXES


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A number of the same calling code that begins as none does."""
    number = places.without_separators(value)
    codes = [code for code in DEAD_PREFIXES if number.startswith(code.decode())]
    if len(codes) != 1:
        raise ValueError("not one calling code")
    first = codes[0].decode()
    prefix = DEAD_PREFIXES[codes[0]].decode()
    _, room, last = places.split(value, len(first), definition["keep_last"])
    return places.with_separators_of(value, first + prefix + source.characters(DIGITS, room - len(prefix)) + last)

"""Format kind ``pan``: payment card numbers."""

from collections.abc import Mapping
from typing import Any

from harness.second import places
from harness.second.source import DIGITS, Source


def luhn(number: str) -> bool:
    """Check the digits as ISO/IEC 7812-1, annex B, does. Return True if they pass."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        weighted = int(digit) * (1 + place % 2)
        total += weighted // 10 + weighted % 10
    return total % 10 == 0


def _passing(first: str, last: str) -> str:
    """The number with the one digit between the two parts with which the whole passes."""
    return next(first + digit + last for digit in DIGITS if luhn(first + digit + last))


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A number with as many digits, of which the first and last stay."""
    first, new, last = places.split(value, definition["keep_first"], definition["keep_last"])
    if definition["token"] == "valid":
        mark = "" if first else "99"
        number = _passing(first + mark + source.characters(DIGITS, new - len(mark) - 1), last)
    else:
        number = first + source.characters(DIGITS, new) + last
        while definition["token"] == "invalid" and luhn(number):
            number = first + source.characters(DIGITS, new) + last
    return places.with_separators_of(value, number)

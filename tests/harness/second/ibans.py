"""Format kind ``iban``: international bank account numbers. Only the table is the product's."""

import string
from collections.abc import Iterator, Mapping
from typing import Any

from harness.second import places
from harness.second.source import DIGITS, Source
from token_worker.tokens.formats.iban_table import STRUCTURES

CLASSES = {"n": DIGITS, "a": string.ascii_uppercase, "c": DIGITS + string.ascii_uppercase}


def right_check_digits(country: str, bban: str) -> int:
    """The check digits of ISO 13616-1, from 2 to 98."""
    number = int("".join(str(int(c, 36)) for c in bban + country))
    return next(digits for digits in range(2, 99) if (100 * number + digits) % 97 == 1)


def _classes(structure: str) -> Iterator[str]:
    for part in structure.split():
        yield from part[-1] * int(part[:-1])


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A number of the same country, with wrong check digits or with the right ones."""
    number = places.without_separators(value)
    country, old = number[:2], number[4:]
    structure, bank_start, bank_end = STRUCTURES[country.encode()]
    new = ""
    for at, (kept, class_) in enumerate(zip(old, _classes(structure), strict=True)):
        bank = definition["keep_bank"] and bank_start <= at < bank_end
        new += kept if bank else source.characters(CLASSES[class_], 1)
    check = right_check_digits(country, new)
    if definition["token"] == "invalid":
        wrong = [digits for digits in range(2, 99) if digits != check]
        check = wrong[source.below(96)]
    return places.with_separators_of(value, f"{country}{check:02}{new}")

"""Cases of ``iban``. The judge is the iban of python-stdnum, which has its own copy of the registry."""

import re
import string
from random import Random

from stdnum import iban, numdb

from judge.case import Case

CHARACTERS = {
    "n": string.digits,
    "a": string.ascii_uppercase,
    "c": string.digits + string.ascii_uppercase,
}
COUNTRIES = [
    first + second
    for first in string.ascii_uppercase
    for second in string.ascii_uppercase
    if numdb.get("iban").info(first + second)[0][1]
]


def plain(random: Random) -> str:
    """Make an IBAN of any country."""
    return of_country(random, random.choice(COUNTRIES))


def of_country(random: Random, country: str) -> str:
    """Make an IBAN of a country."""
    parts = re.findall(r"(\d+)!([nac])", numdb.get("iban").info(country)[0][1]["bban"])
    bban = "".join("".join(random.choices(CHARACTERS[characters], k=int(count))) for count, characters in parts)
    return country + iban.calc_check_digits(f"{country}00{bban}") + bban


def grouped(random: Random) -> str:
    """Make the same in groups of four."""
    return str(iban.format(plain(random)))


def is_iban(text: str) -> bool:
    """Judge a text, without the checks that some countries have inside the BBAN."""
    return bool(iban.is_valid(text, check_country=False))


def shape(text: str) -> tuple[str, list[int], bool]:
    """Return country and spaces, and whether the BBAN has the structure of the country."""
    right = text[:2] + iban.calc_check_digits(text) + text[4:]
    return text[:2], [at for at, character in enumerate(text) if character == " "], is_iban(right)


def shape_and_bank(text: str) -> tuple[object, ...]:
    """Return the same and the bank identifier of three countries, in which all cases of its place occur."""
    begin, end = {"IT": (5, 10), "DE": (4, 12), "AL": (4, 7)}[text[:2]]
    return *shape(text), text[begin:end]


CASES = [
    Case("iban", plain, shape, judge=is_iban, refused=True),
    Case("iban", grouped, shape, judge=is_iban, refused=True),
    Case(
        "iban",
        lambda random: of_country(random, random.choice(["IT", "DE", "AL"])),
        shape_and_bank,
        {"keep_bank": True},
        judge=is_iban,
        refused=True,
    ),
    Case("iban", grouped, shape, {"token": "valid", "real_numbers": True}, judge=is_iban, accepted=True),
]

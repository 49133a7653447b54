"""Cases of ``phone``. The judge is the Python port of libphonenumber."""

from random import Random

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneNumber, PhoneNumberFormat

from judge.case import Case, digits

CODES = [str(code) for code in COUNTRY_CODE_TO_REGION_CODE if code != 888]


def plain(random: Random) -> str:
    """Make a number of any calling code. Few of them are in use, and none begins as tokens do."""
    code = random.choice(CODES)
    national = digits(random, random.randint(8, 14 - len(code)))
    return f"+{code}{random.choice('2356789')}{national}"


def separated(random: Random) -> str:
    """Make the same with separators and brackets."""
    code = random.choice(CODES)
    area, first, second = (digits(random, count) for count in (2, 3, random.randint(3, 4)))
    between = random.choice(" -.")
    area = random.choice("2356789") + area
    return (
        f"+{code} ({area}) {first}{between}{second}"
        if random.random() < 0.5
        else f"+{code}-{area}{between}{first}{second}"
    )


def readings(text: str) -> list[PhoneNumber]:
    """Return what programs make of a number: its digits as they stand, and what parsing leaves, again and again."""
    found = [as_it_stands(text)]
    while True:
        try:
            found.append(phonenumbers.parse(text))
        except phonenumbers.NumberParseException:
            return found  # too few digits are left
        before, text = text, phonenumbers.format_number(found[-1], PhoneNumberFormat.E164)
        if text == before:
            return found


def as_it_stands(text: str) -> PhoneNumber:
    """Read a number without stripping any digit from it."""
    number = "".join(filter(str.isdigit, text))
    code = next(int(number[:end]) for end in (1, 2, 3) if int(number[:end]) in COUNTRY_CODE_TO_REGION_CODE)
    national = number[len(str(code)) :]
    zeros = len(national[:-1]) - len(national[:-1].lstrip("0"))
    return PhoneNumber(
        country_code=code,
        national_number=int(national),
        italian_leading_zero=zeros > 0 or None,
        number_of_leading_zeros=zeros or None,
    )


def rings(text: str) -> bool:
    """Judge whether a program can make a number in use of a text."""
    return any(phonenumbers.is_valid_number(number) for number in readings(text))


def shape(text: str) -> tuple[int, list[tuple[int, str]]]:
    """Return the calling code, and length and places of all that is not a digit."""
    others = [(at, character) for at, character in enumerate(f"{text} ") if not character.isdigit()]
    return as_it_stands(text).country_code or 0, others


CASES = [
    Case("phone", plain, shape, judge=rings, refused=True),
    Case("phone", separated, shape, judge=rings, refused=True, values_most=50_000),
    Case("phone", plain, lambda text: (shape(text), text[-2:]), {"keep_last": 2}, judge=rings, refused=True),
]

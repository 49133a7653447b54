"""Cases of ``digits``. The judge is a regular expression: tokens are digits, with separators between them."""

import re
from random import Random

from judge.case import Case, digits
from judge.kinds.pan import number, separators


def plain(random: Random) -> str:
    """Make a number of 12 to 64 digits."""
    return digits(random, random.choice([12, 13, 20, 64]))


def separated(random: Random) -> str:
    """Make a number with separators between some of its digits."""
    value = plain(random)
    return "".join(digit + random.choice(["", "", *" -./"]) for digit in value[:-1]) + value[-1]


def is_number(text: str) -> bool:
    """Judge whether a text is digits with single separators between them."""
    return re.fullmatch(r"[0-9]+([ ./-][0-9]+)*", text) is not None


CASES = [
    Case("digits", separated, separators, judge=is_number, accepted=True),
    Case("digits", lambda random: digits(random, 6), len, judge=is_number, accepted=True, values_most=50_000),
    Case(
        "digits",
        separated,
        lambda text: (separators(text), number(text)[:2], number(text)[-3:]),
        {"keep_first": 2, "keep_last": 3},
        judge=is_number,
        accepted=True,
    ),
]

"""Cases of ``ssn``. The judges are python-stdnum's of social security numbers, ITINs, and all numbers of taxpayers."""

from random import Random

from stdnum.us import itin, ssn

from judge.case import Case, digits
from judge.kinds.pan import number, separators


def any_number(random: Random) -> str:
    """Make nine digits that do not look like a token, with or without hyphens."""
    value = f"{random.choice('012345678')}{digits(random, 8)}"
    return random.choice([value, f"{value[:3]}-{value[3:5]}-{value[5:]}"])


def taxpayer(random: Random) -> str:
    """Make an ITIN or a social security number."""
    itin_ = f"9{digits(random, 2)}-{random.choice([70, 88, 90, 94, 99])}-{digits(random, 4)}"
    return random.choice([itin_, any_number(random)])


def is_taken(text: str) -> bool:
    """Judge whether a text is a number that somebody can have. The judge of ITINs lacks the newest groups, 50 to 65."""
    return bool(ssn.is_valid(text) or itin.is_valid(text)) or (text[0] == "9" and 50 <= int(number(text)[3:5]) <= 65)


CASES = [
    Case("ssn", taxpayer, separators, judge=is_taken, refused=True, values_most=5_000_000),
    Case(
        "ssn",
        any_number,
        lambda text: (separators(text), number(text)[-4:]),
        {"keep_last": 4, "min_space": 1000},
        judge=is_taken,
        refused=True,
        values_most=1_000_000,
    ),
]

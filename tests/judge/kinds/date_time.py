"""Cases of ``datetime``. The judge is the standard library: tokens are dates with a time of day."""

import re
from datetime import datetime
from random import Random

from judge.case import Case, digits
from judge.kinds.date import iso


def moment(random: Random) -> str:
    """Make a date and time in one of many precisions, with or without an offset."""
    text = f"{iso(random)}{random.choice('T ')}{random.randrange(24):02}:{random.randrange(60):02}"
    if random.random() < 0.75:
        text += f":{random.randrange(60):02}"
        if random.random() < 0.5:
            text += f".{digits(random, random.randint(1, 9))}"
    return text + random.choice(["", "Z", "+00:00", "-03:30", "+14"])


def shape(text: str) -> str:
    """Replace the digits of date and time, and keep the offset."""
    found = re.fullmatch(r"([0-9-]{10}[T ][0-9:.]*)(.*)", text)
    assert found is not None
    return re.sub("[0-9]", "9", found[1]) + found[2]


def is_moment(text: str) -> bool:
    """Judge whether a text is a date and time of these two centuries."""
    try:
        return 1900 <= datetime.fromisoformat(text).year <= 2099
    except ValueError:
        return False


CASES = [
    Case("datetime", moment, shape, judge=is_moment, accepted=True),
    Case(
        "datetime",
        moment,
        lambda text: (text[:4], shape(text)),
        {"keep_year": True},
        judge=is_moment,
        accepted=True,
    ),
]

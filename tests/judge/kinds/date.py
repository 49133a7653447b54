"""Cases of ``date``. The judge is the standard library: tokens are dates."""

from datetime import date, datetime, timedelta
from random import Random

from judge.case import Case


def iso(random: Random) -> str:
    """Choose a day of two centuries."""
    return (date(1900, 1, 1) + timedelta(random.randrange(73_049))).isoformat()


def is_date(text: str) -> bool:
    """Judge whether a text is a date of these two centuries."""
    try:
        return 1900 <= date.fromisoformat(text).year <= 2099
    except ValueError:
        return False


def german(random: Random) -> str:
    """Choose a day of two centuries, without leading zeros."""
    day = date.fromisoformat(iso(random))
    return f"{day.day}.{day.month}.{day.year}"


def is_german(text: str) -> bool:
    """Judge whether a text is a date of these two centuries, without leading zeros."""
    try:
        day = datetime.strptime(text, "%d.%m.%Y").date()  # noqa: DTZ007 - a date has no zone
    except ValueError:
        return False
    return text == f"{day.day}.{day.month}.{day.year}" and is_date(day.isoformat())


CASES = [
    Case("date", iso, len, judge=is_date, accepted=True, values_most=50_000),
    Case("date", iso, lambda text: text[:4], {"keep_year": True}, judge=is_date, accepted=True, values_most=20_000),
    Case(
        "date",
        german,
        lambda text: text.count("."),
        {"template": "%-d.%-m.%Y"},
        judge=is_german,
        accepted=True,
        values_most=20_000,
    ),
]

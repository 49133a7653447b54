"""Cases of ``template``. The judge of each is the same form as a regular expression of Python."""

import re
from collections.abc import Callable
from random import Random

from judge.case import Case, digits


def matches(pattern: str) -> Callable[[str], bool]:
    """Make the judge of a regular expression."""
    return lambda text: re.fullmatch(pattern, text, re.ASCII) is not None


def letters(random: Random, alphabet: str, count: int) -> str:
    """Choose so many letters."""
    return "".join(random.choices(alphabet, k=count))


UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GREEK = "ΓΔΘΛΞΠΣΦΨΩ"

CASES = [
    Case(
        "template",
        lambda random: f"{letters(random, UPPER, 2)}-{digits(random, random.randint(5, 8))}",
        len,
        {"template": r"[A-Z]{2}-\d{4,8}"},
        judge=matches(r"[A-Z]{2}-\d{4,8}"),
        accepted=True,
    ),
    Case(
        "template",
        lambda random: f"INV{random.randint(2000, 2029)}/{digits(random, 9)}{random.choice(['', 'X'])}",
        lambda text: (text[:8], text[17:]),
        {"template": r"INV\d{4}/(\d{9})X?"},
        judge=matches(r"INV20[0-2]\d/\d{9}X?"),
        accepted=True,
    ),
    Case(
        "template",
        lambda random: f"{letters(random, GREEK, 1)}{digits(random, 3)}{letters(random, GREEK, 2)} 77",
        lambda text: text[6:],
        {"template": r"([ΓΔΘΛΞΠΣΦΨΩ]\d{3}[ΓΔΘΛΞΠΣΦΨΩ]{2}) \d\d"},
        judge=matches(r"[ΓΔΘΛΞΠΣΦΨΩ]\d{3}[ΓΔΘΛΞΠΣΦΨΩ]{2} 77"),
        accepted=True,
        values_most=150_000,
    ),
]

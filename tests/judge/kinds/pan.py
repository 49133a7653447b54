"""Cases of ``pan``. The judge is the Luhn check of python-stdnum."""

from random import Random

from stdnum import luhn

from judge.case import Case, digits


def plain(random: Random) -> str:
    """Make a number of 13 to 19 digits, most often 16, that passes the check."""
    number = digits(random, random.choice([12, 13, 14, 15, 15, 15, 15, 16, 17, 18]))
    return number + luhn.calc_check_digit(number)


def separated(random: Random) -> str:
    """Make the same with spaces or hyphens, in groups of four or anywhere."""
    number = plain(random)
    if random.random() < 0.7:
        separator = random.choice(" -")
        return separator.join(number[at : at + 4] for at in range(0, len(number), 4))
    return "".join(digit + random.choice(["", "", " ", "-"]) for digit in number[:-1]) + number[-1]


def unmarked(random: Random) -> str:
    """Make a number that does not begin as valid tokens do."""
    while (value := plain(random)).startswith("99"):
        pass
    return value


def is_luhn(text: str) -> bool:
    """Judge the digits of a text."""
    return bool(luhn.is_valid(text.replace(" ", "").replace("-", "")))


def separators(text: str) -> list[tuple[int, str]]:
    """Return the places of all that is not a digit."""
    return [(at, character) for at, character in enumerate(text) if character not in "0123456789"]


def number(text: str) -> str:
    """Return the digits of a text."""
    return "".join(character for character in text if character in "0123456789")


CASES = [
    Case("pan", plain, lambda text: (len(text), text[-4:]), judge=is_luhn, refused=True),
    Case(
        "pan",
        separated,
        lambda text: (separators(text), number(text)[:6], number(text)[-4:]),
        {"keep_first": 6, "min_space": 1000},
        judge=is_luhn,
        refused=True,
    ),
    Case("pan", plain, len, {"keep_last": 0}, judge=is_luhn, refused=True),
    Case(
        "pan",
        unmarked,
        lambda text: (len(text), text[-4:]),
        {"token": "valid"},
        judge=is_luhn,
        accepted=True,
        refused=True,
    ),
    Case(
        "pan",
        separated,
        lambda text: (separators(text), number(text)[:4], number(text)[-1:]),
        {"token": "valid", "keep_first": 4, "keep_last": 1, "real_numbers": True},
        judge=is_luhn,
        accepted=True,
    ),
]

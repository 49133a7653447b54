"""Choose the format for a column by its values and by what they seem to be. Pure."""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

from token_worker.contract.messages import TypeName
from token_worker.files.personal import DATE_OF_BIRTH, MATCHING_SHARE
from token_worker.tokens.formats import AnyFormat

BY_DATA: Final[dict[str, tuple[str, ...]]] = {
    "e-mail addresses": ("email-safe",),
    "card numbers, with correct checksums": ("pan",),
    "IBANs, with correct checksums": ("iban",),
    "social security numbers": ("ssn",),
    "telephone numbers": ("phone", "digits"),
    "a name": ("letters",),
    "an e-mail address": ("email-safe",),
    "a telephone number": ("phone", "digits"),
    "an address": ("digits",),
    "a number of an account or card": ("pan", "iban", "uuid", "digits"),
    "a social security number": ("ssn", "digits"),
    "a number of a person": ("uuid", "digits"),
    DATE_OF_BIRTH: ("date", "datetime"),
    "a user": ("uuid",),
}
"""By what ``personal`` calls the data: the kinds of formats that suit it, the best first. A postal code has digits."""

ANY_DATA: Final = ("uuid", "date", "datetime")
"""Kinds that suit any column, personal or not: their values cannot be mistaken for others."""

NOTES: Final = {
    "email-safe": "tokens end in .invalid, so no mail reaches a stranger",
}
"""By kind: a reason for this format."""

_DIGIT = re.compile(r"\d")
_ZONE = re.compile(r"[Zz]$|[+-][\d:]+$")

FEWEST_LETTERS = 3
"""Shortest name that tells if names are written in capitals. Initials always are."""

DATE_CHARACTERS = 10
"""Characters of a date, before the time of day."""

Spelling = Hashable
"""A way in which values are written. None: this value does not tell."""


class Fit(NamedTuple):
    """A format that fits a column.

    Attributes:
        format: the format.
        misfits: number of values that do not fit. Their rows would be left out.
    """

    format: AnyFormat
    misfits: int


def fitting_format(
    values: Sequence[str], data: str | None, types: Collection[TypeName], formats: Mapping[str, AnyFormat]
) -> Fit | None:
    """Return the best format that nearly all these values fit, or None.

    Args:
        values: the values, at least one.
        data: what ``personal`` calls the data, or None.
        types: the types that the column may have.
        formats: the formats by name.
    """
    kinds = BY_DATA.get(data or "", ()) + ANY_DATA
    candidates = [found for kind in kinds for found in _of_kind(kind, formats) if found.value_type.name in types]
    for candidate in candidates:
        fitting = sum(_suits(candidate, value) for value in values)
        if fitting >= MATCHING_SHARE * len(values):
            return Fit(candidate, len(values) - fitting)
    return None


def _of_kind(kind: str, formats: Mapping[str, AnyFormat]) -> list[AnyFormat]:
    """Return the formats of a kind, first the one that has its name."""
    return sorted((found for found in formats.values() if found.kind == kind), key=lambda found: found.name != kind)


def _suits(candidate: AnyFormat, value: str) -> bool:
    """Return True if a value fits. Names with digits do not: ``letters`` would keep the digits."""
    if candidate.kind == "letters" and _DIGIT.search(value):
        return False
    return candidate.problem(value.encode(errors="replace")) is None


def spellings_are_mixed(values: Sequence[str], kind: str) -> bool:
    """Return True if values of a kind are written in several ways. Then one value may have several tokens."""
    spelling = _SPELLING.get(kind)
    return spelling is not None and len({spelling(value) for value in values} - {None}) > 1


def _separators(value: str) -> frozenset[str]:
    return frozenset(char for char in value if not char.isalnum() and char != "+")


def _separators_and_case(value: str) -> Spelling:
    return _separators(value), value.lower() == value, value.upper() == value


def _has_capitals(value: str) -> Spelling:
    return value.lower() != value


def _is_in_capitals(value: str) -> Spelling:
    return value.isupper() if sum(map(str.isalpha, value)) >= FEWEST_LETTERS else None


def _separator_and_zone(value: str) -> Spelling:
    zone = _ZONE.search(value, DATE_CHARACTERS)
    return value[DATE_CHARACTERS : DATE_CHARACTERS + 1], zone and zone[0][:1] in "+-", zone and zone[0] == "z"


_SPELLING: Final[dict[str, Callable[[str], Spelling]]] = {
    "pan": _separators,
    "iban": _separators_and_case,
    "ssn": _separators,
    "phone": _separators,
    "digits": _separators,
    "uuid": _separators_and_case,
    "date": _separators,
    "datetime": _separator_and_zone,
    "email-safe": _has_capitals,
    "letters": _is_in_capitals,
}
"""By kind: a function that tells the way in which a value is written."""

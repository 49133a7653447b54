"""Choose the format for a column by its values and by what they seem to be. Pure."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
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
        misfits: number of values that the format refuses. Their rows would be left out.
    """

    format: AnyFormat
    misfits: int


class NearMiss(NamedTuple):
    """A format that what the data seem to be asks for, and that too few values fit.

    Attributes:
        format: the format.
        fitting: number of values that fit.
        expected: what most of the other values are not, to be read after "expected".
    """

    format: AnyFormat
    fitting: int
    expected: str


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
    for candidate in _of_kinds(BY_DATA.get(data or "", ()) + ANY_DATA, types, formats):
        suiting = sum(_unsuitable(candidate, value) is None for value in values)
        if suiting >= MATCHING_SHARE * len(values):
            return Fit(candidate, sum(_problem(candidate, value) is not None for value in values))
    return None


def near_miss(
    values: Sequence[str], data: str | None, types: Collection[TypeName], formats: Mapping[str, AnyFormat]
) -> NearMiss | None:
    """Return the format that these data ask for and that most values fit, if ``fitting_format`` returns None.

    ``digits`` is not one of them: it is the last resort of many data.
    """
    kinds = [kind for kind in BY_DATA.get(data or "", ()) if kind != "digits"]
    best = None
    for candidate in _of_kinds(kinds, types, formats):
        expected = [text for value in values if (text := _unsuitable(candidate, value)) is not None]
        fitting = len(values) - len(expected)
        if expected and (best is None or fitting > best.fitting):
            best = NearMiss(candidate, fitting, Counter(expected).most_common(1)[0][0])
    return best


def _of_kinds(
    kinds: Iterable[str], types: Collection[TypeName], formats: Mapping[str, AnyFormat]
) -> Iterator[AnyFormat]:
    """Yield the formats of these kinds and types, in the order of the kinds. The one with the kind's name is first."""
    for kind in kinds:
        found = [form for form in formats.values() if form.kind == kind and form.value_type.name in types]
        yield from sorted(found, key=lambda form: form.name != form.kind)


def _problem(candidate: AnyFormat, value: str) -> str | None:
    return candidate.problem(value.encode(errors="replace"))


def _unsuitable(candidate: AnyFormat, value: str) -> str | None:
    """Return what was expected instead of a value that makes a format a bad choice. ``letters`` would keep digits."""
    if candidate.kind == "letters" and _DIGIT.search(value):
        return "text without digits, because letters keeps digits"
    return _problem(candidate, value)


def mixed_spellings(values: Sequence[str], kind: str) -> list[str]:
    """Return what differs in the spelling of these values, such as separators. One value may have several tokens."""
    return [
        aspect
        for aspect, spelling in _SPELLINGS.get(kind, {}).items()
        if len({spelling(value) for value in values} - {None}) > 1
    ]


def _separators(value: str) -> frozenset[str]:
    return frozenset(char for char in value if not char.isalnum() and char != "+")


def _case(value: str) -> Spelling:
    return value.isupper() if value.lower() != value.upper() else None


def _has_capitals(value: str) -> Spelling:
    return value.lower() != value


def _is_in_capitals(value: str) -> Spelling:
    return value.isupper() if sum(map(str.isalpha, value)) >= FEWEST_LETTERS else None


def _time_separator(value: str) -> Spelling:
    return value[DATE_CHARACTERS : DATE_CHARACTERS + 1]


def _zone(value: str) -> Spelling:
    zone = _ZONE.search(value, DATE_CHARACTERS)
    return "none" if zone is None else "offset" if zone[0][:1] in "+-" else zone[0]


_SPELLINGS: Final[dict[str, dict[str, Callable[[str], Spelling]]]] = {
    "pan": {"separators": _separators},
    "iban": {"separators": _separators},
    "ssn": {"separators": _separators},
    "phone": {"separators": _separators},
    "digits": {"separators": _separators},
    "uuid": {"upper and lower case": _case},
    "date": {"separators": _separators},
    "datetime": {"separators": _time_separator, "time zones": _zone},
    "email-safe": {"upper and lower case": _has_capitals},
    "letters": {"upper and lower case": _is_in_capitals},
}
"""By kind: what can differ in the spelling, and a function that tells in which way a value is written."""

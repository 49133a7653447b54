"""Guesses which type the values of a column have, from its first rows. Pure.

A guess errs on the side of what fits more: digits that are all of one length, as of cards and telephones, are text, not
a number. A later row that a guess does not fit is an error of that row, never another value. Examples are masked:
letters and digits are shown as what they are, not which.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from token_worker.contract.messages import TypeName
from token_worker.files.columns import READ, Wrong
from token_worker.tokens.types import EMAIL_BYTES

TEXTS = (TypeName.INT32, TypeName.INT64, TypeName.EMAIL, TypeName.STR)
"""What a column of text may be."""

IDENTIFIER_DIGITS = 9
"""Digits of one length are rather a text if there are so many."""

EXAMPLES = 2
EXAMPLE_CHARACTERS = 30

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class Sample(NamedTuple):
    """The first values of a column, and the types it may have; None and empty ones are there as well."""

    values: Sequence[str | None]
    types: Sequence[TypeName] = TEXTS


class Suggestion(NamedTuple):
    """A column and its type; None: there is nothing to tell it from."""

    name: str
    type: TypeName | None
    examples: list[str]


def suggest(samples: Mapping[str, Sample]) -> list[Suggestion]:
    """A suggestion for each column."""
    found = []
    for name, sample in samples.items():
        values = [value for value in dict.fromkeys(sample.values) if value]
        kind = next((kind for kind in sample.types if values and _fits(kind, values, sample.types)), None)
        found.append(Suggestion(name, kind, [*dict.fromkeys(map(mask, values))][:EXAMPLES]))
    return found


def _fits(kind: TypeName, values: Sequence[str], types: Sequence[TypeName]) -> bool:
    if kind is TypeName.EMAIL:
        return all(_EMAIL.fullmatch(value) and len(value.encode()) in EMAIL_BYTES for value in values)
    if kind in (TypeName.INT32, TypeName.INT64):
        lengths = {len(value) for value in values}
        if TypeName.STR in types and len(values) > 1 and len(lengths) == 1 and min(lengths) >= IDENTIFIER_DIGITS:
            return False
        try:
            return all(isinstance(READ[kind](value), int) for value in values)
        except Wrong:
            return False
    return True


def mask(text: str) -> str:
    """What kind of text it is."""
    shown = "".join("9" if it.isdigit() else "x" if it.isalnum() else it for it in text[:EXAMPLE_CHARACTERS])
    return shown + ("…" if len(text) > EXAMPLE_CHARACTERS else "")

"""Guesses which columns have personal data and which type their values have, from the first rows. Pure.

A guess errs on the side of what fits more: digits that are all of one length, as of cards and telephones, are text, not
a number. A later row that a guess does not fit is an error of that row, never another value. Examples are masked:
letters and digits are shown as what they are, not which.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from token_worker.acra.value_types import EMAIL_BYTES
from token_worker.contract.messages import TypeName
from token_worker.files import personal
from token_worker.files.columns import READ, RowError

TEXTS = (TypeName.INT32, TypeName.INT64, TypeName.EMAIL, TypeName.STR)
"""What a column of text may be."""

IDENTIFIER_DIGITS = 9
"""Digits of one length are rather a text if there are so many."""

EXAMPLES = 2
EXAMPLE_CHARACTERS = 30


class Sample(NamedTuple):
    """The first values of a column.

    Attributes:
        values: None and empty ones are there as well.
        types: those that it may have.
        kind: type of the column in the file, where it has one.
        refused: why it cannot be tokenized, whatever its values.
    """

    values: Sequence[str | None]
    types: Sequence[TypeName] = TEXTS
    kind: str | None = None
    refused: str | None = None


class Suggestion(NamedTuple):
    """What there is to say of a column.

    Attributes:
        name: of the column.
        type: of its values; None: it cannot be tokenized, or there is nothing to tell it from.
        kind: type of the column in the file, where it has one.
        is_offered: it looks like personal data, and can be tokenized.
        why: what it looks like, or why it cannot be tokenized.
        examples: masked.
    """

    name: str
    type: TypeName | None
    kind: str | None
    is_offered: bool
    why: str
    examples: list[str]


def suggest(samples: Mapping[str, Sample]) -> list[Suggestion]:
    """What there is to say of each column, in order."""
    return [_suggestion(name, sample) for name, sample in samples.items()]


def _suggestion(name: str, sample: Sample) -> Suggestion:
    values = [value for value in dict.fromkeys(sample.values) if value]
    examples = [*dict.fromkeys(map(mask, values))][:EXAMPLES]
    if sample.refused is not None or not sample.types:
        why = sample.refused or "no type of tokens is of this kind"
        return Suggestion(name, None, sample.kind, is_offered=False, why=why, examples=examples)
    kind = next((kind for kind in sample.types if values and _fits(kind, values, sample.types)), None)
    form, meaning = personal.by_values(values), personal.by_name(name)
    if form is None and not personal.could_be(values):
        meaning = None
    why = form or (f"its name says: {meaning}" if meaning else "does not look like personal data")
    if (form or meaning) and kind in (TypeName.INT32, TypeName.INT64) and TypeName.STR in sample.types:
        kind = TypeName.STR  # a later one may begin with 0, or have a + in it
    if not values:
        why = "no value in the first rows"
    elif kind is None:
        why += "; no type fits all of its values"
    return Suggestion(name, kind, sample.kind, bool(kind and (form or meaning)), why, examples)


def _fits(kind: TypeName, values: Sequence[str], types: Sequence[TypeName]) -> bool:
    if kind is TypeName.EMAIL:
        return all(personal.is_email(value) and len(value.encode()) in EMAIL_BYTES for value in values)
    if kind in (TypeName.INT32, TypeName.INT64):
        lengths = {len(value) for value in values}
        if TypeName.STR in types and len(values) > 1 and len(lengths) == 1 and min(lengths) >= IDENTIFIER_DIGITS:
            return False
        try:
            return all(isinstance(READ[kind](value), int) for value in values)
        except RowError:
            return False
    return True


def mask(text: str) -> str:
    """What kind of text it is."""
    shown = "".join("9" if it.isdigit() else "x" if it.isalnum() else it for it in text[:EXAMPLE_CHARACTERS])
    return shown + ("…" if len(text) > EXAMPLE_CHARACTERS else "")

"""Guess from the first rows which columns have personal data, and the types or formats of their values. Pure.

A guess prefers the type that holds more values: digits that all have one length, such as card and telephone numbers,
are text, not numbers. A format is proposed if nearly all values fit it. If a later row does not fit a guess, the row
has an error; its value never changes. Examples are masked: each letter is shown as x, each digit as 9.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from token_worker.acra.value_types import EMAIL_BYTES
from token_worker.contract.messages import TypeName
from token_worker.files import personal
from token_worker.files.columns import READ, RowError
from token_worker.files.suggested_formats import NOTES, Fit, fitting_format, mixed_spellings, near_miss
from token_worker.tokens.formats import AnyFormat

TEXTS = (TypeName.INT32, TypeName.INT64, TypeName.EMAIL, TypeName.STR)
"""Possible types of a text column."""

IDENTIFIER_DIGITS = 9
"""Values of one length with at least so many digits are text."""

EXAMPLES_SHOWN = 2
EXAMPLE_CHARACTERS = 30


class Sample(NamedTuple):
    """The first values of a column.

    Attributes:
        values: the values, including None and empty ones.
        types: the types that the column may have.
        kind: type of the column in the file, if it has one.
        refused: the reason why the column cannot be tokenized, whatever its values are.
    """

    values: Sequence[str | None]
    types: Sequence[TypeName] = TEXTS
    kind: str | None = None
    refused: str | None = None


class Suggestion(NamedTuple):
    """The guess for one column.

    Attributes:
        name: name of the column.
        type: type of its values. None: the column cannot be tokenized, or has no values.
        format: format of its tokens. None: no format fits.
        kind: type of the column in the file, if it has one.
        is_offered: True if the column looks like personal data and can be tokenized.
        why: the data that the column seems to hold, or the reason why it cannot be tokenized.
        examples: masked examples.
    """

    name: str
    type: TypeName | None
    format: str | None
    kind: str | None
    is_offered: bool
    why: str
    examples: list[str]


def suggest(samples: Mapping[str, Sample], formats: Mapping[str, AnyFormat]) -> list[Suggestion]:
    """Make a guess for each column, in order."""
    return [_suggestion(name, sample, formats) for name, sample in samples.items()]


def _suggestion(name: str, sample: Sample, formats: Mapping[str, AnyFormat]) -> Suggestion:
    values = [value for value in dict.fromkeys(sample.values) if value]
    examples = [*dict.fromkeys(map(mask, values))][:EXAMPLES_SHOWN]
    refused = sample.refused
    if not (refused or sample.types):
        refused = "no token type fits this kind of column"
    if refused or not values:
        why = refused or "no value in the first rows"
        return Suggestion(name, None, None, sample.kind, is_offered=False, why=why, examples=examples)
    kind = next((kind for kind in sample.types if _fits(kind, values, sample.types)), None)
    form, meaning = personal.by_values(values), personal.by_name(name)
    if form is None and not personal.could_be(values):
        meaning = None
    why = form or (f"its name says: {meaning}" if meaning else "does not look like personal data")
    if (form or meaning) and kind in (TypeName.INT32, TypeName.INT64) and TypeName.STR in sample.types:
        kind = TypeName.STR  # a later value may begin with 0, or contain a +
    fit = fitting_format(values, form or meaning, sample.types, formats)
    if fit is not None:
        kind = TypeName(fit.format.value_type.name)
        why = "; ".join([why, *_notes(values, fit)])
    elif kind is None:
        why += "; no type fits all its values"
    else:
        missed = near_miss(values, form or meaning, sample.types, formats)
        if missed is not None and (missed.fitting or form):
            share = f"{missed.fitting:,} of {len(values):,} distinct values fit {missed.format.name}"
            why += f"; only {share}: expected {missed.expected}"
        elif meaning == personal.DATE_OF_BIRTH and personal.are_dates(values):
            why += "; [[formats]] of kind date with a template can fit dates in this form"
    format_name = fit and fit.format.name
    return Suggestion(name, kind, format_name, sample.kind, bool(kind and (form or meaning)), why, examples)


def _notes(values: Sequence[str], fit: Fit) -> Iterator[str]:
    """Yield what the user should know about a format for these values."""
    if note := NOTES.get(fit.format.kind):
        yield note
    if fit.misfits:
        yield f"{fit.misfits:,} of {len(values):,} distinct values do not fit {fit.format.name}: rows are left out"
    if mixed := mixed_spellings(values, fit.format.kind):
        yield f"mixed {' and '.join(mixed)}: different tokens for the same value"


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
    """Mask a text: replace letters by x and digits by 9."""
    shown = "".join("9" if char.isdigit() else "x" if char.isalnum() else char for char in text[:EXAMPLE_CHARACTERS])
    return shown + ("…" if len(text) > EXAMPLE_CHARACTERS else "")

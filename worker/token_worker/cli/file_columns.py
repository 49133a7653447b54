"""Columns of ``token-worker file``: what ``NAME=TYPE``, ``NAME=FORMAT`` and ``NAME=TYPE:FORMAT`` mean."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import click

from token_worker.contract.messages import MAX_FORMAT_CHARACTERS, Op, TypeName
from token_worker.files.columns import Column, format_names
from token_worker.tokens.formats import AnyFormat

FORMAT_TYPES: Final = (TypeName.STR, TypeName.EMAIL)
"""Types that have formats."""

OPTION: Final = "--column"
EXPECTED: Final = "NAME=TYPE, NAME=FORMAT or NAME=TYPE:FORMAT"


class Kind(NamedTuple):
    """A type, and a format of its tokens."""

    type: str
    format: str | None = None


def read_columns(given: Sequence[str], op: Op, formats: Mapping[str, AnyFormat]) -> tuple[Column, ...]:
    """Read the options ``--column``. To detokenize, a format only says the type.

    Raises:
        click.BadParameter: a text is not a column, or two columns have the same name.
    """
    columns = []
    for text in given:
        name, _, kind_text = text.rpartition("=")
        if not name:
            raise click.BadParameter(f"expected {EXPECTED}; {known(formats)}", param_hint=OPTION)
        try:
            kind = read_kind(kind_text, formats)
        except ValueError as error:
            raise click.BadParameter(f"column {format_names([name])}: {error}", param_hint=OPTION) from None
        columns.append(column_of(name, kind, op))
    if len({column.name for column in columns}) < len(columns):
        raise click.BadParameter("a column is named twice", param_hint=OPTION)
    return tuple(columns)


def column_of(name: str, kind: Kind, op: Op) -> Column:
    """Return the column. Detokenized values have no format."""
    return Column(name, kind.type, kind.format if op == Op.TOKENIZE else None)


def read_kind(text: str, formats: Mapping[str, AnyFormat]) -> Kind:
    """Read ``TYPE``, ``FORMAT`` or ``TYPE:FORMAT``. The last is for formats that only the workers know.

    Raises:
        ValueError: the text is none of them. The message says what is known.
    """
    if text in list(TypeName):
        return Kind(text)
    if found := formats.get(text):
        return Kind(found.value_type.name, text)
    type_name, colon, format_name = text.partition(":")
    if not colon:
        own = "a format that only the workers know needs its type, such as str:NAME"
        raise ValueError(
            f"{shown(text)} is neither a type nor a format{nearest(text, formats)}; {known(formats)}; {own}"
        )
    if type_name not in FORMAT_TYPES:
        raise ValueError(f"only {' and '.join(FORMAT_TYPES)} have formats, not {shown(type_name)}")
    if not (0 < len(format_name) <= MAX_FORMAT_CHARACTERS and format_name.isprintable()):
        raise ValueError(
            f"expected the name of a format after the colon, of at most {MAX_FORMAT_CHARACTERS} characters"
        )
    found = formats.get(format_name)
    if found is not None and found.value_type.name != type_name:
        raise ValueError(f"{format_name} is a format of type {found.value_type.name}")
    return Kind(type_name, format_name)


def shown(text: str) -> str:
    """Return a text that the user gave, for a message."""
    return format_names([text]) or "nothing"


def nearest(text: str, formats: Mapping[str, AnyFormat]) -> str:
    """Return a hint at the type or the format with the most similar name, if there is one."""
    found = difflib.get_close_matches(text, [*TypeName, *formats], n=1)
    return "".join(f", the nearest is {name}" for name in found)


def known(formats: Mapping[str, AnyFormat]) -> str:
    """List the types and the formats."""
    return f"types: {', '.join(TypeName)}; formats: {', '.join(sorted(formats))}"

"""``token-worker file --suggest``: show all columns, offer those with personal data, and ask which to take."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click
from rich import box
from rich.table import Table

from token_worker.cli.file_arguments import PIPE
from token_worker.cli.file_columns import Kind, column_of, read_kind
from token_worker.cli.terminal import table_console
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed
from token_worker.files.columns import Column, format_names
from token_worker.files.inputs import open_input
from token_worker.files.progress import JobOptions
from token_worker.files.suggest import Suggestion, suggest
from token_worker.tokens.formats import AnyFormat

Columns = tuple[Column, ...]


def ask(options: JobOptions, formats: Mapping[str, AnyFormat], source: str, out: str | None) -> Columns:
    """Show a guess for each column. On a terminal, ask the user which columns to take, and return them.

    Raises:
        click.UsageError: standard output cannot take the table.
        SystemExit: there is no user to ask, or no output to write.
    """
    if out == PIPE:
        raise click.UsageError("--suggest prints its table to standard output: leave OUT out, or name a file")
    with ExitStack() as stack:
        file = sys.stdin.buffer if source == PIPE else stack.enter_context(_readable(source))
        found = suggest(open_input(options, file, again=False).sample(), formats)
    _show(found)
    offered = [guess for guess in found if guess.is_offered]
    if offered:
        click.echo(
            " ".join(f"--column {shlex.quote(f'{guess.name}={guess.format or guess.type}')}" for guess in offered)
        )
    else:
        click.echo("No column looks like personal data. Choose columns with --column NAME=TYPE or NAME=FORMAT.")
    if out is None or source == PIPE or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SystemExit(0)
    default = ",".join(_as_answer(guess.name, found) for guess in offered)
    while True:
        question = f"Columns to {options.op}, by name or number, separated by commas"
        answer = str(click.prompt(question, default=default))
        columns, wrong = chosen(answer, found, options.op, formats)
        if not wrong:
            return columns
        for line in wrong:
            click.echo(line)


def _show(found: Sequence[Suggestion]) -> None:
    """Print the table. It is readable in 80 columns, so each reason has the line above its examples."""
    table = Table("", box=box.SIMPLE)
    table.add_column("column", overflow="fold")
    table.add_column("type or\nformat", no_wrap=True)
    table.add_column("offered", no_wrap=True)
    table.add_column("why, and masked examples", overflow="fold")
    for number, guess in enumerate(found, 1):
        kind = guess.format or guess.type or guess.kind or "-"
        offered = "yes" if guess.is_offered else ""
        name = format_names([guess.name])
        examples = f"\ne.g. {'  '.join(guess.examples)}" if guess.examples else ""
        table.add_row(str(number), name, kind, offered, guess.why + examples)
    table_console().print(table)


def _as_answer(name: str, found: Sequence[Suggestion]) -> str:
    """Return the name of a column, or its number if an answer cannot contain the name."""
    names = [guess.name for guess in found]
    is_plain = "," not in name and name == name.strip() and name.isprintable()
    return name if is_plain or name not in names else str(names.index(name) + 1)


def chosen(
    answer: str, found: Sequence[Suggestion], op: Op, formats: Mapping[str, AnyFormat]
) -> tuple[Columns, list[str]]:
    """Return the columns that an answer names, and the mistakes in it.

    Args:
        answer: names or numbers, also with types or formats: ``email,3,zip=digits``.
        found: the guesses for all columns.
        op: tokenize or detokenize.
        formats: the formats by name.
    """
    columns: dict[str, Column] = {}
    wrong = []
    for part in filter(None, map(str.strip, answer.split(","))):
        try:
            name, kind = _choice(part, found, formats)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if name in columns:
            wrong.append(f"Column {format_names([name])} is named twice.")
        else:
            columns[name] = column_of(name, kind, op)
    if not columns and not wrong:
        wrong.append("Name at least one column. Ctrl-C exits.")
    return tuple(columns.values()), wrong


def _choice(part: str, found: Sequence[Suggestion], formats: Mapping[str, AnyFormat]) -> tuple[str, Kind]:
    """Return the column that a part of an answer names, and its type. Raises ``ValueError``."""
    guess = _named(part, found)
    if guess is not None:
        if guess.type is None:
            raise ValueError(f"Column {format_names([guess.name])}: {guess.why}.")
        return guess.name, Kind(guess.type.value, guess.format)
    name, equals, kind = part.rpartition("=")
    guess = _named(name, found) if equals else None
    if guess is None:
        names = format_names(guess.name for guess in found)
        raise ValueError(f"There is no column {format_names([name or part])}; the columns are {names}.")
    try:
        return guess.name, read_kind(kind, formats)
    except ValueError as error:
        raise ValueError(f"Column {format_names([guess.name])}: {error}.") from None


def _named(text: str, found: Sequence[Suggestion]) -> Suggestion | None:
    """Return the guess for a column by its name, or else by its number."""
    by_name = next((guess for guess in found if guess.name == text), None)
    if by_name is None and text.isdecimal() and 0 < int(text[:9]) <= len(found):
        return found[int(text[:9]) - 1]
    return by_name


def _readable(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise CheckFailed(f"{source}: {error.strerror}") from None

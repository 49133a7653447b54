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
from token_worker.cli.terminal import table_console
from token_worker.contract.messages import TypeName
from token_worker.errors import CheckFailed
from token_worker.files.columns import format_names
from token_worker.files.inputs import open_input
from token_worker.files.progress import JobOptions
from token_worker.files.suggest import Suggestion, suggest

Columns = tuple[tuple[str, str], ...]


def ask(options: JobOptions, source: str, out: str | None) -> Columns:
    """Show a guess for each column. On a terminal, ask the user which columns to take, and return them.

    Raises:
        click.UsageError: standard output cannot take the table.
        SystemExit: there is no user to ask, or no output to write.
    """
    if out == PIPE:
        raise click.UsageError("--suggest prints its table to standard output: leave OUT out, or name a file")
    with ExitStack() as stack:
        file = sys.stdin.buffer if source == PIPE else stack.enter_context(_readable(source))
        found = suggest(open_input(options, file, again=False).sample())
    _show(found)
    offered = {guess.name: guess.type.value for guess in found if guess.is_offered and guess.type is not None}
    if offered:
        click.echo(" ".join(f"--column {shlex.quote(f'{name}={kind}')}" for name, kind in offered.items()))
    else:
        click.echo("No column looks like personal data. Choose columns with --column NAME=TYPE.")
    if out is None or source == PIPE or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SystemExit(0)
    default = ",".join(_as_answer(name, found) for name in [*dict(options.columns)] or [*offered])
    while True:
        question = f"Columns to {options.op}, by name or number, separated by commas"
        answer = str(click.prompt(question, default=default))
        columns, wrong = chosen(answer, found, dict(options.columns))
        if not wrong:
            return columns
        for line in wrong:
            click.echo(line)


def _show(found: Sequence[Suggestion]) -> None:
    table = Table("", "column", "type", "offered", "why", "examples, masked", box=box.SIMPLE)
    for number, guess in enumerate(found, 1):
        kind = guess.type or guess.kind or "-"
        offered = "yes" if guess.is_offered else ""
        name = format_names([guess.name])
        table.add_row(str(number), name, kind, offered, guess.why, "  ".join(guess.examples))
    table_console().print(table)


def _as_answer(name: str, found: Sequence[Suggestion]) -> str:
    """Return the name of a column, or its number if an answer cannot contain the name."""
    names = [guess.name for guess in found]
    is_plain = "," not in name and name == name.strip() and name.isprintable()
    return name if is_plain or name not in names else str(names.index(name) + 1)


def chosen(answer: str, found: Sequence[Suggestion], types: Mapping[str, str]) -> tuple[Columns, list[str]]:
    """Return the columns that an answer names, and the mistakes in it.

    Args:
        answer: names or numbers, also with types: ``email,3,zip=str``.
        found: the guesses for all columns.
        types: types of columns that were given before.
    """
    names = [guess.name for guess in found]
    columns: dict[str, str] = {}
    wrong = []
    for part in filter(None, map(str.strip, answer.split(","))):
        name, kind = part, None
        if part not in names and part.rpartition("=")[2] in list(TypeName):
            name, _, kind = part.rpartition("=")
        if name not in names and name.isdecimal() and 0 < int(name[:9]) <= len(names):
            name = names[int(name[:9]) - 1]
        if name not in names:
            wrong.append(f"There is no column {format_names([name])}; the columns are {format_names(names)}.")
            continue
        guess = found[names.index(name)]
        kind = kind or types.get(name) or (None if guess.type is None else guess.type.value)
        if kind is None:
            wrong.append(f"Column {format_names([name])}: {guess.why}.")
        elif name in columns:
            wrong.append(f"Column {format_names([name])} is named twice.")
        else:
            columns[name] = kind
    if not columns and not wrong:
        wrong.append("Name at least one column. Ctrl-C exits.")
    return tuple(columns.items()), wrong


def _readable(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise CheckFailed(f"{source}: {error.strerror}") from None

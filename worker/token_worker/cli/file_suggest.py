"""``token-worker file --suggest``: shows all columns, offers those that look like personal data, and asks which."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click
from rich import box
from rich.table import Table

from token_worker.cli.terminal import table_console
from token_worker.contract.messages import TypeName
from token_worker.errors import CheckFailed
from token_worker.files.columns import format_names
from token_worker.files.inputs import open_input
from token_worker.files.progress import JobOptions
from token_worker.files.suggest import Suggestion, suggest

PIPE = "-"

Columns = tuple[tuple[str, str], ...]


def ask(options: JobOptions, source: str, out: str | None) -> Columns:
    """Show what the columns seem to be; those that the user wants, on a terminal.

    Raises:
        click.UsageError: there is no place for the table.
        SystemExit: nothing more is to be done.
    """
    if out == PIPE:
        raise click.UsageError("--suggest shows its table on standard output: leave OUT out, or name a file")
    with ExitStack() as stack:
        file = sys.stdin.buffer if source == PIPE else stack.enter_context(_readable(source))
        found = suggest(open_input(options, file, again=False).sample())
    _show(found)
    offered = {it.name: it.type.value for it in found if it.is_offered and it.type is not None}
    if offered:
        click.echo(" ".join(f"--column {shlex.quote(f'{name}={kind}')}" for name, kind in offered.items()))
    else:
        click.echo("No column looks like personal data. Choose columns with --column NAME=TYPE.")
    if out is None or source == PIPE or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SystemExit(0)
    default = ",".join(_as_answer(name, found) for name in [*dict(options.columns)] or [*offered])
    while True:
        answer = str(click.prompt(f"Which columns to {options.op}, by name or number, with commas", default=default))
        columns, wrong = chosen(answer, found, dict(options.columns))
        if not wrong:
            return columns
        for line in wrong:
            click.echo(line)


def _show(found: Sequence[Suggestion]) -> None:
    table = Table("", "column", "type", "offered", "why", "examples, masked", box=box.SIMPLE)
    for number, it in enumerate(found, 1):
        kind = it.type or it.kind or "-"
        table.add_row(
            str(number), format_names([it.name]), kind, "yes" if it.is_offered else "", it.why, "  ".join(it.examples)
        )
    table_console().print(table)


def _as_answer(name: str, found: Sequence[Suggestion]) -> str:
    """The name of a column, or its number where that would not be read as this name."""
    names = [it.name for it in found]
    is_plain = "," not in name and name == name.strip() and name.isprintable()
    return name if is_plain or name not in names else str(names.index(name) + 1)


def chosen(answer: str, found: Sequence[Suggestion], types: Mapping[str, str]) -> tuple[Columns, list[str]]:
    """The columns that an answer names, and what is wrong with it.

    Args:
        answer: names or numbers, also with types, as ``email,3,zip=str``.
        found: all columns.
        types: those that were said before.
    """
    names = [it.name for it in found]
    columns: dict[str, str] = {}
    wrong = []
    for part in filter(None, map(str.strip, answer.split(","))):
        name, kind = part, None
        if part not in names and part.rpartition("=")[2] in list(TypeName):
            name, _, kind = part.rpartition("=")
        if name not in names and name.isdecimal() and 0 < int(name[:9]) <= len(names):
            name = names[int(name[:9]) - 1]
        if name not in names:
            wrong.append(f"There is no column {format_names([name])}; there are {format_names(names)}.")
            continue
        it = found[names.index(name)]
        kind = kind or types.get(name) or (None if it.type is None else it.type.value)
        if kind is None:
            wrong.append(f"Column {format_names([name])}: {it.why}.")
        elif name in columns:
            wrong.append(f"Column {format_names([name])} is named twice.")
        else:
            columns[name] = kind
    if not columns and not wrong:
        wrong.append("No column is named; Ctrl-C ends.")
    return tuple(columns.items()), wrong


def _readable(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise CheckFailed(f"{source}: {error.strerror}") from None

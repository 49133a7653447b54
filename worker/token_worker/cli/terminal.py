"""What commands share: tables, questions, and values read from standard input."""

import re
import sys
import time
from collections.abc import Mapping

import click
from rich.console import Console

from token_worker.contract.messages import TypeName
from token_worker.errors import CheckFailed, Unavailable

WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""

FIRST_WORD_SECONDS = 1.0
NEXT_WORD_SECONDS = 5.0

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,99}")


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal, or wide enough for a file; brackets are just text."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def confirm(given: bool, question: str, option: str = "--yes") -> None:
    """Ask on a terminal, unless the option was given.

    Raises:
        click.UsageError: nobody can be asked.
        CheckFailed: the answer is no.
    """
    if given:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Confirm with {option}")
    if not click.confirm(question):
        raise CheckFailed("nothing was changed")


class LookingThrough:
    """Says on standard error how far a scan is, once it takes more than a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._say_at: float | None = None

    def __call__(self, seen: int) -> None:
        """So many names were looked at."""
        now = time.monotonic()
        if self._say_at is None:
            self._say_at = now + FIRST_WORD_SECONDS
        elif now >= self._say_at:
            self._say_at = now + NEXT_WORD_SECONDS
            click.echo(f"{self._what}: {seen:,} names looked at", err=True)


def check_reach(unknown: Mapping[str, str]) -> None:
    """Name the streams that could not be looked at, with their reasons, after what is known was printed.

    Raises:
        Unavailable: there are any.
    """
    for stream, reason in unknown.items():
        click.echo(f"{stream}: out of reach: {reason}", err=True)
    if unknown:
        raise Unavailable("streams", f"{len(unknown)} of them")


def read_text() -> str:
    """A value or token from standard input, or asked for on a terminal.

    Raises:
        click.UsageError: it is not UTF-8.
    """
    if sys.stdin.isatty():
        data = str(click.prompt("Value", hide_input=True)).encode(errors="surrogateescape")
    else:
        data = sys.stdin.buffer.read().removesuffix(b"\n")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the value is not UTF-8; bytes are given as base64") from None


def parse_text(type_name: str, text: str) -> int | str:
    """The value that a text stands for, as JSON would have it.

    Raises:
        click.UsageError: no whole number where one is expected.
    """
    if type_name not in (TypeName.INT32, TypeName.INT64):
        return text
    if not _WHOLE_NUMBER.fullmatch(text):
        raise click.UsageError(f"a value of type {type_name} is a whole number, in decimal digits without leading 0")
    return int(text)

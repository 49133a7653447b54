"""Helpers that commands share: tables, questions, and values from standard input."""

import re
import sys
import time
from collections.abc import Mapping

import click
from rich.console import Console

from token_worker.contract.messages import TypeName
from token_worker.errors import CheckFailed, Unavailable

TABLE_CHARACTERS = 160
"""Width of a table that goes into a file or a pipe."""

FIRST_WORD_SECONDS = 1.0
NEXT_WORD_SECONDS = 5.0

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,99}")


def number(count: int, one: str, more: str = "") -> str:
    """Return a count with its noun: ``1 row``, ``2,000 rows``. ``more`` is a plural that is not ``one`` and an s."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def table_console() -> Console:
    """Return a console for tables on standard output: as wide as the terminal, or with a fixed width for a file."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = TABLE_CHARACTERS
    return console


def confirm(given: bool, question: str, option: str = "--yes") -> None:
    """Ask on a terminal, unless the option was given.

    Raises:
        click.UsageError: standard input is not a terminal.
        CheckFailed: the answer is no.
    """
    if given:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Confirm with {option}")
    if not click.confirm(question):
        raise CheckFailed("nothing was changed")


def confirm_by_typing(given: str | None, expected: str, question: str, option: str) -> None:
    """Ask on a terminal for a text that is no accident to type, unless it was given with the option.

    Raises:
        click.UsageError: another text was given, or none, and standard input is not a terminal.
        CheckFailed: another text was typed.
    """
    if given is None:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Confirm with {option} {expected}")
        given = click.prompt(f"{question} Type {expected} to go on", default="", show_default=False)
        if given != expected:
            raise CheckFailed("nothing was changed")
    if given != expected:
        raise click.UsageError(f"{option} is not {expected}; nothing was changed")


def utc(moment: float) -> str:
    """Format a time in Unix seconds."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


class ScanProgress:
    """Prints the progress of a scan to standard error, if the scan takes more than a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._say_at: float | None = None

    def __call__(self, seen: int) -> None:
        """Take the number of names that the scan has seen."""
        now = time.monotonic()
        if self._say_at is None:
            self._say_at = now + FIRST_WORD_SECONDS
        elif now >= self._say_at:
            self._say_at = now + NEXT_WORD_SECONDS
            click.echo(f"{self._what}: {seen:,} names scanned", err=True)


def check_reach(unknown: Mapping[str, str]) -> None:
    """Name the streams that are out of reach, with their reasons, after the results for the others.

    Raises:
        Unavailable: a stream is out of reach.
    """
    for stream, reason in unknown.items():
        click.echo(f"{stream}: out of reach: {reason}", err=True)
    if unknown:
        raise Unavailable("streams", f"{len(unknown)} streams cannot be read")


def read_text() -> str:
    """Read a value or token from standard input. On a terminal, ask for it.

    Raises:
        click.UsageError: the value is not UTF-8.
    """
    if sys.stdin.isatty():
        data = str(click.prompt("Value", hide_input=True)).encode(errors="surrogateescape")
    else:
        data = sys.stdin.buffer.read().removesuffix(b"\n")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the value is not UTF-8; give bytes as base64") from None


def parse_text(type_name: str, text: str) -> int | str:
    """Convert a text to the JSON value for its type.

    Raises:
        click.UsageError: the type is a number, but the text is not a whole number.
    """
    if type_name not in (TypeName.INT32, TypeName.INT64):
        return text
    if not _WHOLE_NUMBER.fullmatch(text):
        raise click.UsageError(f"expected an {type_name}: a whole number in decimal digits, without a leading 0")
    return int(text)

"""``token-worker file``: columns of a whole file are tokenized, or turned back."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from token_worker.cli import file_suggest
from token_worker.client import TokenClient
from token_worker.contract.messages import Op, TypeName
from token_worker.contract.values import is_utf8
from token_worker.errors import CheckFailed, OperatorError, Unavailable
from token_worker.files import compressed as compression
from token_worker.files import progress as progress_module
from token_worker.files.columns import format_names
from token_worker.files.compressed import compression_of, without_ending
from token_worker.files.delimited import DELIMITERS
from token_worker.files.inputs import FORMATS_BY_ENDING
from token_worker.files.job import Job, OutputPaths, resolved
from token_worker.files.progress import Counts, JobOptions
from token_worker.files.sending import IN_FLIGHT, Stopped
from token_worker.settings import load
from token_worker.streams.routes import route_for

PIPE = file_suggest.PIPE

REASONS_SHOWN = 20
"""Reasons for rows that could not be done, in the last message."""

COLLECT_AFTER = 50_000
"""New objects before a look for cycles: rows in hand have none, and looking took a fifth of the time."""

MOST_SECONDS = 100_000_000
"""Three years."""


def read_columns(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[Any, ...]:
    """``NAME=TYPE`` as pairs."""
    columns = []
    for text in given:
        name, _, kind = text.rpartition("=")
        if not name or kind not in list(TypeName):
            raise click.BadParameter(f"expected NAME=TYPE with a type of {', '.join(TypeName)}")
        columns.append((name, kind))
    if len({name for name, _ in columns}) < len(columns):
        raise click.BadParameter("a column is named twice")
    return tuple(columns)


def read_seconds(_context: click.Context, _option: click.Parameter, given: float) -> float:
    """A time that clocks can add up, and no NaN."""
    if not given < MOST_SECONDS:
        raise click.BadParameter(f"expected less than {MOST_SECONDS:,} seconds")
    return given


@click.command(
    epilog="\b\nExample: token-worker file tokenize people.csv tokens.csv --client shop-frontend"
    " --column email=email --column card=str"
)
@click.argument("op", type=click.Choice([op.value for op in Op]))
@click.argument("source", metavar="IN")
@click.argument("out", metavar="[OUT]", required=False)
@click.option("--column", "columns", multiple=True, callback=read_columns, metavar="NAME=TYPE",
              help="A column and the type of its values; may be repeated. With --no-header, NAME is a number; in JSON"
              " Lines it may be a path such as address.zip or items[].iban.")  # fmt: skip
@click.option("--suggest", is_flag=True, help="Show what the first rows tell about the columns, and ask which to take.")
@click.option("--client", help="Client id. Not needed on a route that is pinned to one client.")
@click.option("--zone", help="Zone id.")
@click.option(
    "--inconsistent", is_flag=True, help="Make a new token for every value. Rows that are done again get other tokens."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(sorted(set(FORMATS_BY_ENDING.values()))),
    help="Default: by the names of the files.",
)
@click.option("--encoding", help="Encoding of text. Default: what a byte order mark says, or UTF-8.")
@click.option("--delimiter", help="Delimiter of CSV and TSV, one character.")
@click.option("--null", "nulls", multiple=True, metavar="TEXT",
              help=r"A cell of CSV or TSV that means no value and is kept, such as \N or NULL; may be repeated."
              " Give it as it stands in the file, with its quotes.")  # fmt: skip
@click.option("--no-quotes", is_flag=True, help="Quotes in CSV and TSV are ordinary characters.")
@click.option("--no-header", is_flag=True, help="The first row has values. Columns are numbered from 1.")
@click.option("--numbers", is_flag=True,
              help="int64 in JSON Lines: turn a number into a number and a text into a text, both ways. Without it,"
              " all tokens are texts, because many programs round numbers of 19 digits.")  # fmt: skip
@click.option("--errors", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="File for the rows that could not be done, as JSON Lines, without their values.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue a run that was interrupted.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--wait", "wait_seconds", type=click.FloatRange(min=0), default=300.0, callback=read_seconds,
              help="Give up after so many seconds without any answer from the workers.")  # fmt: skip
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=0.1), default=30.0, callback=read_seconds,
              help="Send a request again after so many seconds without an answer.")  # fmt: skip
@click.pass_obj
def file(  # noqa: C901, PLR0912, PLR0915 - one place says which options exclude each other
    config: Path | None,
    op: str,
    source: str,
    out: str | None,
    *,
    columns: tuple[tuple[str, str], ...],
    suggest: bool,
    client: str | None,
    zone: str | None,
    inconsistent: bool,
    form: str | None,
    encoding: str | None,
    delimiter: str | None,
    nulls: tuple[str, ...],
    no_quotes: bool,
    no_header: bool,
    numbers: bool,
    errors: Path | None,
    resume: bool,
    force: bool,
    wait_seconds: float,
    timeout_seconds: float,
) -> None:
    """Tokenize or detokenize columns of CSV, TSV, JSON Lines or Parquet. All else stays as it is, byte for byte.

    IN and OUT are files, or - for standard input and output. Text may be compressed: .gz, .zst. OUT appears when it is
    complete. Until then there are OUT.partial and OUT.progress, from which --resume continues after Ctrl-C, a kill or
    an outage. Empty cells and nulls are kept. A row that cannot be done is left out of OUT.

    Exit status 1: there were such rows, or the run failed. Exit status 3: the workers do not answer.
    """
    form = form or form_of(source) or form_of(out or "")
    if form is None:
        raise click.UsageError("the format is in neither file name: give --format")
    if form == "parquet" and PIPE in (source, out):
        raise click.UsageError("Parquet needs files, not pipes")
    if form not in DELIMITERS and (delimiter is not None or no_quotes or no_header or nulls):
        raise click.UsageError("--delimiter, --null, --no-quotes and --no-header are only for CSV and TSV")
    check_names(source, out, form, delimiter)
    if form != "jsonl" and numbers:
        raise click.UsageError("--numbers is only for JSON Lines")
    if form == "parquet" and encoding is not None:
        raise click.UsageError("--encoding is only for text")
    if not all(is_utf8(text) for text in (client or "", zone or "", *dict(columns), *nulls)):
        raise click.UsageError("names must be UTF-8")
    if suggest and columns:
        raise click.UsageError("--suggest asks which columns to take: leave --column out")
    if inconsistent and op == Op.DETOKENIZE:
        raise click.UsageError("--inconsistent is only for tokenize")
    if resume and PIPE in (source, out):
        raise click.UsageError("a run through a pipe cannot be resumed")
    options = JobOptions(
        op=Op(op), columns=columns, client_id=client, zone_id=zone, consistent=not inconsistent, format=form,
        encoding=encoding, delimiter=delimiter, quotes=not no_quotes, header=not no_header, nulls=nulls,
        numbers=numbers,
        errors=None if errors is None else os.fsencode(resolved(errors)).decode("utf-8", "backslashreplace"),
    )  # fmt: skip
    if suggest:
        options = msgspec.structs.replace(options, columns=file_suggest.ask(options, source, out))
    if out is None:
        raise click.UsageError("name the output: OUT")
    if not options.columns:
        raise click.UsageError("name the columns: --column NAME=TYPE, or --suggest")
    if numbers and "int64" not in dict(options.columns).values():
        raise click.UsageError("--numbers is only for columns of type int64")
    gc.set_threshold(COLLECT_AFTER)
    settings = load(os.environ, config)
    try:
        route_for(settings.routes, options.op, client)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    pipe = out == PIPE or not Path(source).is_file()
    view = View(Console(stderr=True))
    with (
        _stopping(at_once=pipe) as stopping,
        TokenClient(
            settings, client_id=client, zone_id=zone, consistent=not inconsistent,
            timeout_seconds=timeout_seconds, max_in_flight=2 * IN_FLIGHT,
        ) as tokens,
        view,
    ):  # fmt: skip
        job = Job(
            options,
            tokens,
            stopping=stopping,
            wait_seconds=wait_seconds,
            tell=view.say,
            away=lambda: tokens.away,
            watch=view.show,
        )
        path = None if source == PIPE else Path(source)
        places = None if out == PIPE else OutputPaths(Path(out), errors)
        try:
            if places is None:
                counts = job.pipe(path, errors, force=force)
            else:
                counts = job.run(path, places, resume=resume, force=force)
        except Stopped:
            view.say(f"stopped{_hint(places)}")
            raise SystemExit(128 + stopping.number) from None
        except BrokenPipeError:
            raise
        except Unavailable as error:
            raise Unavailable(error.server, f"{error.reason}{_hint(places)}") from None
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            raise CheckFailed(f"{name}{error.strerror or 'it cannot be read or written'}{_hint(places)}") from None
    view.end(counts)
    if counts.lost:
        raise CheckFailed(summary(counts, errors))


def summary(counts: Counts, errors: Path | None) -> str:
    """Which rows could not be done, and why."""
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(counts.problems.items()))
    lines = [f"{counts.lost:,} rows could not be done and are left out: {codes}"]
    for reason in sorted(counts.reasons, key=lambda it: -it.count)[:REASONS_SHOWN]:
        where = "the row" if reason.column is None else f"column {format_names([reason.column])}"
        first = ", ".join(map(str, reason.rows))
        which = f"row {first}" if reason.count == 1 else f"{reason.count:,} rows"
        which += f", {first}" if 1 < reason.count <= len(reason.rows) else ""
        which += f", the first are {first}" if reason.count > len(reason.rows) else ""
        lines.append(f"  {where}: {reason.code} ({which}): {reason.message}")
    if len(counts.reasons) > REASONS_SHOWN:
        lines.append(f"  and {len(counts.reasons) - REASONS_SHOWN} more reasons")
    lines.append("  each of them: --errors FILE lists them" if errors is None else f"  each of them: {errors}")
    return "\n".join(lines)


def form_of(name: str) -> str | None:
    """The format that the end of a file's name tells; of a compressed file the end before."""
    return FORMATS_BY_ENDING.get(without_ending(name).suffix.lower())


def check_names(source: str, out: str | None, form: str, delimiter: str | None) -> None:
    """See that the names of the files can be so.

    Raises:
        click.UsageError: what would be in the output is not what its name says.
        OperatorError: a compression is not installed.
    """
    for name in (source, out or ""):
        if form == "parquet" and compression_of(name):
            raise click.UsageError("Parquet has its own compression: use no .gz or .zst")
        compression.check(compression_of(name))
    told = form_of(out or "")
    between = DELIMITERS.get(form) if delimiter is None else delimiter
    if told not in (None, form) and (form not in DELIMITERS or DELIMITERS.get(told) != between):
        raise click.UsageError(
            f"OUT {out} would hold {form}, the format of IN or --format: no file is converted to another format"
        )


def _hint(places: OutputPaths | None) -> str:
    with suppress(OSError):  # a name that is too long
        return "; --resume continues" if places is not None and places.progress.exists() else ""
    return ""


class View:
    """How far it is, on a terminal; and a line at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=None, told="")
        self._started = time.monotonic()
        self._before: int | None = None
        self._rows = 0

    def show(self, progress: progress_module.JobProgress, far: int, total: int | None) -> None:
        """Where it begins, and then that another chunk is done."""
        if self._before is None:
            self._before = progress.counts.rows
            self._bar.reset(self._task, total=total, completed=far, told="")  # the speed is that of this run
        self._rows = progress.counts.rows - self._before
        self._bar.update(self._task, completed=far, told=self._told(progress.counts.rows))

    def _told(self, rows: int) -> str:
        return f"{rows:,} rows, {self._rows / max(time.monotonic() - self._started, 1e-9):,.0f}/s"

    def say(self, line: str) -> None:
        """Tell something meanwhile."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self, counts: Counts) -> None:
        """Sum up."""
        self.say(f"{self._told(counts.rows)}; {counts.empty:,} empty cells kept; {counts.lost:,} rows left out")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()


class _Stopping(threading.Event):
    """Set by SIGINT or SIGTERM; ``number`` tells by which."""

    number = 0


@contextmanager
def _stopping(*, at_once: bool) -> Iterator[_Stopping]:
    """Signals ask to stop; a second one, or ``at_once`` the first, does not ask.

    A signal that is ignored stays so: Ctrl-C is not meant for what a script has put into the background.
    """
    stopping = _Stopping()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stopping.is_set() or at_once:
            raise SystemExit(128 + number)
        stopping.number = number
        stopping.set()

    numbers = [it for it in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(it) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

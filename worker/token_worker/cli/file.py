"""``token-worker file``: tokenize or detokenize columns of a whole file."""

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
from rich.console import Console

from token_worker.cli import file_suggest
from token_worker.cli.file_arguments import PIPE, FileArguments, check_columns
from token_worker.cli.file_view import View, summary
from token_worker.client import TokenClient
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError, Unavailable, in_words
from token_worker.files.inputs import FORMATS_BY_ENDING
from token_worker.files.job import Job
from token_worker.files.output_paths import OutputPaths
from token_worker.files.progress import Counts, JobOptions
from token_worker.files.sending import CHUNKS_IN_FLIGHT, Stopped
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.streams.routes import route_for

GC_THRESHOLD = 50_000
"""New objects between two garbage collections. Rows have no cycles, and collections took a fifth of the time."""

MAX_SECONDS = 100_000_000
"""Longest time that an option can name: three years."""


def read_seconds(_context: click.Context, _option: click.Parameter, given: float) -> float:
    """Check that clocks can add a time: it is not NaN, and not too long."""
    if not given < MAX_SECONDS:
        raise click.BadParameter(f"expected less than {MAX_SECONDS:,} seconds")
    return given


@click.command(
    epilog="\b\nExample: token-worker file tokenize people.csv tokens.csv --client shop-frontend"
    " --column email=email-safe --column card=pan"
)
@click.argument("op", type=click.Choice([op.value for op in Op]))
@click.argument("source", metavar="IN")
@click.argument("out", metavar="[OUT]", required=False)
@click.option("--column", "columns", multiple=True, metavar="NAME=TYPE|FORMAT",
              help="A column, and the type of its values or the format of its tokens; may be repeated. With"
              " --no-header, NAME is a number; in JSON Lines it may be a path such as address.zip or items[].iban."
              " Write NAME=TYPE:FORMAT for a format that only the workers' settings have. To detokenize, a format"
              " means its type, so the same options serve both ways.")  # fmt: skip
@click.option("--suggest", is_flag=True, help="Show what the first rows tell about the columns, and ask which to take.")
@click.option("--client", help="Client id. Not needed on a route that is pinned to one client.")
@click.option("--zone", help="Zone id.")
@click.option(
    "--inconsistent", is_flag=True, help="Make a new token for every value. Rows that are done again get other tokens."
)
@click.option("--format", "format_name", type=click.Choice(sorted(set(FORMATS_BY_ENDING.values()))),
              help="Default: by the names of the files.")  # fmt: skip
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
              help="File for the rows that could not be done, and for rows with tokens of another format, as JSON"
              " Lines, without their values.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue a run that was interrupted.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--wait", "wait_seconds", type=click.FloatRange(min=0), default=300.0, callback=read_seconds,
              help="Give up after so many seconds without any answer from the workers.")  # fmt: skip
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=0.1), default=30.0, callback=read_seconds,
              help="Send a request again after so many seconds without an answer.")  # fmt: skip
@click.pass_obj
def file(config: Path | None, /, **given: Any) -> None:
    """Tokenize or detokenize columns of CSV, TSV, JSON Lines or Parquet. All else stays as it is, byte for byte.

    IN and OUT are files, or - for standard input and output. Text may be compressed: .gz, .zst. OUT appears when it is
    complete. Until then there are OUT.partial and OUT.progress, from which --resume continues after Ctrl-C, a kill or
    an outage. Empty cells and nulls are kept. A row that cannot be done is left out of OUT.

    Exit status 1: there were such rows, or the run failed. Exit status 3: the workers do not answer.
    """
    arguments = FileArguments(**given)
    settings = load(os.environ, config)
    options = arguments.job_options(settings.formats)
    if arguments.suggest:
        columns = file_suggest.ask(options, settings.formats, arguments.source, arguments.out)
        options = msgspec.structs.replace(options, columns=columns)
    if arguments.out is None:
        raise click.UsageError("name the output: OUT")
    check_columns(options)
    gc.set_threshold(GC_THRESHOLD)
    try:
        route_for(settings.routes, options.op, options.client_id)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    view = View(Console(stderr=True))
    counts = _run(settings, arguments, options, view)
    view.end(counts, arguments.errors)
    if counts.lost:
        raise CheckFailed(summary(counts, arguments.errors))


def _run(settings: Settings, arguments: FileArguments, options: JobOptions, view: View) -> Counts:
    """Run the job. Errors say how to resume, if it can be resumed."""
    paths = arguments.output_paths
    is_piped = arguments.out == PIPE or not Path(arguments.source).is_file()
    with (
        _stopping(at_once=is_piped) as stopping,
        TokenClient(
            settings, client_id=options.client_id, zone_id=options.zone_id, consistent=options.consistent,
            timeout_seconds=arguments.timeout_seconds, max_in_flight=2 * CHUNKS_IN_FLIGHT,
        ) as client,
        view,
    ):  # fmt: skip
        job = Job(
            options,
            client,
            stopping=stopping,
            wait_seconds=arguments.wait_seconds,
            tell=view.say,
            away=lambda: client.away,
            watch=view.show,
        )
        try:
            if paths is None:
                return job.pipe(arguments.source_path, arguments.errors, force=arguments.force)
            return job.run(arguments.source_path, paths, resume=arguments.resume, force=arguments.force)
        except Stopped:
            view.say(f"stopped{_hint(paths)}")
            raise SystemExit(128 + stopping.number) from None
        except BrokenPipeError:
            raise
        except Unavailable as error:
            raise type(error)(error.server, f"{in_words(error.reason)}{_hint(paths)}", error.address) from None
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            raise CheckFailed(f"{name}{error.strerror or 'it cannot be read or written'}{_hint(paths)}") from None


def _hint(paths: OutputPaths | None) -> str:
    with suppress(OSError):  # the name may be too long
        return "; --resume continues" if paths is not None and paths.progress.exists() else ""
    return ""


class _Stopping(threading.Event):
    """Set by SIGINT or SIGTERM. ``number`` is the number of the signal."""

    number = 0


@contextmanager
def _stopping(*, at_once: bool) -> Iterator[_Stopping]:
    """Set the event on the first signal, and exit on the second. With ``at_once``, exit on the first.

    A signal that is ignored stays ignored: Ctrl-C is not meant for a process that a script runs in the background.
    """
    stopping = _Stopping()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stopping.is_set() or at_once:
            raise SystemExit(128 + number)
        stopping.number = number
        stopping.set()

    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

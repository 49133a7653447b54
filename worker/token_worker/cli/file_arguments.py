"""Arguments of ``token-worker file``, and the checks which of them exclude each other."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
import msgspec

from token_worker.cli.file_columns import read_columns
from token_worker.contract.messages import Op, TypeName
from token_worker.contract.values import is_utf8
from token_worker.files import compressed
from token_worker.files.compressed import compression_of, without_ending
from token_worker.files.delimited import DELIMITERS
from token_worker.files.inputs import FORMATS_BY_ENDING
from token_worker.files.output_paths import OutputPaths, resolved
from token_worker.files.progress import JobOptions
from token_worker.tokens.formats import AnyFormat

PIPE: Final = "-"
"""Standard input or output."""


class FileArguments(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments and options as the user has given them. The options of the command describe them."""

    op: str
    source: str
    out: str | None
    columns: tuple[str, ...]
    suggest: bool
    client: str | None
    zone: str | None
    inconsistent: bool
    format_name: str | None
    encoding: str | None
    delimiter: str | None
    nulls: tuple[str, ...]
    no_quotes: bool
    no_header: bool
    numbers: bool
    errors: Path | None
    resume: bool
    force: bool
    wait_seconds: float
    timeout_seconds: float

    @property
    def source_path(self) -> Path | None:
        """Path of the input. None: standard input."""
        return None if self.source == PIPE else Path(self.source)

    @property
    def output_paths(self) -> OutputPaths | None:
        """Paths of the output. None: standard output."""
        return None if self.out in (None, PIPE) else OutputPaths(Path(self.out or ""), self.errors)

    def job_options(self, formats: Mapping[str, AnyFormat]) -> JobOptions:
        """Return the options of the job. With ``--suggest`` the columns are still missing.

        Raises:
            click.UsageError: a column is wrong, arguments exclude each other, or a necessary argument is missing.
            OperatorError: the package for a compression is not installed.
        """
        format_name = self.format_name or format_of(self.source) or format_of(self.out or "")
        if format_name is None:
            raise click.UsageError("the format is in neither file name: give --format")
        self._check_format(format_name)
        if not all(is_utf8(text) for text in (self.client or "", self.zone or "", *self.columns, *self.nulls)):
            raise click.UsageError("names must be UTF-8")
        if self.suggest and self.columns:
            raise click.UsageError("--suggest asks which columns to take: leave --column out")
        if self.inconsistent and self.op == Op.DETOKENIZE:
            raise click.UsageError("--inconsistent is only for tokenize")
        if self.resume and PIPE in (self.source, self.out):
            raise click.UsageError("a run through a pipe cannot be resumed")
        errors = None if self.errors is None else os.fsencode(resolved(self.errors)).decode("utf-8", "backslashreplace")
        op = Op(self.op)
        return JobOptions(
            op=op, columns=read_columns(self.columns, op, formats), client_id=self.client, zone_id=self.zone,
            consistent=not self.inconsistent, format=format_name, encoding=self.encoding, delimiter=self.delimiter,
            quotes=not self.no_quotes, header=not self.no_header, nulls=self.nulls, numbers=self.numbers,
            errors=errors,
        )  # fmt: skip

    def _check_format(self, format_name: str) -> None:
        """Check that files and options fit the format."""
        is_delimited = format_name in DELIMITERS
        if format_name == "parquet" and PIPE in (self.source, self.out):
            raise click.UsageError("Parquet needs files, not pipes")
        if not is_delimited and (self.delimiter is not None or self.no_quotes or self.no_header or self.nulls):
            raise click.UsageError("--delimiter, --null, --no-quotes and --no-header are only for CSV and TSV")
        self._check_names(format_name)
        if format_name != "jsonl" and self.numbers:
            raise click.UsageError("--numbers is only for JSON Lines")
        if format_name == "parquet" and self.encoding is not None:
            raise click.UsageError("--encoding is only for text")

    def _check_names(self, format_name: str) -> None:
        """Check that the name of the output fits its format."""
        for name in (self.source, self.out or ""):
            if format_name == "parquet" and compression_of(name):
                raise click.UsageError("Parquet has its own compression: use no .gz or .zst")
            compressed.check(compression_of(name))
        named = format_of(self.out or "")
        delimiter = DELIMITERS.get(format_name) if self.delimiter is None else self.delimiter
        if named not in (None, format_name) and (format_name not in DELIMITERS or DELIMITERS.get(named) != delimiter):
            raise click.UsageError(
                f"OUT {self.out} would hold {format_name}, the format of IN or --format:"
                " no file is converted to another format"
            )


def check_columns(options: JobOptions) -> None:
    """Check that there are columns to change, and that ``--numbers`` applies to one of them.

    Raises:
        click.UsageError: no column is named, or ``--numbers`` applies to none.
    """
    if not options.columns:
        raise click.UsageError("name the columns: --column NAME=TYPE or NAME=FORMAT, or --suggest")
    if options.numbers and TypeName.INT64 not in {column.type for column in options.columns}:
        raise click.UsageError("--numbers is only for columns of type int64")


def format_of(name: str) -> str | None:
    """Return the format of a file by the ending of its name, before .gz or .zst."""
    return FORMATS_BY_ENDING.get(without_ending(name).suffix.lower())

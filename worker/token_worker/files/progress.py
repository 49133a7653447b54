"""Checkpoint of an interrupted run: its options, the identity of its input, and its position. ``--resume`` reads it.

The checkpoint is the file ``OUT.progress`` beside the output. It is always replaced as a whole, after the output up to
this position has been synced to disk. It contains no values. A digest of both ends of the input identifies the input.
"""

import hashlib
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed
from token_worker.files.columns import Column

DIGEST_BYTES = 1 << 16
"""Bytes from each end of the input that go into its digest."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a job. A resumed run must have the same options.

    Attributes:
        op: tokenize or detokenize.
        columns: the columns to change.
        client_id, zone_id, consistent: as in requests.
        format: ``csv``, ``tsv``, ``jsonl`` or ``parquet``.
        encoding: None: the encoding of the byte order mark, or UTF-8.
        delimiter: None: the default of the format.
        quotes: True if fields may be quoted.
        header: True if the first row has the names of the columns.
        numbers: True if ``int64`` tokens of JSON numbers are numbers.
        nulls: cells of CSV and TSV that mean "no value".
        errors: absolute path of the file for the rows that cannot be done.
    """

    op: Op
    columns: tuple[Column, ...]
    client_id: str | None = None
    zone_id: str | None = None
    consistent: bool = True
    format: str
    encoding: str | None = None
    delimiter: str | None = None
    quotes: bool = True
    header: bool = True
    numbers: bool = False
    nulls: tuple[str, ...] = ()
    errors: str | None = None


class Source(msgspec.Struct, frozen=True):
    """Identity of the input."""

    size: int
    modified_ns: int
    digest: str


FIRST_ROWS = 5
"""Most row numbers that are listed for one reason."""


class Reason(msgspec.Struct):
    """A reason why rows are not in the output.

    Attributes:
        code: a code of the contract or of ``RowCode``.
        column: the column. None: the reason is about the whole row.
        message: the message for the first of these rows.
        count: number of these rows.
        rows: numbers of the first of these rows.
    """

    code: str
    column: str | None
    message: str
    count: int = 0
    rows: list[int] = []


class OtherTokens(msgspec.Struct):
    """Cells of a column whose tokens were made before in another format.

    Attributes:
        count: number of these cells.
        rows: numbers of the first rows with such a cell.
    """

    count: int = 0
    rows: list[int] = []


class Counts(msgspec.Struct):
    """Numbers of rows so far.

    Attributes:
        rows: all rows, without the header and blank rows.
        empty: cells that were kept because they are empty.
        other_format: cells whose tokens were made before in another format, by column.
        lost: rows that are not in the output.
        problems: problems of these rows, by code. A row can have several.
        reasons: the same problems, by code and column.
    """

    rows: int = 0
    empty: int = 0
    other_format: dict[str, OtherTokens] = {}
    lost: int = 0
    problems: dict[str, int] = {}
    reasons: list[Reason] = []

    def add_other(self, column: str, rows: Sequence[int]) -> None:
        """Count cells whose tokens have another format, one for each of these rows. A row can occur several times."""
        found = self.other_format.setdefault(column, OtherTokens())
        found.count += len(rows)
        found.rows = [*islice(dict.fromkeys([*found.rows, *rows]), FIRST_ROWS)]

    def add(self, row: int, column: str | None, code: str, message: str) -> None:
        """Count a problem of a row."""
        self.problems[code] = self.problems.get(code, 0) + 1
        reason = next((known for known in self.reasons if (known.code, known.column) == (code, column)), None)
        if reason is None:
            reason = Reason(code, column, message)
            self.reasons.append(reason)
        reason.count += 1
        if len(reason.rows) < FIRST_ROWS:
            reason.rows.append(row)


class JobProgress(msgspec.Struct, kw_only=True):
    """Position of a run.

    Attributes:
        offset: position in the input, in bytes; in Parquet, in rows.
        row: number of the last finished row, counted from 1.
        output, errors: bytes of these files that count.
        is_over: all rows are done. The output may already have its final name.
    """

    options: JobOptions
    source: Source
    offset: int = 0
    row: int = 0
    output: int = 0
    errors: int = 0
    counts: Counts
    is_over: bool = False


def source_of(file: BinaryIO) -> Source:
    """Identify a file. Afterwards the file is at its start again."""
    status = os.fstat(file.fileno())
    digest = hashlib.sha256(file.read(DIGEST_BYTES))
    file.seek(max(0, status.st_size - DIGEST_BYTES))
    digest.update(file.read(DIGEST_BYTES))
    file.seek(0)
    return Source(status.st_size, status.st_mtime_ns, digest.hexdigest())


def load(path: Path) -> JobProgress | None:
    """Load a saved progress. Return None if the file does not exist.

    Raises:
        CheckFailed: the file cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=JobProgress)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        raise CheckFailed(f"{path} cannot be read; --force starts again") from None


def save(path: Path, progress: JobProgress) -> None:
    """Save the progress, and sync it to disk."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(progress))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Sync the folder of a file, so that the name of the file is on disk."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

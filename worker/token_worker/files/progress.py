"""What a run that was cut short goes on from: how far it got, and what it was asked to do with which file.

Stands beside the output as ``OUT.progress``, replaced as a whole, and written after what it vouches for is on disk. It
holds no value; the digest of the input's two ends is there to tell another file from it.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed

END_BYTES = 1 << 16
"""Of each end of the input, for the digest."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked to do: what has to be the same when it goes on.

    Attributes:
        op: tokenize or detokenize.
        columns: name and type of each.
        client_id, zone_id, consistent: as in requests.
        format: ``csv``, ``tsv``, ``jsonl`` or ``parquet``.
        encoding: None: as the byte order mark says, else UTF-8.
        delimiter: None: that of the format.
        quotes: whether fields may be quoted.
        header: whether the first row has the names of the columns.
        numbers: whether ``int64`` tokens of JSON numbers are numbers.
        nulls: cells of CSV and TSV that stand for no value.
        errors: absolute path of the file for rows that cannot be done.
    """

    op: Op
    columns: tuple[tuple[str, str], ...]
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
    """Which file the input is."""

    size: int
    modified_ns: int
    digest: str


FIRST_ROWS = 3
"""Rows that are named of those that cannot be done for one reason."""


class Reason(msgspec.Struct):
    """Why rows are not in the output.

    Attributes:
        code: one of the contract's, or of ``RowCode``.
        column: None: it is about the row as a whole.
        message: what was expected in the first of them.
        count: how many they are.
        rows: numbers of the first.
    """

    code: str
    column: str | None
    message: str
    count: int = 0
    rows: list[int] = []


class Counts(msgspec.Struct):
    """What became of the rows so far.

    Attributes:
        rows: how many there were, without the header and blank ones.
        empty: cells that were left as they are, since there is no value in them.
        lost: rows that are not in the output.
        problems: why, by code; a row can have several.
        reasons: the same by code and column.
    """

    rows: int = 0
    empty: int = 0
    lost: int = 0
    problems: dict[str, int] = {}
    reasons: list[Reason] = []

    def add(self, row: int, column: str | None, code: str, message: str) -> None:
        """One more row that cannot be done."""
        self.problems[code] = self.problems.get(code, 0) + 1
        reason = next((it for it in self.reasons if (it.code, it.column) == (code, column)), None)
        if reason is None:
            reason = Reason(code, column, message)
            self.reasons.append(reason)
        reason.count += 1
        if len(reason.rows) < FIRST_ROWS:
            reason.rows.append(row)


class JobProgress(msgspec.Struct, kw_only=True):
    """How far a run got.

    Attributes:
        offset: where in the input it goes on: bytes, or of Parquet rows.
        row: number of the last row that is done, as a person counts them in the file.
        output, errors: bytes of these files that count.
        is_over: all rows are done, and the output may have its name already.
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
    """Which file this is; it is at its start again afterwards."""
    about = os.fstat(file.fileno())
    digest = hashlib.sha256(file.read(END_BYTES))
    file.seek(max(0, about.st_size - END_BYTES))
    digest.update(file.read(END_BYTES))
    file.seek(0)
    return Source(about.st_size, about.st_mtime_ns, digest.hexdigest())


def load(path: Path) -> JobProgress | None:
    """What was saved; None where nothing was.

    Raises:
        CheckFailed: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=JobProgress)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        raise CheckFailed(f"{path} cannot be read; --force starts anew") from None


def save(path: Path, progress: JobProgress) -> None:
    """Replace what was saved; it is on disk when this returns."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(progress))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Have the name of a file on disk."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Paths of the files that a run writes, and how these files are opened."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from token_worker.errors import CheckFailed, OperatorError
from token_worker.files.compressed import compression_of


class OutputPaths:
    """The files of a run that writes its output to a file.

    Attributes:
        out: the complete output.
        partial: the output so far: of Parquet the new columns, of a compressed file the uncompressed text.
        assembled: the complete Parquet or compressed file, before it is renamed to ``out``.
        progress: the checkpoint of an interrupted run.
        errors: the rows that could not be done, or None.
        compression: compression of the output, or None.
    """

    def __init__(self, out: Path, errors: Path | None) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.assembled = out.with_name(out.name + ".assembled")
        self.progress = out.with_name(out.name + ".progress")
        self.errors = errors
        self.compression = compression_of(out)

    def check(self, source: Path | None) -> None:
        """Check that all files are different, and that the outputs are regular files.

        Raises:
            OperatorError: two of the files are the same, or an output is not a regular file.
        """
        own = [self.out, self.partial, self.assembled, self.progress]
        others = [path for path in (source, self.errors) if path is not None]
        paths = [resolved(path) for path in [*own, *others]]
        same = len(set(paths)) < len(paths)
        for path in others:
            same = same or any(path.exists() and other.exists() and path.samefile(other) for other in own)
        if source is not None and self.errors is not None and self.errors.exists() and source.exists():
            same = same or source.samefile(self.errors)
        if same:
            raise OperatorError(
                "input, output and errors must be different files, also different from OUT.partial and OUT.progress"
            )
        for output in (self.out, self.errors):
            if output is not None and output.exists() and not output.is_file():
                raise OperatorError(f"{output} is not a regular file; - is standard output")

    def clear(self) -> None:
        """Remove the files that only an unfinished run needs. The progress is last: it says that there are others."""
        for path in (self.partial, self.assembled, self.progress):
            path.unlink(missing_ok=True)


def require_new(path: Path | None, *, force: bool) -> None:
    """Raise ``CheckFailed`` if a file exists and must not be replaced."""
    if path is not None and path.exists() and not force:
        raise CheckFailed(f"{path} exists; --force replaces it")


def resolved(path: Path) -> Path:
    """Resolve the links of a path. Links in a circle stay: opening the file reports them."""
    try:
        return path.resolve()
    except RuntimeError:
        return path.absolute()


def open_at(path: Path, size: int, flags: int = 0) -> BinaryIO:
    """Open a file for this run alone, cut it to a size, and go to its end.

    Raises:
        CheckFailed: another run writes the file, or the file is shorter.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckFailed(f"another run writes {path}") from None
    if os.fstat(file.fileno()).st_size < size:
        file.close()
        raise CheckFailed(f"{path} is shorter than it was; --force without --resume starts again")
    file.truncate(size)
    file.seek(size)
    return file

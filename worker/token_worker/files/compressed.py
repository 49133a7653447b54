"""Files that are compressed as a whole, by their names: ``.gz`` with the standard library, ``.zst`` with the extra.

What is read is the text in them. What is written is compressed at the end, from the finished text: a run that was cut
short then goes on to the same bytes as an undisturbed one.
"""

import gzip
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from token_worker.errors import CheckFailed, OperatorError
from token_worker.files.sending import Stopped

ENDINGS = {".gz": "gzip", ".zst": "zstd"}
"""Compressions by the end of a file's name."""

LEVELS = {"gzip": 6, "zstd": 3}
"""Of speed and size, what the tools of these names take."""

PART_BYTES = 1 << 20
"""Compressed at once."""


def compression_of(name: str | Path) -> str | None:
    """By the end of the file's name."""
    return ENDINGS.get(Path(name).suffix.lower())


def without_ending(name: str | Path) -> Path:
    """The name that says what is in the file."""
    path = Path(name)
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


class DecompressedFile:
    """What is in a compressed file, to be read from the front; ``seek`` reads on to a place.

    Raises:
        OperatorError: what is needed to read it is not installed.
        CheckFailed: it is damaged or cut off.
    """

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, *_zstd_errors(kind))
        self._file = _opened(kind)(file, "rb")
        self._kind = kind

    def read(self, size: int) -> bytes:
        """So many bytes; fewer at the end alone."""
        with self._reading():
            return cast("bytes", self._file.read(size))

    def seek(self, place: int) -> int:
        """Go on from another place."""
        with self._reading():
            return cast("int", self._file.seek(place))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except self._errors:
            raise CheckFailed(f"the input cannot be read: it is cut off or damaged, or no {self._kind}") from None


def compress(source: Path, target: Path, kind: str, stopping: threading.Event) -> None:
    """Make a compressed file, always the same for the same text; it is on disk when this returns.

    Raises:
        OperatorError: what is needed to write it is not installed.
        Stopped: it was asked for.
    """
    target.unlink(missing_ok=True)  # where that is a link, what it leads to is not ours
    with source.open("rb") as text, target.open("xb") as file:
        with _opened(kind)(file, "wb") as out:
            while part := text.read(PART_BYTES):
                if stopping.is_set():
                    raise Stopped
                out.write(part)
        file.flush()
        os.fsync(file.fileno())


def check(kind: str | None) -> None:
    """Raise ``OperatorError`` if what is needed for a compression is not installed."""
    if kind is not None:
        _opened(kind)


def _opened(kind: str) -> Callable[[IO[bytes], str], Any]:
    """Opens a file of this compression."""
    if kind == "gzip":
        return lambda file, mode: gzip.GzipFile("", mode, LEVELS[kind], file, 0)
    opened, level = _zstd().ZstdFile, LEVELS[kind]
    return lambda file, mode: opened(file, mode, level=level if mode == "wb" else None)


def _zstd_errors(kind: str) -> tuple[type[Exception], ...]:
    return (_zstd().ZstdError,) if kind == "zstd" else ()


def _zstd() -> Any:
    """The module of Python 3.14, or the same for earlier ones."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415 - may not be there
        except ImportError:
            raise OperatorError(".zst files need backports.zstd: pip install 'token-worker[zstd]'") from None
    return zstd

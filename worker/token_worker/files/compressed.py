"""Files that are compressed as a whole: ``.gz`` with the standard library, ``.zst`` with the extra ``zstd``.

Input is decompressed while it is read. Output is compressed at the end, when the text is complete, so that a resumed
run writes the same bytes as an undisturbed one.
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
"""Compression of a file, by the ending of its name."""

LEVELS = {"gzip": 6, "zstd": 3}
"""Compression levels: the defaults of the command line tools."""

PART_BYTES = 1 << 20
"""Bytes that are compressed at once."""


def compression_of(name: str | Path) -> str | None:
    """Return the compression of a file by the ending of its name, or None."""
    return ENDINGS.get(Path(name).suffix.lower())


def without_ending(name: str | Path) -> Path:
    """Return the name without ``.gz`` or ``.zst``."""
    path = Path(name)
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


class DecompressedFile:
    """The text of a compressed file. ``seek`` reads up to the new position.

    Raises:
        OperatorError: the package for this compression is not installed.
        CheckFailed: the file is damaged or cut off.
    """

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, *_zstd_errors(kind))
        self._file = _opened(kind)(file, "rb")
        self._kind = kind

    def read(self, size: int) -> bytes:
        """Read so many bytes, or fewer at the end of the file."""
        with self._reading():
            return cast("bytes", self._file.read(size))

    def seek(self, place: int) -> int:
        """Go to another position."""
        with self._reading():
            return cast("int", self._file.seek(place))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except self._errors:
            raise CheckFailed(f"the input cannot be read: it is cut off or damaged, or not {self._kind}") from None


def compress(source: Path, target: Path, kind: str, stopping: threading.Event) -> None:
    """Write a compressed file, always with the same bytes for the same text, and sync it to disk.

    Raises:
        OperatorError: the package for this compression is not installed.
        Stopped: ``stopping`` is set.
    """
    target.unlink(missing_ok=True)  # if the path is a link, its target must not change
    with source.open("rb") as text, target.open("xb") as file:
        with _opened(kind)(file, "wb") as out:
            while part := text.read(PART_BYTES):
                if stopping.is_set():
                    raise Stopped
                out.write(part)
        file.flush()
        os.fsync(file.fileno())


def check(kind: str | None) -> None:
    """Raise ``OperatorError`` if the package for a compression is not installed."""
    if kind is not None:
        _opened(kind)


def _opened(kind: str) -> Callable[[IO[bytes], str], Any]:
    """Return a function that opens a file of this compression."""
    if kind == "gzip":
        return lambda file, mode: gzip.GzipFile("", mode, LEVELS[kind], file, 0)
    opened, level = _zstd().ZstdFile, LEVELS[kind]
    return lambda file, mode: opened(file, mode, level=level if mode == "wb" else None)


def _zstd_errors(kind: str) -> tuple[type[Exception], ...]:
    return (_zstd().ZstdError,) if kind == "zstd" else ()


def _zstd() -> Any:
    """Import the module of Python 3.14, or its backport."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415 - optional
        except ImportError:
            raise OperatorError(".zst files need backports.zstd: pip install 'token-worker[zstd]'") from None
    return zstd

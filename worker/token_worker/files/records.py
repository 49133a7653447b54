"""Read a text file as records: rows with their line ends, byte for byte, in constant memory.

In the supported encodings, ASCII characters are ASCII bytes, and other characters have no ASCII bytes. So delimiters,
quotes and line ends are searched in the bytes, and only the cells to change are ever decoded. UTF-16 and UTF-32 are the
exception: they are converted to UTF-8 and back, which loses nothing.
"""

import codecs
from collections.abc import Callable, Iterator
from typing import Protocol

from token_worker.errors import CheckFailed, OperatorError

Cut = Callable[[bytes, bool], tuple[list[bytes], int]]
"""Takes bytes, and True if they are the last. Returns the complete records, and their length in bytes."""


class Readable(Protocol):
    """A file that can be read."""

    def read(self, size: int, /) -> bytes:
        """Read so many bytes, or fewer at the end of the file."""

    def seek(self, place: int, /) -> int:
        """Go to another position."""


BLOCK_BYTES = 1 << 18
"""Bytes in one read. More are read only if a single row is longer."""

ROW_BYTES = 8 << 20
"""Longest row. Without this limit, a quote that is never closed would take in the rest of the file."""

_MARKS = {"utf-8": codecs.BOM_UTF8, "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE,
          "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}  # fmt: skip
"""Byte order marks. UTF-32 is first, because its mark begins like the mark of UTF-16."""

MARK_BYTES = 4
"""Length of the longest byte order mark."""

_EXACT = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252"})
"""Encodings in which a decoded text is always encoded to the same bytes again."""


class Encoding:
    """Encoding of a file.

    Args:
        name: Python's name of the encoding. None: the encoding of the byte order mark, or UTF-8.
        head: the first bytes of the file.

    Attributes:
        mark: the byte order mark at the start of the file, or no bytes.
        cells: encoding of the records that are read.
        is_exact: True if a text has only one form. In cp932, for example, some characters have two.
        size: returns the number of bytes that a record has in the file.

    Raises:
        OperatorError: the encoding is unknown, or does not contain ASCII unchanged.
    """

    def __init__(self, name: str | None, head: bytes) -> None:
        marked = next((encoding for encoding, mark in _MARKS.items() if head.startswith(mark)), None)
        try:
            name = codecs.lookup(name or marked or "utf-8").name.removesuffix("-sig")
            if name in ("utf-16", "utf-32"):
                name = marked if marked is not None and marked.startswith(name) else f"{name}-le"
            self._wide = name if name.startswith(("utf-16", "utf-32")) else None
            self.cells = "utf-8" if self._wide else name
            ascii_as_it_is = bytes(range(128)).decode(self.cells, "replace") == "".join(map(chr, range(128)))
            is_ascii = ascii_as_it_is and not name.startswith("iso2022")  # ISO 2022 is ASCII only until an escape
        except (LookupError, UnicodeError):
            is_ascii = False
        if not is_ascii:
            raise OperatorError(f"encoding {name}: Python does not know it, or it does not contain ASCII unchanged")
        self.mark = _MARKS[marked] if marked is not None and marked == name else b""
        self.is_exact = self.cells in _EXACT
        self.size: Callable[[bytes], int] = len if self._wide is None else lambda record: len(self.written(record))

    def check(self, character: bytes) -> None:
        """Raise ``OperatorError`` if this byte can be a part of another character, as ``|`` can in Shift JIS."""
        for lead in range(128, 256):
            if character.decode() not in (bytes([lead]) + character).decode(self.cells, "replace"):
                raise OperatorError(
                    f"encoding {self.cells}: {character.decode()} can also be a part of other characters"
                )

    def reader(self) -> Callable[[bytes, bool], bytes]:
        """Return a function that converts the bytes of the file, block by block, for ``Cut``."""
        if self._wide is None:
            return lambda data, _final: data
        decoder = codecs.getincrementaldecoder(self._wide)()

        def read(data: bytes, final: bool) -> bytes:
            try:
                return decoder.decode(data, final).encode()
            except UnicodeError:
                raise CheckFailed(f"the input is not valid {self._wide}") from None

        return read

    def written(self, data: bytes) -> bytes:
        """Return the bytes in the file for the bytes of complete records."""
        return data if self._wide is None else data.decode().encode(self._wide)


class Records:
    """Reads the records of a file.

    Args:
        file: the file, at the first byte of a record.
        encoding: encoding of the file.
        cut: finds the records.
        row: number of the record before, for messages.
        start: bytes of the first record that were read from the file before.
    """

    def __init__(self, file: Readable, encoding: Encoding, cut: Cut, row: int = 0, *, start: bytes = b"") -> None:
        self._file = file
        self._decode = encoding.reader()
        self._cut = cut
        self._row = row
        self._start = start
        self._pending = b""
        self._ready: list[bytes] = []
        self._is_over = False

    def peek(self, count: int) -> list[bytes]:
        """Return the next records without taking them: so many, or fewer at the end of the file."""
        while len(self._ready) < count and not self._is_over:
            self._fill()
        return self._ready[:count]

    def take(self, count: int) -> list[bytes]:
        """Take the next records: so many, or fewer at the end of the file."""
        taken = self.peek(count)
        del self._ready[:count]
        return taken

    def blocks(self) -> Iterator[list[bytes]]:
        """Yield all remaining records, in blocks as they were read."""
        while self._ready or not self._is_over:
            if self._ready:
                block, self._ready = self._ready, []
                yield block
            else:
                self._fill()

    def _fill(self) -> None:
        # Read as many bytes as are pending. So the bytes of a long row are searched about twice, not for every block.
        wanted = max(BLOCK_BYTES, len(self._pending))
        data = self._file.read(wanted)
        self._is_over = len(data) < wanted
        data = self._pending + self._decode(self._start + data, self._is_over)
        self._start = b""
        records, used = self._cut(data, self._is_over)
        self._pending = data[used:]
        if max(map(len, records), default=0) > ROW_BYTES:
            place = next(place for place, record in enumerate(records, 1) if len(record) > ROW_BYTES)
            raise self._too_long(self._row + place)
        self._ready.extend(records)
        self._row += len(records)
        if self._is_over and self._pending:
            raise CheckFailed(f"row {self._row + 1}: a quote is never closed")
        if len(self._pending) > ROW_BYTES:
            raise self._too_long(self._row + 1)

    def _too_long(self, row: int) -> CheckFailed:
        return CheckFailed(f"row {row} is longer than {ROW_BYTES >> 20} MiB; is a quote never closed?")

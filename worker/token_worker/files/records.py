"""A text file as records: rows with their line ends, byte for byte, one after another in constant memory.

What an encoding writes for ASCII is ASCII, and nothing else is: then delimiters, quotes and line ends can be looked for
in the bytes, and only the cells that are asked for are ever decoded. UTF-16 and UTF-32 are the exception: they are read
as UTF-8 and written back, which loses nothing.
"""

import codecs
from collections.abc import Callable, Iterator
from typing import Protocol

from token_worker.errors import CheckFailed, OperatorError

Cut = Callable[[bytes, bool], tuple[list[bytes], int]]
"""Takes bytes, and whether they are the last; gives the records that are whole, and how many bytes these are."""


class Readable(Protocol):
    """A file."""

    def read(self, size: int, /) -> bytes:
        """So many bytes; fewer at the end alone."""

    def seek(self, place: int, /) -> int:
        """Go on from another place."""


BLOCK_BYTES = 1 << 18
"""Read at once; more only while a single row is longer."""

ROW_BYTES = 8 << 20
"""Longest row: one whose quote is never closed would otherwise be the rest of the file."""

_MARKS = {"utf-8": codecs.BOM_UTF8, "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE,
          "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}  # fmt: skip
"""Byte order marks; UTF-32 first, whose mark begins as that of UTF-16."""

MARK_BYTES = 4
"""What the longest has."""

_EXACT = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252"})
"""Encodings of which it is known that decoded texts are written as they stood there."""


class Encoding:
    """How a file is written.

    Args:
        name: as Python knows it; None: UTF-8, or what the byte order mark says.
        head: the first bytes of the file.

    Attributes:
        mark: the byte order mark that the file begins with, if any.
        cells: encoding of the records that are read.
        is_exact: whether a text of it is written in one way alone; in cp932, say, some characters have two.
        size: gives the bytes that a record has in the file.

    Raises:
        OperatorError: no encoding, or one that has bytes of ASCII for something else.
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
            is_ascii = ascii_as_it_is and not name.startswith("iso2022")  # those are, until an escape
        except (LookupError, UnicodeError):
            is_ascii = False
        if not is_ascii:
            raise OperatorError(f"encoding {name}: Python does not know it, or it does not hold ASCII as it is")
        self.mark = _MARKS[marked] if marked is not None and marked == name else b""
        self.is_exact = self.cells in _EXACT
        self.size: Callable[[bytes], int] = len if self._wide is None else lambda record: len(self.written(record))

    def check(self, character: bytes) -> None:
        """Raise ``OperatorError`` if this character can be a part of another, as ``|`` can in Shift JIS."""
        for lead in range(128, 256):
            if character.decode() not in (bytes([lead]) + character).decode(self.cells, "replace"):
                raise OperatorError(
                    f"encoding {self.cells}: {character.decode()} cannot be told from parts of other characters"
                )

    def reader(self) -> Callable[[bytes, bool], bytes]:
        """What makes of the bytes of the file, block by block, those that records are cut from."""
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
        """What stands in the file for bytes of whole records."""
        return data if self._wide is None else data.decode().encode(self._wide)


class Records:
    """Goes through a file.

    Args:
        file: at the first byte of a record.
        encoding: of the file.
        cut: finds the records.
        row: number of the record before, for messages.
        start: bytes of the first record that were read from the file already.
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
        """The next records, which stay to be read; so many, or all that there are."""
        while len(self._ready) < count and not self._is_over:
            self._fill()
        return self._ready[:count]

    def take(self, count: int) -> list[bytes]:
        """As ``peek``, but they are read then."""
        taken = self.peek(count)
        del self._ready[:count]
        return taken

    def blocks(self) -> Iterator[list[bytes]]:
        """All others, as many at once as were read together."""
        while self._ready or not self._is_over:
            if self._ready:
                block, self._ready = self._ready, []
                yield block
            else:
                self._fill()

    def _fill(self) -> None:
        # As much again as there is already: a long row is looked at twice on the whole, not once a block.
        wanted = max(BLOCK_BYTES, len(self._pending))
        data = self._file.read(wanted)
        self._is_over = len(data) < wanted
        data = self._pending + self._decode(self._start + data, self._is_over)
        self._start = b""
        records, used = self._cut(data, self._is_over)
        self._pending = data[used:]
        if max(map(len, records), default=0) > ROW_BYTES:
            raise self._too_long(self._row + next(n for n, it in enumerate(records, 1) if len(it) > ROW_BYTES))
        self._ready.extend(records)
        self._row += len(records)
        if self._is_over and self._pending:
            raise CheckFailed(f"row {self._row + 1}: a quote is opened and never closed")
        if len(self._pending) > ROW_BYTES:
            raise self._too_long(self._row + 1)

    def _too_long(self, row: int) -> CheckFailed:
        return CheckFailed(f"row {row} is longer than {ROW_BYTES >> 20} MiB; is there a quote that is never closed?")

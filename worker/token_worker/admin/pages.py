"""Pages of a stream's entries, bounded in entries and in bytes. Sans-IO like ``delivery``.

The server bounds a range in entries alone, and an entry may be as large as its producer made it. So COUNT begins small,
and follows the sizes of the entries before, as in ``delivery``. If small entries raised COUNT and large ones follow,
the read is aborted at ``READ_BYTES`` and tried again with a smaller COUNT. A single entry is always read.
"""

from collections.abc import Iterable
from typing import Any

from token_worker.errors import ReplyTooLarge
from token_worker.redis.exchange import BoundedCommand, Exchange
from token_worker.streams.reads import FIRST_COUNT, READ_BYTES, next_count

PAGE_ENTRIES = 100
"""Most entries of a page."""


class Pages:
    """Reads ranges of streams page by page."""

    def __init__(self) -> None:
        self._count = FIRST_COUNT

    def read(self, stream: str, start: str, end: str = "+") -> Exchange[list[Any]]:
        """The first entries of a range as the server sends them; at least one, if there is one."""
        while True:
            command = ("XRANGE", stream, start, end, "COUNT", self._count)
            try:
                page: list[Any] = yield BoundedCommand(READ_BYTES, command) if self._count > 1 else command
            except ReplyTooLarge:
                self._count = max(self._count // 8, 1)
                continue
            if page:
                self._count = next_count(self._count, len(page), size_of(page), PAGE_ENTRIES)
            return page


def size_of(entries: Iterable[Any]) -> int:
    """Bytes of the fields of entries."""
    return sum(len(field) for _, fields in entries for field in fields)

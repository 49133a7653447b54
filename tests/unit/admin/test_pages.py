"""Pages of a stream, without a server."""

from typing import Any

from token_worker.admin.pages import PAGE_ENTRIES, Pages
from token_worker.errors import ReplyTooLarge
from token_worker.redis.exchange import BoundedCommand
from token_worker.streams.reads import BATCH_BYTES, FIRST_COUNT, GROWTH, READ_BYTES


def read(pages: Pages, entry_bytes: int) -> list[int]:
    """Read a page from a long stream of equal entries. Returns the COUNT of each command."""
    exchange = pages.read("stream", "0-0")
    command: Any = next(exchange)
    counts = []
    try:
        while True:
            is_bounded = isinstance(command, BoundedCommand)
            counts.append((command.command if is_bounded else command)[-1])
            if is_bounded and counts[-1] * entry_bytes > command.max_bytes:
                command = exchange.throw(ReplyTooLarge())
            else:
                command = exchange.send([[b"1-0", [b"payload", b"x" * entry_bytes]]] * counts[-1])
    except StopIteration:
        return counts


def test_pages_of_small_entries_grow_step_by_step() -> None:
    """A stream of unknown entries is read a few at first: the server makes a whole reply before it is cut off."""
    pages = Pages()
    counts = [read(pages, 10) for _ in range(7)]
    assert counts == [[FIRST_COUNT * GROWTH**step] for step in range(3)] + [[PAGE_ENTRIES]] * 4


def test_large_entries_after_small_ones_are_read_one_at_a_time() -> None:
    """The read that would bring too much is aborted and tried again; the next pages ask for no more than fits."""
    pages = Pages()
    for _ in range(7):
        read(pages, 10)
    assert read(pages, READ_BYTES) == [PAGE_ENTRIES, PAGE_ENTRIES // 8, 1]
    assert read(pages, READ_BYTES) == [1]
    assert read(pages, BATCH_BYTES // 4) == [1]
    assert read(pages, BATCH_BYTES // 4) == [3]

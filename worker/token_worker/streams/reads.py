"""This module makes the commands that read new entries, and decides how many entries they ask for. Pure.

Redis does not tell the size of entries beforehand, so COUNT follows the size of those that came; see ``delivery``.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from token_worker.redis.exchange import BoundedCommand, Command, Together

BATCH_BYTES = 1 << 20
"""Payload bytes that a batch aims at. COUNT is set by the size of the entries before."""

READ_BYTES = 6 << 20
"""Most bytes of one read that can bring several entries. This is far above the aim, so that reads of sizes that just
vary are not aborted: an aborted read was sent in vain."""

FIRST_COUNT = 4
"""COUNT of the first read, when nothing is known about the entries of a stream."""

GROWTH = 4
"""COUNT at most grows by this factor from one read to the next: at the start, and after large entries."""

QUIET_COUNT = 64
"""COUNT while few entries come at once, if they are small. It gets larger after reads that bring many. So where there
is little to do, large entries that suddenly come do not make the server prepare a reply of a whole batch."""

SHRINK = 16
"""COUNT shrinks by this part with each read that brings few. Slowly, because few often come between many."""


@lru_cache(maxsize=64)  # where few come at once, it is asked for the same again and again
def next_count(asked: int, found: int, size: int, count_max: int) -> int:
    """Return COUNT of the next read, after one that asked for so many entries, and found so many of so many bytes."""
    fitting = BATCH_BYTES * found // max(size, 1)
    wanted = max(QUIET_COUNT, GROWTH * found, asked - asked // SHRINK)
    return max(1, min(count_max, fitting, GROWTH * asked, wanted))


def _read(group: str, consumer: str, count: int, block_ms: int, streams: tuple[str, ...]) -> tuple[Any, ...]:
    blocking = ("BLOCK", block_ms) if block_ms else ()
    head = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count)
    return (*head, *blocking, "STREAMS", *streams, *[">"] * len(streams))


@lru_cache(maxsize=64)
def read_command(group: str, consumer: str, count: int, block_ms: int, streams: tuple[str, ...]) -> Command:
    """Make a read of new entries. Mostly it is the same again and again."""
    command = _read(group, consumer, count, block_ms, streams)
    return BoundedCommand(READ_BYTES, command) if count * len(streams) > 1 else command


@lru_cache(maxsize=64)
def read_with_commit(
    group: str, consumer: str, count: int, block_ms: int, streams: tuple[str, ...], is_split: bool
) -> Together:
    """Make a read of new entries that is sent with a commit.

    If it is split, its first part waits for one entry, and its second part takes the others. A server that was waiting
    does the second part only after all the commands that it had received with that entry. So requests that a producer
    sent in one write come as one batch.
    """
    parts = [(1, block_ms), (count - 1, 0)] if is_split else [(count, block_ms)]
    commands = tuple([_read(group, consumer, part, wait_ms, streams) for part, wait_ms in parts])
    return Together(READ_BYTES if count * len(streams) > 1 else math.inf, commands)


def joined(replies: Iterable[Any]) -> Iterable[tuple[bytes, list[Any]]]:
    """Join the replies to reads of the same streams: for each stream all its entries."""
    found: dict[bytes, list[Any]] = {}
    for reply in replies:
        for name, entries in reply or ():
            found.setdefault(name, []).extend(entries)
    return found.items()

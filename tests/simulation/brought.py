"""This module tells which entries the reply to a read or claim brings, and how large they are."""

from collections.abc import Iterator, Sequence
from typing import Any

from simulation.commands import parse_id
from simulation.events import Id


def size_of(command: tuple[Any, ...], reply: Sequence[Any]) -> int:
    """Return the bytes of the entries in the reply to a read or claim."""
    return sum(size for _, _, size in entries_of(command, reply))


def entries_of(command: tuple[Any, ...], reply: Sequence[Any]) -> Iterator[tuple[bytes, Id, int]]:
    """Yield stream, id and bytes of each entry that a reply brings with its fields."""
    streams = reply if command[0] == "XREADGROUP" else [[command[1].encode(), reply]]
    for key, found in streams if command[-1] != "JUSTID" else ():
        for entry, fields in found:
            yield key, parse_id(entry), sum(map(len, fields[1::2]))

"""Access of operators to the entries of the token storage: finds, reads and changes them by compare-and-set.

A change of a token is a sequence of steps, each on one entry. On one server all steps are one script, ``change.lua``:
it first compares every entry with what was read, and then changes all or none. Where entries are on several nodes, each
step is done by itself, in the order given, up to the first entry that is not what was read any more. So the order of
the steps has to be safe at every point.

A command confirms at its end that all it has changed is as safe as ``TOKEN_WORKER_DURABILITY`` asks for.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from token_worker.redis.link import RedisLink
from token_worker.redis.scan import scan
from token_worker.redis.script import Script
from token_worker.storage.durability import DurabilityBarrier, NoBarrier

KEYS_PER_COMMAND = 1000
"""Most keys of one command."""

CHANGE = Script(__package__, "change.lua")
"""Compares entries, and changes all or none."""


class EntryChange(NamedTuple):
    """A step of a change.

    Attributes:
        key: name of the entry.
        old: the entry as it was read, or as an earlier step left it; empty if there is none.
        new: the new entry; empty to delete it; the same as ``old`` if it is only compared.
    """

    key: bytes
    old: bytes
    new: bytes


class EntryStore(Protocol):
    """The entries of the token storage. Errors are those of its link."""

    def names(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Find the names of a glob pattern, page by page; ``count`` is the COUNT of a SCAN. A name may come twice."""
        ...

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read entries, each or None."""
        ...

    def change(self, steps: Sequence[EntryChange]) -> int:
        """Do these steps, up to the first whose entry is not ``old``. Returns how many were done.

        On one server none is done then.
        """
        ...

    def confirm(self) -> None:
        """Wait until all changes so far are as safe as new tokens of workers are.

        In a cluster, only the nodes whose entries were read or changed are asked.

        Raises:
            SettingsError: the server cannot confirm. ``change`` finds that out, too, before its first change.
            Unavailable: they were not confirmed in time, or by another connection than that of the changes.
        """
        ...


class ServerEntries:
    """The entries on one server. It replicates each change as a whole, so commands only wait at their end.

    Args:
        link: connection to the server.
        barrier: waits until changes are safe; none by default.
    """

    def __init__(self, link: RedisLink, barrier: DurabilityBarrier | None = None) -> None:
        self._link = link
        self._barrier = barrier or NoBarrier()
        self._is_open = False

    def names(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        return scan(self._link, pattern, count)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), KEYS_PER_COMMAND):
            found += self._link.call("MGET", *keys[start : start + KEYS_PER_COMMAND])
        return found

    def change(self, steps: Sequence[EntryChange]) -> int:
        merged: dict[bytes, tuple[bytes, bytes]] = {}
        for key, old, new in steps:
            merged[key] = (merged[key][0] if key in merged else old, new)
        self._open()
        is_done = self._link.run(CHANGE, list(merged), [raw for pair in merged.values() for raw in pair])
        return len(steps) if is_done else 0

    def confirm(self) -> None:
        self._open()
        self._barrier.wait()

    def _open(self) -> None:
        """Begin what is confirmed at the end: if the connection is replaced meanwhile, nothing is."""
        if not self._is_open:
            self._barrier.check_server()
            self._barrier.open()
            self._is_open = True

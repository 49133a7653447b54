"""Changes on a modelled server, one by one, so that an observer need not trust the replies of commands."""

from typing import NamedTuple

Id = tuple[int, int]
"""Of an entry: milliseconds, and a number within these."""


class Added(NamedTuple):
    """An entry was added to a stream."""

    key: bytes
    entry: Id
    fields: list[bytes]


class Delivered(NamedTuple):
    """A new entry was delivered."""

    key: bytes
    entry: Id


class Claimed(NamedTuple):
    """A pending entry has another consumer, or another delivery count."""

    key: bytes
    entry: Id
    owner: bytes
    owner_before: bytes
    idle_ms: int
    deliveries: int
    deliveries_before: int


class Acknowledged(NamedTuple):
    """An entry is no longer pending, since it was acknowledged."""

    key: bytes
    entry: Id


class Dropped(NamedTuple):
    """An entry is no longer pending, and was not acknowledged."""

    key: bytes
    entry: Id


class Deleted(NamedTuple):
    """An entry was deleted, by a trim or by itself."""

    key: bytes
    entry: Id
    by_trim: bool


class GroupMade(NamedTuple):
    """A group was made; it begins after ``start``."""

    key: bytes
    start: Id


class GroupGone(NamedTuple):
    """A group was destroyed."""

    key: bytes


class Written(NamedTuple):
    """A string was written."""

    key: bytes
    value: bytes


class Gone(NamedTuple):
    """A key was deleted with all that it held."""

    key: bytes


Event = Added | Delivered | Claimed | Acknowledged | Dropped | Deleted | GroupMade | GroupGone | Written | Gone

"""The ends of a stream, the positions of its groups, and the ages of its entries. Sans-IO like ``delivery``.

The age of an entry is the age of its id, by the server's clock. But everyone who may add entries may choose their ids:
an id can lie ahead of the clock, or not be a time at all. Then the age follows from the arrivals that workers have
noted (see ``retention``): an entry is at most as old as the last note before it, and at least as old as the first note
after it. Without such a note, the age is unknown.

Entries stay on the server, however large: the script returns only their ids.
"""

from typing import Any, NamedTuple

from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.retention import AHEAD_MS
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import MOST, order

_ENDS = Script(
    __package__, "ends.lua", before="stream_info.lua", before_package="token_worker.streams", is_read_only=True
)

FEW_IDS = 10**12
"""A stream with fewer ids left than this is near its end. At 60,000 entries a second they last half a year."""

_FIRST_TIME_MS = 10**12
"""Ids before this (September 2001) are not times: somebody chose them as numbers."""

_IDS_AHEAD_REMEDY = (
    "let producers add entries with * only, and set clocks right; it ends when the clock has caught up, or with DEL of"
    " the stream once all its entries are answered"
)

_IDS_USED_UP_REMEDY = (
    "let producers add entries with * only. When all entries of the stream are answered and read, run XTRIM STREAM"
    " MAXLEN 0, XSETID STREAM TIME-0, and XGROUP SETID STREAM GROUP TIME-0 for each of its groups, TIME being Unix"
    " milliseconds; then restart readers that use no group. Or give the route a stream with a new name"
)


class IdsFinding(NamedTuple):
    """A problem with the ids of a stream, and its remedy."""

    message: str
    remedy: str


class StreamEnds(NamedTuple):
    """The first id of a stream and the last one given. A stream that does not exist has the defaults.

    Attributes:
        length: number of entries.
        first: id of the first entry; None if there is no entry.
        last_given: the largest id that an entry ever had.
        notes: times (Unix milliseconds) and ids of noted arrivals; see ``trim.lua``.
        groups: for each group, what XINFO GROUPS says, and the first id after the last delivered one, or None.
        added: number of entries that were ever added.
    """

    length: int = 0
    first: bytes | None = None
    last_given: bytes = b"0-0"
    notes: tuple[tuple[int, bytes], ...] = ()
    groups: tuple[tuple[dict[str, Any], bytes | None], ...] = ()
    added: int = 0

    def ahead_seconds(self, now_ms: int) -> float:
        """Seconds that the ids lie ahead of a clock. 0 if they do not, or only as far as clocks usually differ."""
        return ahead_seconds(self.last_given, now_ms)

    def ids_finding(self, now_ms: int) -> IdsFinding | None:
        """The problem with the ids, by a clock: they are ahead of it, used up, or nearly used up."""
        ms, count = order(self.last_given)
        ids_left, seconds = MOST - count, self.ahead_seconds(now_ms)
        if ms == MOST and not ids_left:
            return IdsFinding("all ids are used up, the server refuses new entries", _IDS_USED_UP_REMEDY)
        if ms == MOST and ids_left < FEW_IDS:
            return IdsFinding(
                f"only {ids_left:,} ids are left, then the server refuses new entries", _IDS_USED_UP_REMEDY
            )
        if seconds:
            return IdsFinding(f"ids are ahead of the server's clock by {seconds:,.0f} s", _IDS_AHEAD_REMEDY)
        return None


def read_clock() -> Exchange[int]:
    """The server's clock, in Unix milliseconds."""
    seconds, micros = yield ("TIME",)
    return int(seconds) * 1000 + int(micros) // 1000


def read_ends(route: Route, stream: str) -> Exchange[StreamEnds]:
    """Read the ends of one of a route's streams.

    Raises:
        ServerError: thrown in by the caller, if the key is not a stream, or this user may not read it.
    """
    found = yield RunScript(_ENDS, (stream, route.own_keys.arrivals[stream]), ())
    if found is None:  # the stream does not exist: nothing was sent yet
        return StreamEnds()
    length, first, last_given, raw, groups, added = found
    words = (raw or b"").split()
    notes = tuple((int(ms), entry_id) for ms, entry_id in zip(words[::2], words[1::2], strict=True))
    groups = tuple((by_name(group), following) for group, following in groups)
    return StreamEnds(length, first, last_given, notes, groups, added)


def is_time(entry_id: str | bytes, now_ms: int) -> bool:
    """Return True if an id can be the time at which its entry was added: it is not ahead of the clock, nor a number."""
    return _FIRST_TIME_MS <= order(entry_id)[0] <= now_ms + AHEAD_MS


def ahead_seconds(entry_id: bytes, now_ms: int) -> float:
    """Seconds that an id lies ahead of a clock. 0 if it does not, or only as far as clocks usually differ."""
    ahead_ms = order(entry_id)[0] - now_ms
    return ahead_ms / 1000 if ahead_ms > AHEAD_MS else 0.0


def age_seconds(entry_id: bytes | None, ends: StreamEnds, now_ms: int) -> float | None:
    """The age of an entry, by its id and the noted arrivals. None if there is no entry, or its age is unknown."""
    if entry_id is None:
        return None
    ms = order(entry_id)[0]
    # Notes of a stream that was deleted can have ids after the end of this one.
    notes = [
        (at_ms, noted) for at_ms, noted in ends.notes if at_ms <= now_ms and order(noted) <= order(ends.last_given)
    ]
    here_by = min([at_ms for at_ms, noted in notes if order(entry_id) <= order(noted)], default=None)
    if is_time(entry_id, now_ms):
        ages = [0, now_ms - ms, *([] if here_by is None else [now_ms - here_by])]
        return max(ages) / 1000
    not_before = max([at_ms for at_ms, noted in notes if order(noted) < order(entry_id)], default=here_by)
    return None if not_before is None else (now_ms - not_before) / 1000


def by_name(raw: list[Any]) -> dict[str, Any]:
    """Make a dictionary of the names and values that Redis sends as one list."""
    return {name.decode(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}

"""How far behind the readers of a route's streams are, and why; sans-IO like ``delivery``, and read-only.

The server's own ``lag`` cannot be relied on: it is nil after XDEL and for groups made at an id, and wrong after XTRIM
on Redis 7.0. What can be told from the ids of the stream and the group is told from those, exactly; the server's
figure is taken only where it can be right; else entries are counted, up to a bound, and the answer is "at least".
Never a guess, and never 0 for unknown.

Ages are those of the entries' ids, by the server's clock. Ids can lie ahead of the clock, or be no times, since whoever
may add entries may choose them. Then an age is told from what workers have noted of arrivals (see
``retention``): at most so old, by the last note before the entry; or at least so old, by the first note after it.
Where there is neither, the age cannot be told, and that is said.

Entries stay on the server, however large: scripts give their ids alone.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.retention import AHEAD_MS
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import FIRST_ID, MOST, after, order

LOOK = Script(
    __package__, "look.lua", before="stream_info.lua", before_package="token_worker.streams", is_read_only=True
)
COUNT = Script(__package__, "count.lua", is_read_only=True)

COUNT_ENTRIES_MAX = 10_000
"""Entries counted one by one at most."""

COUNT_BYTES_MAX = 8 << 20
"""Bytes of entries that the server looks through for counting at most."""

PAGE_ENTRIES = 1000
PAGE_BYTES = 256 << 10
"""Entries and bytes that one script counts, about: others wait for so long."""

PENDING_ENTRIES_MAX = 10_000
"""Pending entries looked at for the one with most deliveries."""

ALIVE_SECONDS = 60
"""A consumer that asked for entries within this time is alive; a worker asks every second, or is busy with a batch."""

_FIRST_TIME_MS = 10**12
"""Ids before this (September 2001) are numbers that somebody chose, no times."""


FEW_IDS = 10**12
"""With fewer ids left than this, a stream is near its end: 60,000 entries a second use so many up in half a year."""

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
    """What is wrong with the ids of a stream, and what to do."""

    message: str
    remedy: str


class GroupLag(msgspec.Struct, kw_only=True):
    """One group of one stream; members are those of ``lag --json``.

    Attributes:
        group: None where a response stream has no group at all.
        undelivered: entries that no consumer of the group was given yet.
        exact: False: at least so many.
        oldest_undelivered_age_seconds, oldest_pending_age_seconds: None where there is no such entry, or where its age
            cannot be told: its id is ahead of the clock, or no time.
        ids_ahead_seconds: how far the ids of the stream lie ahead of the server's clock; 0 where they do not.
        pending: entries that were given to a consumer and are not acknowledged.
        max_deliveries: deliveries of the worst pending entry.
        consumers: consumers alive.
        dead_consumers: consumers that have not asked for entries for ``ALIVE_SECONDS``.
        dead_letters: entries in the route's dead-letter stream; None on response streams.
        lag_known: whether the server tells a lag of its own.
    """

    stream: str
    group: str
    undelivered: int
    exact: bool
    pending: int
    oldest_undelivered_age_seconds: float | None
    oldest_pending_age_seconds: float | None
    max_deliveries: int
    consumers: int
    dead_consumers: int
    dead_letters: int | None
    lag_known: bool
    ids_ahead_seconds: float

    @property
    def has_unknown_age(self) -> bool:
        """Whether an entry waits whose age cannot be told."""
        return (self.undelivered > 0 and self.oldest_undelivered_age_seconds is None) or (
            self.pending > 0 and self.oldest_pending_age_seconds is None
        )


class Measured(NamedTuple):
    """What is known of the groups of all routes.

    Attributes:
        rows: one for each group.
        unknown: streams that could not be looked at, with the reason: in a cluster their node may be away alone.
        ahead_seconds: each stream of the routes that could be, with how far its ids lie ahead of the server's clock.
        ids: streams whose ids are ahead of the server's clock, or come to an end.
    """

    rows: list[GroupLag]
    unknown: dict[str, str]
    ahead_seconds: dict[str, float]
    ids: dict[str, IdsFinding]


def measure(routes: Sequence[Route], group: str) -> Exchange[Measured]:
    """All groups of the request streams, ours also where it does not exist yet, and of the response streams."""
    seconds, micros = yield ("TIME",)
    server = _ServerFacts(int(seconds) * 1000 + int(micros) // 1000, (yield from _counts_trimmed_entries()))
    found = Measured([], {}, {}, {})
    for route in routes:
        try:
            dead = yield "XLEN", route.dead_letters
            yield from _stream(route, route.requests, server, group, dead, found)
            yield from _ahead(route, server, found)
        except Unavailable as error:
            found.unknown[route.requests] = error.reason
    shared: dict[str, Route] = {}
    for route in routes:
        shared.setdefault(route.responses, route)
    for route in shared.values():
        try:
            yield from _stream(route, route.responses, server, None, None, found)
        except Unavailable as error:
            found.unknown[route.responses] = error.reason
    return found


class _ServerFacts(NamedTuple):
    now_ms: int
    is_misled: bool


class Ends(NamedTuple):
    """Where a stream begins and ends, by ids; as none where there is no stream.

    Attributes:
        first, last: entries that are there; None where there is none.
        last_given: the last id that was ever given to an entry.
        notes: times and ids, see ``trim.lua``.
        groups: what the server tells of each, and the first id that comes after what was delivered to it last.
    """

    length: int = 0
    first: bytes | None = None
    last: bytes | None = None
    last_given: bytes = b"0-0"
    notes: tuple[tuple[int, bytes], ...] = ()
    groups: tuple[tuple[dict[str, Any], bytes | None], ...] = ()

    def ahead_seconds(self, now_ms: int) -> float:
        """How far the ids lie ahead of a clock; 0 where they do not, but for what clocks are set by now and then."""
        ahead_ms = order(self.last_given)[0] - now_ms
        return ahead_ms / 1000 if ahead_ms > AHEAD_MS else 0.0

    def ids(self, now_ms: int) -> IdsFinding | None:
        """What is wrong with the ids by a clock: they are ahead of it, used up, or nearly so."""
        ms, number = order(self.last_given)
        left, seconds = MOST - number, self.ahead_seconds(now_ms)
        if ms == MOST and not left:
            return IdsFinding("all ids are used up, the server refuses new entries", _IDS_USED_UP_REMEDY)
        if ms == MOST and left < FEW_IDS:
            return IdsFinding(f"only {left:,} ids are left, then the server refuses new entries", _IDS_USED_UP_REMEDY)
        if seconds:
            return IdsFinding(f"ids are ahead of the server's clock by {seconds:,.0f} s", _IDS_AHEAD_REMEDY)
        return None


def look(route: Route, stream: str) -> Exchange[Ends]:
    """Where one of a route's streams begins and ends.

    Raises:
        ServerError: thrown in, where the key is no stream or may not be looked at.
    """
    found = yield RunScript(LOOK, (stream, route.arrivals(stream)), ())
    if found is None:  # nothing was sent yet
        return Ends()
    length, first, last, last_given, raw, groups = found
    words = (raw or b"").split()
    notes = tuple((int(ms), entry_id) for ms, entry_id in zip(words[::2], words[1::2], strict=True))
    return Ends(length, first, last, last_given, notes, tuple((_map(group), following) for group, following in groups))


def _ahead(route: Route, server: _ServerFacts, found: Measured) -> Exchange[None]:
    _note_ids(route.dead_letters, (yield from look(route, route.dead_letters)), server, found)


def _note_ids(stream: str, ends: Ends, server: _ServerFacts, found: Measured) -> None:
    found.ahead_seconds[stream] = ends.ahead_seconds(server.now_ms)
    finding = ends.ids(server.now_ms)
    if finding is not None:
        found.ids[stream] = finding


def _counts_trimmed_entries() -> Exchange[bool]:
    """Whether this server's lag is misled for ever by entries trimmed before anybody read them (Redis 7.0)."""
    try:
        info: bytes = yield "INFO", "server"
    except ServerError:
        return True  # not to be known: count
    version = re.search(rb"redis_version:(\d+)\.(\d+)", info)
    return version is None or (int(version[1]), int(version[2])) < (7, 2)


def _stream(
    route: Route, stream: str, server: _ServerFacts, ours: str | None, dead: int | None, found: Measured
) -> Exchange[None]:
    ends = yield from look(route, stream)
    _note_ids(stream, ends, server, found)
    ahead = found.ahead_seconds[stream]
    rows: list[GroupLag] = []
    for group, following in ends.groups:
        row = yield from _group(stream, ends, group, following, server)
        rows.append(msgspec.structs.replace(row, dead_letters=dead, ids_ahead_seconds=ahead))
    if ours is not None and not any(row.group == ours for row in rows):
        oldest = age_seconds(ends.first, ends, server.now_ms)
        known = {"undelivered": ends.length, "oldest_undelivered_age_seconds": oldest}
        rows.append(_row(stream, ours, **known, dead_letters=dead, ids_ahead_seconds=ahead))
    found.rows.extend(rows)


def _row(stream: str, group: str, **known: Any) -> GroupLag:
    nothing: dict[str, Any] = {
        "undelivered": 0,
        "exact": True,
        "pending": 0,
        "oldest_undelivered_age_seconds": None,
        "oldest_pending_age_seconds": None,
        "max_deliveries": 0,
        "consumers": 0,
        "dead_consumers": 0,
        "dead_letters": None,
        "lag_known": False,
        "ids_ahead_seconds": 0.0,
    }
    return GroupLag(stream=stream, group=group, **{**nothing, **known})


def _group(
    stream: str, ends: Ends, group: dict[str, Any], following: bytes | None, server: _ServerFacts
) -> Exchange[GroupLag]:
    name = group["name"].decode()
    lag = None if server.is_misled else group.get("lag")
    undelivered, exact = yield from _undelivered(stream, ends, group["last-delivered-id"], following, lag)
    oldest = age_seconds(following, ends, server.now_ms)
    oldest_pending, worst = None, 0
    if group["pending"]:
        summary = yield "XPENDING", stream, name
        oldest_pending = age_seconds(summary[1], ends, server.now_ms)
        worst = yield from _worst(stream, name)
    idle = [_map(raw)["idle"] for raw in (yield "XINFO", "CONSUMERS", stream, name)]
    alive = sum(ms < ALIVE_SECONDS * 1000 for ms in idle)
    return _row(
        stream,
        name,
        undelivered=undelivered,
        exact=exact,
        pending=group["pending"],
        oldest_undelivered_age_seconds=oldest,
        oldest_pending_age_seconds=oldest_pending,
        max_deliveries=worst,
        consumers=alive,
        dead_consumers=len(idle) - alive,
        lag_known=group.get("lag") is not None,
    )


def _undelivered(
    stream: str, ends: Ends, delivered: bytes, following: bytes | None, lag: int | None
) -> Exchange[tuple[int, bool]]:
    """How many entries come after ``delivered``, and whether that is exact."""
    if following is None:
        return 0, True
    if following == ends.first:
        return ends.length, True
    # Some entries are delivered and still there: what was trimmed lately had been delivered, and the lag can be right.
    if lag is not None and 0 < lag < ends.length:
        return lag, True
    counted = size = 0
    count, start = 1, after(delivered)
    while counted < COUNT_ENTRIES_MAX and size < COUNT_BYTES_MAX:
        if start is None:
            return counted, True
        found, last, found_bytes = yield RunScript(COUNT, (stream,), (start, count))
        counted += found
        if found < count:
            return counted, True
        size += found_bytes
        count = max(
            1, min(PAGE_ENTRIES, 4 * count, COUNT_ENTRIES_MAX - counted, PAGE_BYTES * found // max(found_bytes, 1))
        )
        start = after(last)
    return counted, False


def _worst(stream: str, group: str) -> Exchange[int]:
    worst, start = 0, after(FIRST_ID)
    for _ in range(0, PENDING_ENTRIES_MAX, 1000):
        page = yield "XPENDING", stream, group, start, "+", 1000
        worst = max([worst, *(deliveries for _, _, _, deliveries in page)])
        if len(page) < 1000 or (start := after(page[-1][0])) is None:
            break
    return worst


def _map(raw: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}


def age_seconds(entry_id: bytes | None, ends: Ends, now_ms: int) -> float | None:
    """Age of an entry by its id and what is noted of arrivals, None where there is no entry or it cannot be told."""
    if entry_id is None:
        return None
    ms = order(entry_id)[0]
    notes = [(at_ms, noted) for at_ms, noted in ends.notes if at_ms <= now_ms and _is_of(noted, ends)]
    here_by = min([at_ms for at_ms, noted in notes if order(entry_id) <= order(noted)], default=None)
    if _FIRST_TIME_MS <= ms <= now_ms + AHEAD_MS:
        ages = [0, now_ms - ms, *([] if here_by is None else [now_ms - here_by])]
        return max(ages) / 1000
    not_before = max([at_ms for at_ms, noted in notes if order(noted) < order(entry_id)], default=here_by)
    return None if not_before is None else (now_ms - not_before) / 1000


def _is_of(noted: bytes, ends: Ends) -> bool:
    """Whether a note can be of this stream: of one that was deleted, ids may lie beyond its end."""
    return order(noted) <= order(ends.last_given)

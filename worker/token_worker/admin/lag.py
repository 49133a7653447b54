"""Lag: how far the readers of a route's streams are behind, and why. Sans-IO like ``delivery``, and read-only.

The server's own ``lag`` is not reliable. It is nil after XDEL and for groups that were created at an id, and it is
wrong after XTRIM on Redis 7.0. So the number of undelivered entries is found in this order:

- by the ids of the stream and the group, if they tell it exactly;
- from the server's ``lag``, in the cases where that can be right;
- by counting entries, up to a bound; beyond the bound the answer is "at least".

The answer is never a guess, and never 0 if it is unknown. The same holds for ages; see ``stream_ends``.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from token_worker.admin.stream_ends import IdsFinding, StreamEnds, age_seconds, by_name, read_clock, read_ends
from token_worker.admin.workers import ALIVE_SECONDS, read_route
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import FIRST_ID, after

_COUNT = Script(__package__, "count.lua", is_read_only=True)

COUNT_ENTRIES_MAX = 10_000
"""Most entries that are counted one by one."""

COUNT_BYTES_MAX = 8 << 20
"""Most bytes of entries that the server reads to count them."""

PAGE_ENTRIES = 1000
PAGE_BYTES = 256 << 10
"""Entries and bytes that one script counts, about. Other clients of the server wait for so long."""

PENDING_ENTRIES_MAX = 10_000
"""Most pending entries that are searched for the one with the most deliveries."""


class GroupLag(msgspec.Struct, kw_only=True):
    """The lag of one group of one stream. Members are those of ``lag --json``.

    Attributes:
        group: name of the group.
        undelivered: entries that were not delivered to any consumer of the group yet.
        exact: False if there are at least so many.
        oldest_undelivered_age_seconds, oldest_pending_age_seconds: None if there is no such entry, or its age is
            unknown.
        ids_ahead_seconds: how far the ids of the stream lie ahead of the server's clock; 0 if they do not.
        pending: entries that were delivered to a consumer and are not acknowledged.
        max_deliveries: deliveries of the pending entry with the most.
        consumers: consumers that are alive.
        dead_consumers: consumers that have not asked for entries for ``ALIVE_SECONDS``.
        dead_letters: entries in the route's dead-letter stream; None for response streams.
        lag_known: True if the server itself tells a lag.
        added: entries that were ever added to the stream.
        read: entries that were ever delivered to the group, as the server counts them; None if it does not know.
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
    added: int = 0
    read: int | None = None

    @property
    def has_unknown_age(self) -> bool:
        """True if an entry waits whose age is unknown."""
        return (self.undelivered > 0 and self.oldest_undelivered_age_seconds is None) or (
            self.pending > 0 and self.oldest_pending_age_seconds is None
        )


class Measured(NamedTuple):
    """The lag of the groups of all routes.

    Attributes:
        rows: one for each group.
        unknown: streams that could not be read, with the reason. In a cluster, only their node may be away.
        ahead_seconds: for each other stream, how far its ids lie ahead of the server's clock.
        ids: streams whose ids are ahead of the server's clock, or nearly used up.
    """

    rows: list[GroupLag]
    unknown: dict[str, str]
    ahead_seconds: dict[str, float]
    ids: dict[str, IdsFinding]


def measure(routes: Sequence[Route], group: str) -> Exchange[Measured]:
    """Measure all groups of all streams. Includes ``group`` of each request stream, even if it does not exist."""
    server = _ServerFacts((yield from read_clock()), (yield from _lag_is_unreliable()))
    found = Measured([], {}, {}, {})
    for route in routes:
        try:
            dead = yield "XLEN", route.dead_letters
            yield from _stream(route, route.requests, server, group, dead, found)
            _note_ids(route.dead_letters, (yield from read_ends(route, route.dead_letters)), server, found)
        except Unavailable as error:
            found.unknown[route.requests] = str(error)
    shared: dict[str, Route] = {}
    for route in routes:
        shared.setdefault(route.responses, route)
    for route in shared.values():
        try:
            yield from _stream(route, route.responses, server, None, None, found)
        except Unavailable as error:
            found.unknown[route.responses] = str(error)
    return found


class _ServerFacts(NamedTuple):
    """The server's clock, and whether it is older than 7.2: it miscounts its lag, and keeps no idle consumers."""

    now_ms: int
    is_old: bool


def _note_ids(stream: str, ends: StreamEnds, server: _ServerFacts, found: Measured) -> None:
    found.ahead_seconds[stream] = ends.ahead_seconds(server.now_ms)
    finding = ends.ids_finding(server.now_ms)
    if finding is not None:
        found.ids[stream] = finding


def _lag_is_unreliable() -> Exchange[bool]:
    """Return True if trimmed entries that nobody had read make this server's lag wrong for ever (Redis 7.0)."""
    try:
        info: bytes = yield "INFO", "server"
    except ServerError:
        return True  # unknown: count entries
    version = re.search(rb"redis_version:(\d+)\.(\d+)", info)
    return version is None or (int(version[1]), int(version[2])) < (7, 2)


def _stream(
    route: Route, stream: str, server: _ServerFacts, ours: str | None, dead: int | None, found: Measured
) -> Exchange[None]:
    ends = yield from read_ends(route, stream)
    _note_ids(stream, ends, server, found)
    ahead = found.ahead_seconds[stream]
    rows: list[GroupLag] = []
    for group, following in ends.groups:
        row = yield from _group(stream, ends, group, following, server)
        if server.is_old and row.group == ours:
            workers = (yield from read_route(route, row.group, server.now_ms)).workers
            alive = sum(worker.reads for worker in workers)
            dead_consumers = sum(worker.idle_seconds is not None and not worker.reads for worker in workers)
            row = msgspec.structs.replace(row, consumers=alive, dead_consumers=dead_consumers)
        rows.append(msgspec.structs.replace(row, dead_letters=dead, ids_ahead_seconds=ahead, added=ends.added))
    if ours is not None and not any(row.group == ours for row in rows):
        oldest = age_seconds(ends.first, ends, server.now_ms)
        known = {"undelivered": ends.length, "oldest_undelivered_age_seconds": oldest, "added": ends.added}
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
    stream: str, ends: StreamEnds, group: dict[str, Any], following: bytes | None, server: _ServerFacts
) -> Exchange[GroupLag]:
    name = group["name"].decode()
    lag = None if server.is_old else group.get("lag")
    undelivered, exact = yield from _undelivered(stream, ends, group["last-delivered-id"], following, lag)
    oldest = age_seconds(following, ends, server.now_ms)
    oldest_pending, worst = None, 0
    if group["pending"]:
        summary = yield "XPENDING", stream, name
        oldest_pending = age_seconds(summary[1], ends, server.now_ms)
        worst = yield from _worst(stream, name)
    idle = [by_name(raw)["idle"] for raw in (yield "XINFO", "CONSUMERS", stream, name)]
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
        read=group.get("entries-read"),
    )


def _undelivered(
    stream: str, ends: StreamEnds, delivered: bytes, following: bytes | None, lag: int | None
) -> Exchange[tuple[int, bool]]:
    """Count the entries after ``delivered``. Returns the number, and True if it is exact."""
    if following is None:
        return 0, True
    if following == ends.first:
        return ends.length, True
    # Some delivered entries still exist. So entries that were trimmed lately were delivered, and the lag can be right.
    if lag is not None and 0 < lag < ends.length:
        return lag, True
    counted = size = 0
    count, start = 1, after(delivered)
    while counted < COUNT_ENTRIES_MAX and size < COUNT_BYTES_MAX:
        if start is None:
            return counted, True
        found, last, found_bytes = yield RunScript(_COUNT, (stream,), (start, count))
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

"""How far behind the readers of a route's streams are, and why; sans-IO like ``delivery``, and read-only.

The server's own ``lag`` cannot be relied on: it is nil after XDEL and for groups made at an id, and wrong after XTRIM
on Redis 7.0. What can be told from the ids of the stream and the group is told from those, exactly; the server's
figure is taken only where it can be right; else entries are counted, up to a bound, and the answer is "at least".
Never a guess, and never 0 for unknown.

Ages are those of the entries' ids, by the server's clock; an id that is no time has none.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from token_worker.errors import ServerError, Unavailable
from token_worker.streams.protocol import Protocol
from token_worker.streams.routes import Route

COUNT_LIMIT = 10_000
"""Entries counted one by one at most."""

COUNT_BYTES = 8 << 20
"""Bytes of entries fetched for counting at most."""

PAGE = 100
PENDING_LIMIT = 10_000
"""Pending entries looked at for the one with most deliveries."""

ALIVE_SECONDS = 60
"""A consumer that asked for entries within this time is alive; a worker asks every second, or is busy with a batch."""

_FIRST_TIME_MS = 10**12
"""Ids before this (September 2001) are numbers that somebody chose, no times."""


class GroupLag(msgspec.Struct, kw_only=True):
    """One group of one stream; members are those of ``lag --json``.

    Attributes:
        group: None where a response stream has no group at all.
        undelivered: entries that no consumer of the group was given yet.
        exact: False: at least so many.
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


class Measured(NamedTuple):
    """What is known of the groups of all routes.

    Attributes:
        rows: one for each group.
        unknown: streams that could not be looked at, with the reason: in a cluster their node may be away alone.
    """

    rows: list[GroupLag]
    unknown: dict[str, str]


def measure(routes: Sequence[Route], group: str) -> Protocol[Measured]:
    """All groups of the request streams, ours also where it does not exist yet, and of the response streams."""
    seconds, micros = yield ("TIME",)
    server = _Server(int(seconds) * 1000 + int(micros) // 1000, (yield from _counts_trimmed_entries()))
    found = Measured([], {})
    for route in routes:
        try:
            dead = yield "XLEN", route.dead_letters
            found.rows.extend((yield from _stream(route.requests, server, group, dead)))
        except Unavailable as error:
            found.unknown[route.requests] = error.reason
    for responses in dict.fromkeys(route.responses for route in routes):
        try:
            found.rows.extend((yield from _stream(responses, server, None, None)))
        except Unavailable as error:
            found.unknown[responses] = error.reason
    return found


class _Server(NamedTuple):
    now_ms: int
    is_misled: bool


def _counts_trimmed_entries() -> Protocol[bool]:
    """Whether this server's lag is misled for ever by entries trimmed before anybody read them (Redis 7.0)."""
    try:
        info: bytes = yield "INFO", "server"
    except ServerError:
        return True  # not to be known: count
    version = re.search(rb"redis_version:(\d+)\.(\d+)", info)
    return version is None or (int(version[1]), int(version[2])) < (7, 2)


def _stream(stream: str, server: _Server, ours: str | None, dead: int | None) -> Protocol[list[GroupLag]]:
    try:
        info = _map((yield "XINFO", "STREAM", stream))
        groups = [_map(raw) for raw in (yield "XINFO", "GROUPS", stream)]
    except ServerError as error:
        if error.code != "ERR":  # no such key is fine: nothing was sent yet
            raise
        info, groups = None, []
    rows: list[GroupLag] = []
    for found in groups:
        row = yield from _group(stream, info or {}, found, server, dead)
        rows.append(row)
    if ours is not None and not any(row.group == ours for row in rows):
        length = 0 if info is None else info["length"]
        oldest = _age(info["first-entry"][0], server.now_ms) if info is not None and info["first-entry"] else None
        rows.append(_row(stream, ours, undelivered=length, oldest_undelivered_age_seconds=oldest, dead_letters=dead))
    return rows


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
    }
    return GroupLag(stream=stream, group=group, **{**nothing, **known})


def _group(
    stream: str, info: dict[str, Any], group: dict[str, Any], server: _Server, dead: int | None
) -> Protocol[GroupLag]:
    name = group["name"].decode()
    delivered = group["last-delivered-id"]
    lag = None if server.is_misled else group.get("lag")
    undelivered, exact = yield from _undelivered(stream, info, delivered, lag)
    oldest = None
    if undelivered:
        following = yield "XRANGE", stream, b"(" + delivered, "+", "COUNT", 1
        oldest = _age(following[0][0], server.now_ms) if following else None
    oldest_pending, worst = None, 0
    if group["pending"]:
        summary = yield "XPENDING", stream, name
        oldest_pending = _age(summary[1], server.now_ms) if summary[1] else None
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
        dead_letters=dead,
        lag_known=group.get("lag") is not None,
    )


def _undelivered(stream: str, info: dict[str, Any], delivered: bytes, lag: int | None) -> Protocol[tuple[int, bool]]:
    """How many entries come after ``delivered``, and whether that is exact."""
    length: int = info["length"]
    if not length or _order(info["last-entry"][0]) <= _order(delivered):
        return 0, True
    if _order(delivered) < _order(info["first-entry"][0]):
        return length, True
    # Some entries are delivered and still there: what was trimmed lately had been delivered, and the lag can be right.
    if lag is not None and 0 < lag < length:
        return lag, True
    counted = size = 0
    after = b"(" + delivered
    while counted < COUNT_LIMIT and size < COUNT_BYTES:
        page = yield "XRANGE", stream, after, "+", "COUNT", PAGE
        counted += len(page)
        if len(page) < PAGE:
            return counted, True
        size += sum(len(field) for _, fields in page for field in fields)
        after = b"(" + page[-1][0]
    return counted, False


def _worst(stream: str, group: str) -> Protocol[int]:
    worst, start = 0, b"-"
    for _ in range(0, PENDING_LIMIT, 1000):
        page = yield "XPENDING", stream, group, start, "+", 1000
        worst = max([worst, *(deliveries for _, _, _, deliveries in page)])
        if len(page) < 1000:
            break
        start = b"(" + page[-1][0]
    return worst


def _map(raw: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}


def _order(entry_id: bytes) -> tuple[int, int]:
    first, _, second = entry_id.partition(b"-")
    return int(first), int(second)


def _age(entry_id: bytes, now_ms: int) -> float | None:
    ms = _order(entry_id)[0]
    return None if ms < _FIRST_TIME_MS else max(0, now_ms - ms) / 1000

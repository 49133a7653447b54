"""Retention of a route's streams, and consumers that have gone, sans-IO like ``delivery``.

Acknowledged entries stay in a stream until somebody deletes them, and they hold values. One worker at a time trims each
stream of a route by its age, or by its bytes, whichever is first. On request streams nothing is ever trimmed that any
group has not acknowledged. Readers of the other streams are waited for while they read, and ``HOLD_SECONDS`` longer.

A stream is trimmed by scripts of a bounded time each. While there is more to trim, the worker does a *round* of such
scripts now and then between its batches: see ``is_due``. All of them work at the memory limit of the server.

An entry's age is that of its id, or of what is noted of its arrival, whichever is more: ids can lie ahead of the
clock, since whoever may add entries may choose them. A note is the server's clock beside the last id, at each turn.

A route whose streams cannot be tended holds up no other one: it is told, and its turn comes again.

Touches the streams of the routes, and beside each request stream: ``<stream>:low-water``, the id up to which our group
has acknowledged everything, where a lost group is made again; ``<stream>:trimmed``, whose turn to trim it is, which
lapses when it is time to trim again; ``<stream>:arrivals``, the notes, with ``:responses`` and ``:dead-letters`` behind
it those of the other streams.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.routes import Route

TURN = Script(__package__, "turn.lua")
TRIM = Script(__package__, "trim.lua", before="stream_info.lua")
SWEEP = Script(__package__, "sweep.lua", before="stream_info.lua")

INTERVAL_SECONDS = 10
"""How often the streams of a route are trimmed."""

SCRIPT_MS = 2
"""CPU of the server that one script takes, about: others wait for so long."""

HOLD_SECONDS = 24 * 3600
"""How long past the retention entries wait for a group of readers that nobody reads for any more."""

CONSUMER_IDLE_SECONDS = 3600
"""How long a consumer that holds nothing may be silent before it is removed."""

AHEAD_MS = 1000
"""So far ahead of the clock an id may lie before that is told: clocks are set by less, now and then."""


@dataclass
class Trimmed:
    """What was done.

    Attributes:
        deleted: entries deleted.
        consumers: consumers removed.
        given_up: groups of readers that were not waited for any more.
        refused: request streams of routes that could not be tended, with the server's code, or why it is away.
        ahead_ms: streams that were looked at, with how far their ids lie ahead of the clock; 0 where they do not.
    """

    deleted: int = 0
    consumers: int = 0
    given_up: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    ahead_ms: dict[str, int] = field(default_factory=dict)


class Retention:
    """Trims the streams of some routes, by the clock of their server.

    Each of ``tend``, ``clear`` and ``leave`` passes over routes that rest, since their server is known to be away.

    Args:
        routes, group, consumer: whose.
        is_apart: whether the streams of one route can be away while those of others are there, as in a cluster. Where
            they cannot, ``Unavailable`` ends it all.
    """

    def __init__(self, routes: Sequence[Route], group: str, consumer: str, *, is_apart: bool = False) -> None:
        self._routes = routes
        self._group = group
        self._consumer = consumer
        self._is_apart = is_apart
        self._due = self._rests_until = float("-inf")
        self._left: dict[Route, tuple[str, ...]] = {}
        """Streams to be trimmed in the next round."""

    def is_due(self, now: float) -> bool:
        """Whether to call ``tend``, by a monotonic clock in seconds: once an interval, and then while there is more."""
        if now >= self._due:
            self._due = now + INTERVAL_SECONDS
            self._left = {route: route.streams for route in self._routes}
            return True
        return bool(self._left) and now >= self._rests_until

    def rest(self, until: float) -> None:
        """Let what is left wait until then: other work is to be done."""
        self._rests_until = until

    def tend(self, resting: Collection[Route] = ()) -> Exchange[Trimmed]:
        """A round: one script for each stream that is left of each route whose turn is ours."""
        for route in resting:  # until the next time
            self._left.pop(route, None)
        try:
            return (yield from self._each(self._tend_route, resting))
        except Unavailable:
            self._left.clear()
            raise

    def clear(self, resting: Collection[Route] = ()) -> Exchange[Trimmed]:
        """Delete acknowledged requests of the routes that do not keep them; to be called after every batch."""
        return (yield from self._each(self._clear_route, resting))

    def leave(self, resting: Collection[Route] = ()) -> Exchange[Trimmed]:
        """Remove this worker's consumer from every group in which it holds nothing."""
        return (yield from self._each(self._leave_route, resting))

    def _each(self, tend: Callable[[Route, Trimmed], Exchange[None]], resting: Collection[Route]) -> Exchange[Trimmed]:
        done = Trimmed()
        for route in self._routes:
            if route in resting:
                continue
            try:
                yield from tend(route, done)
            except ServerError as error:  # a right is missing, say
                done.refused.append((route.requests, error.code))
            except Unavailable as error:
                if not self._is_apart:
                    raise
                done.refused.append((route.requests, error.reason))
        return done

    def _tend_route(self, route: Route, done: Trimmed) -> Exchange[None]:
        streams = self._left.pop(route, ())
        if not streams or not (yield RunScript(TURN, [route.trim_turn], [self._consumer, INTERVAL_SECONDS * 900])):
            return  # another worker does it, or did a moment ago
        left: tuple[str, ...] = ()
        for stream in streams:
            if (yield from self._trim(route, stream, INTERVAL_SECONDS * 1000, done)):
                left = (*left, stream)
        if left:
            self._left[route] = left
        done.consumers += yield RunScript(SWEEP, [route.requests], [self._group, CONSUMER_IDLE_SECONDS * 1000, ""])

    def _clear_route(self, route: Route, done: Trimmed) -> Exchange[None]:
        if route.request_retention_seconds == 0:
            yield from self._trim(route, route.requests, None, done)

    def _leave_route(self, route: Route, done: Trimmed) -> Exchange[None]:
        done.consumers += yield RunScript(SWEEP, [route.requests], [self._group, 0, self._consumer])

    def _trim(self, route: Route, stream: str, notes_ms: int | None, done: Trimmed) -> Exchange[bool]:
        """Trim one stream for a bounded time, and note when its entries arrived; whether there is more to trim."""
        keys, group, keep_ms, hold_ms = [stream, route.arrivals(stream)], "", route.kept_seconds(stream) * 1000, ""
        if stream == route.requests:
            keys.append(route.low_water_mark)
            group = self._group
        else:
            hold_ms = str(keep_ms + HOLD_SECONDS * 1000)
        args = [group, keep_ms, route.retention_bytes or "", hold_ms, CONSUMER_IDLE_SECONDS * 1000]
        args += ["" if notes_ms is None else notes_ms, SCRIPT_MS]
        deleted, given_up, more, ahead_ms = yield RunScript(TRIM, keys, args)
        done.deleted += deleted
        if not more:
            done.given_up += given_up
        if notes_ms is not None:
            done.ahead_ms[stream] = ahead_ms
        return bool(more)

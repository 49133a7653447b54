"""Retention: trims the streams of routes and removes consumers that have gone. Sans-IO, like ``delivery``.

Acknowledged entries stay in a stream until they are deleted, and they hold values. One worker at a time trims each
stream of a route by its age or by its bytes, whichever comes first. A request that any group has not acknowledged is
never trimmed. On the other streams, entries wait for their readers while these read, and ``HOLD_SECONDS`` longer.

A stream is trimmed by scripts, each of a bounded time. While there is more to trim, the worker runs a *round* of such
scripts now and then between its batches, see ``is_due``. All scripts work at the memory limit of the server.

The age of an entry is the age of its id, or the age of its noted arrival, whichever is more. Ids can lie ahead of the
clock, because everyone who may add entries may choose their ids. A note is the server's clock beside the last id. It is
made at each turn.

A route whose streams cannot be trimmed does not hold up the others. It is reported, and its turn comes again.

Touches the streams of the routes, and three kinds of ``own_keys``: the low-water mark of each request stream, the turn
to trim the streams of a route, which expires when it is time to trim again, and the notes of arrivals.
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
"""Interval at which the streams of a route are trimmed."""

SCRIPT_MS = 2
"""CPU time of the server that one script takes, about. Other users of the server wait for so long."""

HOLD_SECONDS = 24 * 3600
"""Time after their retention for which entries wait for a group whose readers are gone."""

CONSUMER_IDLE_SECONDS = 3600
"""Idle time after which a consumer without entries is removed."""

AHEAD_MS = 1000
"""Milliseconds by which an id may lie ahead of the clock before it is reported. Now and then clocks are set by less."""


@dataclass
class Trimmed:
    """Outcome of a round.

    Attributes:
        deleted: entries deleted.
        consumers: consumers removed.
        given_up: groups of readers that entries no longer wait for.
        refused: request streams of routes that could not be trimmed, each with the code of the server's error, or with
            the reason why the server is unavailable.
        turns: routes whose turn to be trimmed was ours.
        ahead_ms: streams that were examined, each with the milliseconds by which its ids lie ahead of the clock, or 0.
    """

    deleted: int = 0
    consumers: int = 0
    given_up: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    turns: list[Route] = field(default_factory=list)
    ahead_ms: dict[str, int] = field(default_factory=dict)


class Retention:
    """Trims the streams of some routes, by the clock of their server.

    ``tend``, ``clear`` and ``leave`` skip routes that are resting: their server is known to be unavailable.

    Args:
        routes: routes whose streams are trimmed.
        group: consumer group of the workers.
        consumer: name of this worker.
        is_apart: whether one route can be unavailable while others are available, as in a cluster. If not,
            ``Unavailable`` ends the round.
    """

    def __init__(self, routes: Sequence[Route], group: str, consumer: str, *, is_apart: bool = False) -> None:
        self._routes = routes
        self._group = group
        self._consumer = consumer
        self._is_apart = is_apart
        self.clears = any(route.request_retention_seconds == 0 for route in routes)
        """True if there is a route that does not keep acknowledged requests."""
        self._due = self._rests_until = float("-inf")
        self._left: dict[Route, tuple[str, ...]] = {}
        """Streams to trim in the next round."""

    def is_due(self, now: float) -> bool:
        """Return True if ``tend`` is to be called now: once an interval, and then while there is more to trim."""
        if now >= self._due:
            self._due = now + INTERVAL_SECONDS
            self._left = {route: route.streams for route in self._routes}
            return True
        return bool(self._left) and now >= self._rests_until

    def rest(self, until: float) -> None:
        """Let the streams that are left wait until then, because there is other work."""
        self._rests_until = until

    def tend(self, resting: Collection[Route] = ()) -> Exchange[Trimmed]:
        """Run a round: one script for each stream that is left, of each route whose turn is ours."""
        for route in resting:  # until the next time
            self._left.pop(route, None)
        try:
            return (yield from self._each(self._tend_route, resting))
        except Unavailable:
            self._left.clear()
            raise

    def clear(self, resting: Collection[Route] = ()) -> Exchange[Trimmed]:
        """Delete acknowledged requests of routes that do not keep them. Call it after every batch."""
        return (yield from self._each(self._clear_route, resting))

    def leave(self, resting: Collection[Route] = ()) -> Exchange[Trimmed]:
        """Remove this worker's consumer from every group in which it holds no entries."""
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
                done.refused.append((route.requests, str(error)))
        return done

    def _tend_route(self, route: Route, done: Trimmed) -> Exchange[None]:
        streams = self._left.pop(route, ())
        args = [self._consumer, INTERVAL_SECONDS * 900]
        if not streams or not (yield RunScript(TURN, [route.own_keys.trim_turn], args)):
            return  # another worker does it, or did a moment ago
        done.turns.append(route)
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
        """Trim one stream for a bounded time, and note when its entries arrived. True if there is more to trim."""
        own, group, keep_ms, hold_ms = route.own_keys, "", route.kept_seconds(stream) * 1000, ""
        keys = [stream, own.arrivals[stream]]
        if stream == route.requests:
            keys.append(own.low_water_mark)
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

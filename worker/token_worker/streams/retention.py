"""Retention of a route's streams, and consumers that have gone, sans-IO like ``delivery``.

Acknowledged entries stay in a stream until somebody deletes them, and they hold values. One worker at a time trims each
stream of a route by its age, or by its bytes, whichever is first. On request streams nothing is ever trimmed that any
group has not acknowledged. Readers of the other streams are waited for while they read, and ``HOLD_SECONDS`` longer.

A route whose streams cannot be tended holds up no other one: it is told, and its turn comes again.

Touches the streams of the routes, and beside each request stream two keys: ``<stream>:low-water``, the id up to which
our group has acknowledged everything, where a lost group is made again; ``<stream>:trimmed``, which lapses when it is
time to trim again.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from token_worker.errors import ServerError, Unavailable
from token_worker.lua import Script
from token_worker.streams.protocol import Protocol, Run
from token_worker.streams.routes import Route

TRIM = Script(__package__, "trim.lua")
SWEEP = Script(__package__, "sweep.lua")

INTERVAL_SECONDS = 10
"""How often the streams of a route are trimmed."""

CALLS = 20
"""Scripts in a row on one stream; what is left waits for the next time."""

DELETED_A_CALL = 5000
"""Entries one script deletes at most, about: a millisecond or two of the server."""

HOLD_SECONDS = 24 * 3600
"""How long past the retention entries wait for a group of readers that nobody reads for any more."""

_NOTHING = f"{2**64 - 1}-0"
"""No entry is younger than this."""

CONSUMER_IDLE_SECONDS = 3600
"""How long a consumer that holds nothing may be silent before it is removed."""


@dataclass
class Trimmed:
    """What was done.

    Attributes:
        deleted: entries deleted.
        consumers: consumers removed.
        given_up: groups of readers that were not waited for any more.
        refused: request streams of routes that could not be tended, with the server's code, or why it is away.
    """

    deleted: int = 0
    consumers: int = 0
    given_up: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


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
        self._due = float("-inf")

    def is_due(self, now: float) -> bool:
        """Whether to call ``tend``, by a monotonic clock in seconds; True once an interval."""
        if now < self._due:
            return False
        self._due = now + INTERVAL_SECONDS
        return True

    def tend(self, resting: Collection[Route] = ()) -> Protocol[Trimmed]:
        """Trim the streams of every route whose turn it is, and remove consumers that have gone."""
        return (yield from self._each(self._tend_route, resting))

    def clear(self, resting: Collection[Route] = ()) -> Protocol[Trimmed]:
        """Delete acknowledged requests of the routes that do not keep them; to be called after every batch."""
        return (yield from self._each(self._clear_route, resting))

    def leave(self, resting: Collection[Route] = ()) -> Protocol[Trimmed]:
        """Remove this worker's consumer from every group in which it holds nothing."""
        return (yield from self._each(self._leave_route, resting))

    def _each(self, tend: Callable[[Route, Trimmed], Protocol[None]], resting: Collection[Route]) -> Protocol[Trimmed]:
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

    def _tend_route(self, route: Route, done: Trimmed) -> Protocol[None]:
        if (yield "SET", route.trim_turn, self._consumer, "NX", "PX", INTERVAL_SECONDS * 900) is None:
            return  # another worker did it a moment ago
        seconds, micros = yield ("TIME",)
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        yield from self._trim_requests(route, now_ms, done)
        yield from self._trim(route.responses, route.response_seconds, route, now_ms, done)
        yield from self._trim(route.dead_letters, route.dead_letter_retention_seconds, route, now_ms, done)
        done.consumers += yield Run(SWEEP, [route.requests], [self._group, CONSUMER_IDLE_SECONDS * 1000, ""])

    def _clear_route(self, route: Route, done: Trimmed) -> Protocol[None]:
        if route.request_retention_seconds == 0:
            yield from self._trim_requests(route, 0, done)

    def _leave_route(self, route: Route, done: Trimmed) -> Protocol[None]:
        done.consumers += yield Run(SWEEP, [route.requests], [self._group, 0, self._consumer])

    def _trim_requests(self, route: Route, now_ms: int, done: Trimmed) -> Protocol[None]:
        keep_from = f"{max(now_ms - route.request_retention_seconds * 1000, 0)}-0"
        if route.request_retention_seconds == 0:
            keep_from = _NOTHING
        args = [self._group, keep_from, route.retention_bytes or "", "", 0, DELETED_A_CALL]
        yield from self._repeat([route.requests, route.low_water_mark], args, done)

    def _trim(self, stream: str, seconds: int, route: Route, now_ms: int, done: Trimmed) -> Protocol[None]:
        keep_from = max(now_ms - seconds * 1000, 0)
        hold_from = max(keep_from - HOLD_SECONDS * 1000, 0)
        idle_ms = CONSUMER_IDLE_SECONDS * 1000
        args = ["", f"{keep_from}-0", route.retention_bytes or "", f"{hold_from}-0", idle_ms, DELETED_A_CALL]
        yield from self._repeat([stream, stream], args, done)

    def _repeat(self, keys: Sequence[str], args: Sequence[object], done: Trimmed) -> Protocol[None]:
        for _ in range(CALLS):
            deleted, given_up = yield Run(TRIM, keys, args)
            done.deleted += max(deleted, 0)
            if deleted < DELETED_A_CALL:
                done.given_up += given_up
                return

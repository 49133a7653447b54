"""Notes of workers about themselves, for those who watch them: version, host, start, readiness. Sans-IO.

Redis knows the consumers of a group and nothing of the processes behind them. So each worker writes a note beside each
of its request streams, by its consumer name, and removes the notes when it stops. The notes of consumers that are gone
are swept. Nothing that workers do depends on a note.

Touches the hash of workers of ``own_keys``, and looks at the consumers of the request streams.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.routes import Route, by_slot

NOTE = Script(__package__, "note.lua")
SWEEP_NOTES = Script(__package__, "sweep_notes.lua", before="stream_info.lua")

HOST_CHARACTERS = 64
WHY_CHARACTERS = 600
"""Most characters of these members of a note. The longest reason, a lost layout record, has about 500."""

NOTE_SECONDS = 20.0
"""Interval at which a worker writes its notes."""

KEPT_SECONDS = 86_400
"""Time after which the notes of a route expire to which no worker writes any more."""

STARTING_SECONDS = 60
"""Time for which a note stays without a consumer: a few intervals at which it is written."""

SCRIPT_NOTES = 100
"""Most notes that one script writes."""

Refusals = list[tuple[str, str]]
"""Request streams whose notes could not be written, each with the code of the error."""


class WorkerNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The note of a worker about itself.

    Attributes:
        version: version of the package.
        host: name of the worker's host.
        started: when the process started, in Unix seconds.
        ready: whether the worker is ready to answer requests.
        at: when the note was written, in Unix seconds by the clock of the streams' server.
        why: the reason why the worker is not ready; None if it is.
    """

    version: str
    host: str
    started: int
    ready: bool
    at: int
    why: str | None = None

    def __post_init__(self) -> None:
        """Cut what has no bound by itself."""
        msgspec.structs.force_setattr(self, "host", self.host[:HOST_CHARACTERS])
        if self.why is not None:
            msgspec.structs.force_setattr(self, "why", self.why[:WHY_CHARACTERS])


class WorkerNotes:
    """The notes of one worker about itself, one for each of its routes.

    Args:
        routes: routes that the worker serves.
        group: consumer group of the workers.
        consumer: name of this worker.
        is_apart: whether one route can be unavailable while others are available, as in a cluster.
    """

    def __init__(self, routes: Sequence[Route], group: str, consumer: str, *, is_apart: bool = False) -> None:
        self._routes = routes
        self._group = group
        self._consumer = consumer
        self._is_apart = is_apart

    def write(self, note: WorkerNote, resting: Collection[Route] = ()) -> Exchange[Refusals]:
        """Write the note for all routes, except those that are resting: their server is known to be unavailable."""
        return self._set(msgspec.json.encode(note), resting)

    def remove(self, resting: Collection[Route] = ()) -> Exchange[Refusals]:
        """Remove the worker's notes."""
        return self._set(b"", resting)

    def sweep(self, routes: Iterable[Route]) -> Exchange[Refusals]:
        """Remove the notes of consumers that are gone from the groups of these routes."""
        refused: Refusals = []
        for route in routes:
            keys = (route.requests, route.own_keys.workers)
            try:
                yield RunScript(SWEEP_NOTES, keys, (self._group, STARTING_SECONDS))
            except ServerError as error:
                refused.append((route.requests, error.code))
            except Unavailable as error:
                if not self._is_apart:
                    raise
                refused.append((route.requests, error.reason))
        return refused

    def _set(self, text: bytes, resting: Collection[Route]) -> Exchange[Refusals]:
        routes = [route for route in self._routes if route not in resting]
        refused: Refusals = []
        for group in by_slot(routes) if self._is_apart else [routes]:
            for start in range(0, len(group), SCRIPT_NOTES):
                refused += yield from self._set_some(group[start : start + SCRIPT_NOTES], text)
        return refused

    def _set_some(self, routes: Sequence[Route], text: bytes) -> Exchange[Refusals]:
        keys = [route.own_keys.workers for route in routes]
        try:
            codes: list[bytes] = yield RunScript(NOTE, keys, (self._consumer, text, KEPT_SECONDS))
        except ServerError as error:
            if len(routes) == 1:
                return [(routes[0].requests, error.code)]
        except Unavailable as error:
            if not self._is_apart:
                raise
            return [(route.requests, error.reason) for route in routes]
        else:
            return [(route.requests, code.decode()) for route, code in zip(routes, codes, strict=True) if code]
        refused: Refusals = []  # a right on one of the keys is missing: this refuses all of them
        for route in routes:
            refused += yield from self._set_some([route], text)
        return refused

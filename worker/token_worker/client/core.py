"""The calls of a client from their items to their end, over the lanes of its routes; for many threads.

Apart from the client itself, so that the threads do not keep a client alive that nobody has any more.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from token_worker.client import tracing
from token_worker.client.calls import Call, Outcome, Owner, Part
from token_worker.client.errors import ClientClosed, RequestRefused, TokenClientError
from token_worker.client.items import Answer, Item, Limits, Type, Value, encode, split
from token_worker.client.lane import Lane
from token_worker.client.open_calls import OpenCalls
from token_worker.redis.address import RedisSettings
from token_worker.streams.routes import Route, route_for


class Prepared(NamedTuple):
    """A call that can be started.

    Attributes:
        call: what ends it.
        lane: where its parts go.
        parts: to be put there, each as soon as there is room for one more request in flight.
    """

    call: Call
    lane: Lane
    parts: list[Part]


class Core:
    """What does the work of a client.

    Args:
        streams: the Redis of the streams.
        routes: where requests go.
        limits: of one request.
        gather_seconds: as for ``Requests``.
        shared: as for ``Lane``.
    """

    def __init__(
        self, streams: RedisSettings, routes: Sequence[Route], *, limits: Limits, gather_seconds: float, shared: bool
    ) -> None:
        self._streams = streams
        self._routes = tuple(routes)
        self._limits = limits
        self._gather_seconds = gather_seconds
        self._shared = shared
        self._lock = threading.Lock()
        self._lanes: dict[Route, Lane] = {}
        self._open = OpenCalls()
        self._clock = threading.Thread(target=self._watch, name="token-client clock", daemon=True)
        self._process: int | None = None
        """The process that has the threads, once there are any."""

    @property
    def needs_closing(self) -> bool:
        """Whether threads run."""
        return self._is_at_home and self._clock.ident is not None and not self._open.is_closed

    @property
    def _is_at_home(self) -> bool:
        """False after a fork: no thread came along, and locks may be held by those that did not."""
        return self._process in (None, os.getpid())

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is one of the client's threads, on which nothing may wait for an answer."""
        return threading.current_thread() is self._clock or any(lane.owns_thread() for lane in [*self._lanes.values()])

    def prepare(
        self,
        items: Sequence[Item | tuple[Type, Value]],
        owner: Owner,
        timeout_seconds: float,
        *,
        finish: Callable[[Outcome], None],
        release: Callable[[], None],
    ) -> Prepared:
        """A call, open from now on.

        Args:
            items: its values.
            owner: whose key, and what to do.
            timeout_seconds: how long it may last.
            finish: takes the outcome, once, in any thread: an answer for each item, or an error.
            release: called once for each part when its request is not in flight any more.

        Raises:
            ValueError: no route takes such requests.
            TypeError: a value is of no type that can be sent.
            ClientClosed: the client was closed.
            RuntimeError: the client was used before a fork, in the other process.
        """
        if not self._is_at_home:
            raise RuntimeError("the client belongs to another process; after a fork, make a new one")
        encoded = [encode(item, self._limits) for item in items]
        sendable = [it for it in encoded if type(it) is bytes]
        refused: dict[int, RequestRefused] = {}
        if len(sendable) < len(encoded):
            refused = {at: it for at, it in enumerate(encoded) if isinstance(it, RequestRefused)}
        route = route_for(self._routes, owner.op, owner.client_id)
        lane = self._lane(route)
        deadline = time.monotonic() + timeout_seconds
        finish = _merging(refused, finish) if refused else finish
        call = Call(len(sendable), deadline, lane.too_late, finish)
        if not self._open.add(call):
            raise ClientClosed("the client is closed")
        if not sendable:
            self._end(call, [])
        parts, caller = [], tracing.caller()
        for where in split([*map(len, sendable)], self._limits):
            part = sendable[where]
            parts.append(Part(call, where.start, part, owner, caller, release))
        return Prepared(call, lane, parts)

    def _lane(self, route: Route) -> Lane:
        with self._lock:
            if self._clock.ident is None:
                self._process = os.getpid()
                self._clock.start()
            if route not in self._lanes:
                self._lanes[route] = Lane(
                    route,
                    self._routes,
                    self._streams,
                    limits=self._limits,
                    gather_seconds=self._gather_seconds,
                    shared=self._shared,
                    over=self._end_all,
                )
            return self._lanes[route]

    @property
    def away(self) -> str | None:
        """Why the Redis of the streams cannot be used now, as far as is known; None while it can be."""
        with self._lock:
            lanes = [*self._lanes.values()]
        return next((why for lane in lanes if (why := lane.away)), None)

    def drop(self, call: Call) -> bool:
        """Nobody waits for this call any more; whether it was open until now."""
        if not self._open.take(call):
            return False
        call.end(None)
        self._open.wake()
        return True

    def time_out(self, call: Call) -> None:
        """The time of this call is up."""
        self._end(call, call.too_late())
        self._open.wake()

    def close(self) -> None:
        """End all calls that are open, with ``ClientClosed``, and all threads; of another process: nothing."""
        if not self._is_at_home:
            return
        try:
            text = "the client was closed before the reply came"
            self._end_each((call, ClientClosed(text)) for call in self._open.close())
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        with self._lock:
            lanes = [*self._lanes.values()]
        for lane in lanes:
            lane.close()
        if self.is_own_thread:  # a callback closes the client: another of the threads may be about to, as well
            return
        for lane in lanes:
            lane.join()
        if self._clock.ident is not None:
            self._clock.join()

    def _watch(self) -> None:
        while not self._open.is_closed:
            self._end_each((call, call.too_late()) for call in self._open.wait_for_overdue(time.monotonic()))
            for lane in [*self._lanes.values()]:
                lane.sweep()

    def _end_all(self, over: list[tuple[Call, Outcome]]) -> None:
        self._end_each((call, outcome) for call, outcome in over if self._open.take(call))
        if any(isinstance(outcome, TokenClientError) for _, outcome in over):
            self._open.wake()  # other requests of the same calls

    def _end(self, call: Call, outcome: Outcome) -> None:
        if self._open.take(call):
            call.end(outcome)

    def _end_each(self, taken: Iterable[tuple[Call, Outcome]]) -> None:
        """End calls that were taken out. What a callback raises (SystemExit, say) costs no other call its end.

        Futures let through what is no ``Exception``. A thread of ours lives on after it, as all calls need it.
        """
        raised: BaseException | None = None
        for call, outcome in taken:
            try:
                call.end(outcome)
            except BaseException as error:  # noqa: BLE001 - raised below
                raised = error
        try:
            if raised is not None and not self.is_own_thread:
                raise raised
            if raised is not None:
                threading.excepthook(
                    threading.ExceptHookArgs((type(raised), raised, raised.__traceback__, threading.current_thread()))
                )
        finally:
            del raised  # it holds on to this frame


def _merging(refused: dict[int, RequestRefused], finish: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    """Puts what was refused here among the answers to the others."""

    def merge(outcome: Outcome) -> None:
        if isinstance(outcome, list):
            others = iter(outcome)
            merged: list[Answer] = [
                refused[at] if at in refused else next(others) for at in range(len(refused) + len(outcome))
            ]
            outcome = merged
        finish(outcome)

    return merge

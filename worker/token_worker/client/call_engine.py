"""Run the calls of a client, from their items to their end, over one channel for each route. Safe for many threads.

The engine is an object of its own, so that its threads do not keep a client alive that the program has dropped.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from token_worker.client import tracing
from token_worker.client.calls import Call, CallKey, CallOutcome, Part
from token_worker.client.deadline_table import DeadlineTable
from token_worker.client.errors import ClientClosed, RequestRefused, TokenClientError
from token_worker.client.items import Answer, Item, RequestLimits, Type, Value, encode, split
from token_worker.client.route_channel import RouteChannel
from token_worker.redis.address import RedisSettings
from token_worker.streams.routes import Route, route_for


class PreparedCall(NamedTuple):
    """A call that is ready to start.

    Attributes:
        call: the call.
        channel: the channel for its parts.
        parts: its parts. Put each part into the channel when there is room for one more request in flight.
    """

    call: Call
    channel: RouteChannel
    parts: list[Part]


class CallEngine:
    """Does the work of a client.

    Args:
        streams: the Redis of the streams.
        routes: the routes for requests.
        limits: limits of one request.
        gather_seconds: see ``Requests``.
    """

    def __init__(
        self,
        streams: RedisSettings,
        routes: Sequence[Route],
        *,
        limits: RequestLimits,
        gather_seconds: float,
    ) -> None:
        self._streams = streams
        self._routes = tuple(routes)
        self._limits = limits
        self._gather_seconds = gather_seconds
        self._lock = threading.Lock()
        self._channels: dict[Route, RouteChannel] = {}
        self._open = DeadlineTable()
        self._clock = threading.Thread(target=self._watch, name="token-client clock", daemon=True)
        self._process: int | None = None
        """Process that owns the threads. None before the first thread."""

    @property
    def needs_closing(self) -> bool:
        """True while threads run."""
        return self._is_in_own_process and self._clock.ident is not None and not self._open.is_closed

    @property
    def _is_in_own_process(self) -> bool:
        """False after a fork: the threads stay in the old process, and may hold locks there."""
        return self._process in (None, os.getpid())

    @property
    def is_own_thread(self) -> bool:
        """True if the current thread belongs to the client. Such a thread must not wait for an answer."""
        return threading.current_thread() is self._clock or any(
            channel.owns_thread() for channel in [*self._channels.values()]
        )

    def prepare(
        self,
        items: Sequence[Item | tuple[Type, Value]],
        key: CallKey,
        timeout_seconds: float,
        *,
        finish: Callable[[CallOutcome], None],
        release: Callable[[], None],
    ) -> PreparedCall:
        """Make a call. It is open from now on.

        Args:
            items: the items of the call.
            key: operation, client, zone and consistency.
            timeout_seconds: how long the call may last.
            finish: takes the outcome, once, in any thread: an answer for each item, or an error.
            release: called once for each part, when its request is no longer in flight.

        Raises:
            ValueError: no route takes such requests.
            TypeError: a value has a type that cannot be sent.
            ClientClosed: the client was closed.
            RuntimeError: the process was forked after the first call.
        """
        if not self._is_in_own_process:
            raise RuntimeError("the client belongs to another process; after a fork, make a new client")
        encoded = [encode(item, self._limits) for item in items]
        sendable = [item for item in encoded if type(item) is bytes]
        refused: dict[int, RequestRefused] = {}
        if len(sendable) < len(encoded):
            refused = {at: item for at, item in enumerate(encoded) if isinstance(item, RequestRefused)}
        route = route_for(self._routes, key.op, key.client_id)
        channel = self._channel(route)
        deadline = time.monotonic() + timeout_seconds
        finish = _with_refused(refused, finish) if refused else finish
        call = Call(len(sendable), deadline, channel.timeout_error, finish)
        if not self._open.add(call):
            raise ClientClosed("the client is closed")
        if not sendable:
            self._end(call, [])
        parts, caller, at = [], tracing.caller(), 0
        for part in split(sendable, self._limits):
            parts.append(Part(call, at, part, key, caller, release))
            at += len(part)
        return PreparedCall(call, channel, parts)

    def _channel(self, route: Route) -> RouteChannel:
        with self._lock:
            if self._clock.ident is None:
                self._process = os.getpid()
                self._clock.start()
            if route not in self._channels:
                self._channels[route] = RouteChannel(
                    route,
                    self._routes,
                    self._streams,
                    limits=self._limits,
                    gather_seconds=self._gather_seconds,
                    on_ended=self._end_all,
                )
            return self._channels[route]

    @property
    def away(self) -> str | None:
        """Reason why the Redis of the streams cannot be used now, as seen by the threads. None if it can be used."""
        with self._lock:
            channels = [*self._channels.values()]
        return next((why for channel in channels if (why := channel.away)), None)

    def drop(self, call: Call) -> bool:
        """Drop a call whose caller does not wait any more. Return True if the call was open until now."""
        if not self._open.take(call):
            return False
        call.end(None)
        self._open.wake()
        return True

    def time_out(self, call: Call) -> None:
        """End a call, because its time-out is over."""
        self._end(call, call.timeout_error())
        self._open.wake()

    def close(self) -> None:
        """End all open calls with ``ClientClosed``, and all threads. After a fork, the new process does nothing."""
        if not self._is_in_own_process:
            return
        try:
            text = "the client was closed before the reply came"
            self._end_each((call, ClientClosed(text)) for call in self._open.close())
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        with self._lock:
            channels = [*self._channels.values()]
        for channel in channels:
            channel.close()
        if self.is_own_thread:  # a callback closes the client: two threads that do so must not wait for each other
            return
        for channel in channels:
            channel.join()
        if self._clock.ident is not None:
            self._clock.join()

    def _watch(self) -> None:
        while not self._open.is_closed:
            self._end_each((call, call.timeout_error()) for call in self._open.wait_for_overdue(time.monotonic()))
            for channel in [*self._channels.values()]:
                channel.sweep()

    def _end_all(self, outcomes: list[tuple[Call, CallOutcome]]) -> None:
        self._end_each((call, outcome) for call, outcome in outcomes if self._open.take(call))
        if any(isinstance(outcome, TokenClientError) for _, outcome in outcomes):
            self._open.wake()  # sweep the other requests of these calls

    def _end(self, call: Call, outcome: CallOutcome) -> None:
        if self._open.take(call):
            call.end(outcome)

    def _end_each(self, taken: Iterable[tuple[Call, CallOutcome]]) -> None:
        """End calls that were taken from the table. If a callback raises, the other calls are still ended.

        Futures catch every ``Exception`` of a callback, but not ``SystemExit``. A thread of the client survives such an
        error, because all calls need the thread.
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
            del raised  # a raised error keeps this frame alive


def _with_refused(
    refused: dict[int, RequestRefused], finish: Callable[[CallOutcome], None]
) -> Callable[[CallOutcome], None]:
    """Return a ``finish`` that puts the items that were refused here among the answers to the other items."""

    def merge(outcome: CallOutcome) -> None:
        if isinstance(outcome, list):
            others = iter(outcome)
            merged: list[Answer] = [
                refused[at] if at in refused else next(others) for at in range(len(refused) + len(outcome))
            ]
            outcome = merged
        finish(outcome)

    return merge

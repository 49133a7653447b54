"""The calls of a client from their items to their end, over the channels of its routes; for many threads.

Apart from the client itself, so that the threads do not keep a client alive that nobody has any more.
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
    """A call that can be started.

    Attributes:
        call: what ends it.
        channel: where its parts go.
        parts: to be put there, each as soon as there is room for one more request in flight.
    """

    call: Call
    channel: RouteChannel
    parts: list[Part]


class CallEngine:
    """What does the work of a client.

    Args:
        streams: the Redis of the streams.
        routes: where requests go.
        limits: of one request.
        gather_seconds: as for ``Requests``.
        shared: as for ``RouteChannel``.
    """

    def __init__(
        self,
        streams: RedisSettings,
        routes: Sequence[Route],
        *,
        limits: RequestLimits,
        gather_seconds: float,
        shared: bool,
    ) -> None:
        self._streams = streams
        self._routes = tuple(routes)
        self._limits = limits
        self._gather_seconds = gather_seconds
        self._shared = shared
        self._lock = threading.Lock()
        self._channels: dict[Route, RouteChannel] = {}
        self._open = DeadlineTable()
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
        """A call, open from now on.

        Args:
            items: its values.
            key: whose key, and what to do.
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
        route = route_for(self._routes, key.op, key.client_id)
        channel = self._channel(route)
        deadline = time.monotonic() + timeout_seconds
        finish = _merging(refused, finish) if refused else finish
        call = Call(len(sendable), deadline, channel.timeout_error, finish)
        if not self._open.add(call):
            raise ClientClosed("the client is closed")
        if not sendable:
            self._end(call, [])
        parts, caller = [], tracing.caller()
        for where in split([*map(len, sendable)], self._limits):
            part = sendable[where]
            parts.append(Part(call, where.start, part, key, caller, release))
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
                    shared=self._shared,
                    on_ended=self._end_all,
                )
            return self._channels[route]

    @property
    def away(self) -> str | None:
        """Why the Redis of the streams cannot be used now, as far as is known; None while it can be."""
        with self._lock:
            channels = [*self._channels.values()]
        return next((why for channel in channels if (why := channel.away)), None)

    def drop(self, call: Call) -> bool:
        """Nobody waits for this call any more; whether it was open until now."""
        if not self._open.take(call):
            return False
        call.end(None)
        self._open.wake()
        return True

    def time_out(self, call: Call) -> None:
        """The time of this call is up."""
        self._end(call, call.timeout_error())
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
            channels = [*self._channels.values()]
        for channel in channels:
            channel.close()
        if self.is_own_thread:  # a callback closes the client: another of the threads may be about to, as well
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

    def _end_all(self, over: list[tuple[Call, CallOutcome]]) -> None:
        self._end_each((call, outcome) for call, outcome in over if self._open.take(call))
        if any(isinstance(outcome, TokenClientError) for _, outcome in over):
            self._open.wake()  # other requests of the same calls

    def _end(self, call: Call, outcome: CallOutcome) -> None:
        if self._open.take(call):
            call.end(outcome)

    def _end_each(self, taken: Iterable[tuple[Call, CallOutcome]]) -> None:
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


def _merging(
    refused: dict[int, RequestRefused], finish: Callable[[CallOutcome], None]
) -> Callable[[CallOutcome], None]:
    """Puts what was refused here among the answers to the others."""

    def merge(outcome: CallOutcome) -> None:
        if isinstance(outcome, list):
            others = iter(outcome)
            merged: list[Answer] = [
                refused[at] if at in refused else next(others) for at in range(len(refused) + len(outcome))
            ]
            outcome = merged
        finish(outcome)

    return merge

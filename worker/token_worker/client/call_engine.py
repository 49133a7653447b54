"""Run the calls of a client, from their items to their end, over one channel for each route. Safe for many threads.

The engine is an object of its own, so that its threads do not keep a client alive that the program has dropped.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Final, NamedTuple

from token_worker.client import tracing
from token_worker.client.calls import Call, CallKey, CallOutcome, Part
from token_worker.client.deadline_table import DeadlineTable
from token_worker.client.errors import ClientClosed, RequestRefused, TokenClientError
from token_worker.client.items import Item, RequestLimits, Type, Value, encode, split
from token_worker.client.route_channel import RouteChannel
from token_worker.contract.messages import Op
from token_worker.contract.values import is_utf8
from token_worker.redis.address import RedisSettings
from token_worker.streams.routes import Route, route_for


class _Process:
    """The current process."""

    number = 0
    """Number of forks between the first process and this one."""


def _count_fork() -> None:
    _Process.number += 1


if sys.platform != "win32":  # which has no forks
    os.register_at_fork(after_in_child=_count_fork)

MAX_OWNER_ID_CHARACTERS: Final = 256
"""Longest id of a client or zone."""

MAX_TARGETS: Final = 256
"""Number of different targets that an engine keeps."""


class Target(NamedTuple):
    """Channel of the calls of one kind, with the members that they share.

    Attributes:
        key: the members.
        channel: the channel for its parts.
    """

    key: CallKey
    channel: RouteChannel


class CallEngine:
    """Does the work of a client.

    Args:
        streams: the Redis of the streams.
        routes: the routes for requests.
        limits: limits of one request.
        gather_seconds: see ``Requests``.
        make_room: told how many parts are done and leave room for others. It must not keep the client alive.

    Attributes:
        target: returns the target of calls. Takes the members of ``CallKey``. Raises ``ValueError`` if one is out of
            range, or if no route takes such requests. The last targets are kept, because it takes long to make one.
    """

    def __init__(
        self,
        streams: RedisSettings,
        routes: Sequence[Route],
        *,
        limits: RequestLimits,
        gather_seconds: float | None,
        make_room: Callable[[int], object],
    ) -> None:
        self._streams = streams
        self._routes = tuple(routes)
        self._limits = limits
        self._gather_seconds = gather_seconds
        self._make_room = make_room
        self.target = lru_cache(MAX_TARGETS)(self._find_target)
        self._lock = threading.Lock()
        self._channels: dict[Route, RouteChannel] = {}
        self._open = DeadlineTable()
        self._clock = threading.Thread(target=self._watch, name="token-client clock", daemon=True)
        self._threads = {self._clock}
        """The threads of the client, from before they start."""
        self._process: int | None = None
        """Process that owns the threads. None before the first thread."""

    @property
    def needs_closing(self) -> bool:
        """True while threads run."""
        return self._process == _Process.number and not self._open.is_closed

    @property
    def _is_in_own_process(self) -> bool:
        """False after a fork: the threads stay in the old process, and may hold locks there."""
        return self._process in (None, _Process.number)

    @property
    def is_own_thread(self) -> bool:
        """True if the current thread belongs to the client. Such a thread must not wait for an answer."""
        return threading.current_thread() in self._threads

    def begin(
        self, call: Call, items: Sequence[Item | tuple[Type, Value]], target: Target, timeout_seconds: float
    ) -> list[Part]:
        """Begin a call. It is open from now on.

        Args:
            call: the call.
            items: the items of the call.
            target: where it goes.
            timeout_seconds: how long the call may last.

        Returns:
            Its parts. Put each part into the channel when there is room for one more request in flight.

        Raises:
            TypeError: a value has a type that cannot be sent.
            ClientClosed: the client was closed.
            RuntimeError: the process was forked after the first call.
        """
        if self._process != _Process.number:
            self._start_clock()
        encoded: list[bytes | RequestRefused] = []
        try:
            encoded.extend(map(encode, items, repeat(self._limits)))  # after an error, its length tells the place
        except LookupError:
            raise TypeError(f"items[{len(encoded)}]: expected an Item, or a tuple of type and value") from None
        except TypeError as error:
            raise TypeError(f"items[{len(encoded)}]: {error}") from None
        sendable = [item for item in encoded if type(item) is bytes]
        refused = None
        if len(sendable) < len(encoded):
            refused = {at: item for at, item in enumerate(encoded) if isinstance(item, RequestRefused)}
        call.start(len(sendable), time.monotonic() + timeout_seconds, target.channel.timeout_error, refused)
        if not self._open.add(call):
            raise ClientClosed("the client is closed")
        if not sendable:
            self._end(call, [])
        parts, caller, at = [], tracing.caller(), 0
        for part in split(sendable, self._limits):
            parts.append(Part(call, at, len(part), b"".join(part), target.key, caller))
            at += len(part)
        return parts

    def _check_process(self) -> None:
        if not self._is_in_own_process:
            raise RuntimeError("the client belongs to another process; after a fork, make a new client")

    def _start_clock(self) -> None:
        self._check_process()
        with self._lock:
            if self._process is None:
                self._process = _Process.number
                self._clock.start()

    def _find_target(
        self, op: Op | str, client_id: str | None, zone_id: str | None, consistent: bool, marks_other: bool
    ) -> Target:
        self._check_process()  # before a lock, which a thread of the old process may hold
        for name, given in (("client_id", client_id), ("zone_id", zone_id)):
            if given is None:
                continue
            if not (isinstance(given, str) and len(given) <= MAX_OWNER_ID_CHARACTERS and is_utf8(given)):
                raise ValueError(f"{name}: expected text of at most {MAX_OWNER_ID_CHARACTERS} characters")
        op = Op(op)
        route = route_for(self._routes, op, client_id)
        with self._lock:
            if route not in self._channels:
                self._channels[route] = RouteChannel(
                    route,
                    self._routes,
                    self._streams,
                    limits=self._limits,
                    gather_seconds=self._gather_seconds,
                    threads=self._threads,
                    make_room=self._make_room,
                    on_ended=self._end_all,
                )
            return Target(CallKey(op, client_id, zone_id, consistent, marks_other), self._channels[route])

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
        self._end_each(self._open.take_each(outcomes))
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

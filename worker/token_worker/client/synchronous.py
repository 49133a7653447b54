"""Client for programs without an event loop. Many threads may share one client."""

import threading
import time
from _thread import RLock
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast, overload

from token_worker.client.base import BaseClient, CallOptions, CallValues
from token_worker.client.call_engine import CallEngine
from token_worker.client.calls import Call, CallOutcome
from token_worker.client.items import Answer, Item, Type, Value
from token_worker.contract.messages import Op

V = TypeVar("V", int, str, bytes)


class TokenClient(BaseClient):
    """Tokenizes and detokenizes values with the help of the workers.

    >>> with TokenClient(streams, client_id="shop-frontend") as client:
    ...     token = client.tokenize("4242 4242 4242 4242")
    ...     client.detokenize(token)
    '4242 4242 4242 4242'

    Takes the arguments of ``BaseClient``. The first call makes the connections. After a fork, make a new client.
    """

    def _limit(self, max_in_flight: int) -> Callable[[int], object]:
        self._room = Room(max_in_flight)
        return self._room.make

    @overload
    def tokenize(
        self, value: V, *, type: Type | None = None, format: str | None = None, **options: Unpack[CallOptions]
    ) -> V: ...
    @overload
    def tokenize(
        self, value: list[V], *, type: Type | None = None, format: str | None = None, **options: Unpack[CallOptions]
    ) -> list[V]: ...
    @overload
    def tokenize(
        self,
        value: list[V | None],
        *,
        type: Type | None = None,
        format: str | None = None,
        **options: Unpack[CallOptions],
    ) -> list[V | None]: ...
    def tokenize(
        self, value: Any, *, type: Type | None = None, format: str | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Return the token of a value, or the tokens of a list of values, in order.

        >>> client.tokenize(["grace@navy.example", "ada@navy.example"], type="email") == client.tokenize(
        ...     ["grace@navy.example", "ada@navy.example"], type="email"
        ... )
        True

        Args:
            value: the value to tokenize, or a list of any length. None in a list (an empty column) stays None.
            type: type of the value, or of each value in the list. Default: the type of the format, if the client
                knows the format; else ``int64``, ``str`` or ``bytes``.
            format: format of the token, or of each token. Default: what the route says.
            options: options for this call: ``client_id``, ``zone_id``, ``consistent``, ``timeout_seconds``,
                ``mark_other``.

        Raises:
            RequestRefused: the value, or the whole request, was refused. Each code has its own subclass.
            SomeFailed: some values of a list were refused. The error has the tokens of the other values.
            TimedOut: no reply came in time.
            StreamsUnavailable: the Redis of the streams could not be used before the time-out.
            StreamsRefused: the Redis of the streams refuses the request.
            BadReply: the reply does not come from a token worker.
            ClientClosed: the client was closed.
            TypeError, ValueError: the arguments cannot be sent.
        """
        asked = self._values(value, type, format)
        return asked.result(self.request(Op.TOKENIZE, asked.items, **options))

    @overload
    def detokenize(self, value: V, *, type: Type | None = None, **options: Unpack[CallOptions]) -> V: ...
    @overload
    def detokenize(self, value: list[V], *, type: Type | None = None, **options: Unpack[CallOptions]) -> list[V]: ...
    @overload
    def detokenize(
        self, value: list[V | None], *, type: Type | None = None, **options: Unpack[CallOptions]
    ) -> list[V | None]: ...
    def detokenize(self, value: Any, *, type: Type | None = None, **options: Unpack[CallOptions]) -> Any:
        """Return the value of a token, or the values of a list of tokens; otherwise like ``tokenize``.

        >>> client.detokenize(client.tokenize(42, type="int32"), type="int32")
        42
        """
        asked = CallValues(value, type)
        return asked.result(self.request(Op.DETOKENIZE, asked.items, **options))

    def request(
        self, op: Op | str, items: Sequence[Item | tuple[Type, Value]], **options: Unpack[CallOptions]
    ) -> list[Answer]:
        """Return the result of each item, in order. A refused item has a ``RequestRefused`` there, which is not raised.

        >>> record = [("email", "grace@navy.example"), ("int64", 2**40)]
        >>> tokens = client.request("tokenize", record)
        >>> client.request("detokenize", [("email", tokens[0]), ("int64", tokens[1])])
        ['grace@navy.example', 1099511627776]

        Raises: the same errors as ``tokenize``, except ``SomeFailed``.
        """
        if self._engine.is_own_thread:
            raise RuntimeError("a callback of a future must not wait for its own client; use submit")
        future = self.submit(op, items, **options)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only after Ctrl-C; otherwise the future is done
            del future  # a raised error keeps this frame alive, and the future keeps the error

    def submit(
        self, op: Op | str, items: Sequence[Item | tuple[Type, Value]], **options: Unpack[CallOptions]
    ) -> Future[list[Answer]]:
        """Send items without waiting for their answers. Wait only while ``max_in_flight`` requests are in flight.

        A callback of a future must not wait. There, the future gets ``TimedOut`` if there is no room.

        >>> futures = [client.submit("tokenize", [("str", name)]) for name in ("Grace", "Ada")]
        >>> [len(future.result()) for future in futures]
        [1, 1]

        The future has the result of ``request``, or its error. Cancelling the future gives up the request.

        Raises:
            ClientClosed: the client was closed.
            TypeError, ValueError: the arguments cannot be sent.
        """
        future = CallFuture()
        call = FutureCall(self._engine, future)
        channel, parts = self._begin(call, op, items, options)
        try:
            for part in parts:
                if call.has_ended or not (self._room.take() or self._wait_for_room(call)):
                    break
                channel.put(part)
        except BaseException:  # Ctrl-C while the call waits for room
            self._engine.drop(call)
            raise
        return future

    def _wait_for_room(self, call: Call) -> bool:
        """Wait for room for a request. Return False if the time-out of the call is over."""
        may_wait = not self._engine.is_own_thread  # only this thread could make room
        if may_wait and self._room.take(call.deadline - time.monotonic()):
            return True
        self._engine.time_out(call)
        return False

    def close(self) -> None:
        """Close the connections. Calls that still wait raise ``ClientClosed``."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class FutureCall(Call):
    """A call whose outcome is the result of a future.

    Args:
        engine: does the work of the client.
        future: the future.
    """

    __slots__ = ("_future", "engine")

    def __init__(self, engine: CallEngine, future: "CallFuture") -> None:
        self.engine = engine
        self._future: CallFuture | None = future
        future.call = self

    def _finish(self, outcome: CallOutcome | None) -> None:
        future, self._future = self._future, None
        if future is None:
            return
        future.call = None
        if outcome is None or not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, list):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


class _FutureLock(RLock):  # type: ignore[misc]  # typeshed calls it final; CPython tests subclasses of it
    """The part of a ``threading.Condition`` that a future needs: ten objects less for the garbage collector to look at.

    A thread that waits makes a condition, which is gone when the future is done.
    """

    __slots__ = ("_condition",)

    def __init__(self) -> None:
        self._condition: threading.Condition | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the future is done, or so many seconds."""
        if self._condition is None:
            self._condition = threading.Condition(self)
        return self._condition.wait(timeout)

    def notify_all(self) -> None:
        """End all waits."""
        condition, self._condition = self._condition, None  # a condition has its lock: keep no circle
        if condition is not None:
            condition.notify_all()


class CallFuture(Future[list[Answer]]):
    """The future of a call. Cancelling it gives up the request.

    Attributes:
        call: the call, until its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition = cast("threading.Condition", _FutureLock())
        self.call: FutureCall | None = None

    def cancel(self) -> bool:
        """Cancel the call, unless it has ended."""
        call = self.call
        if call is None or not call.engine.drop(call):
            return super().cancel()
        try:
            return super().cancel()
        finally:
            self.set_running_or_notify_cancel()  # this wakes callers of ``wait`` and ``as_completed``


class Room:
    """Room for requests in flight. Safe for many threads.

    Args:
        count: number of requests that there is room for.

    Attributes:
        waiting: number of threads that wait for room.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._made = threading.Condition(self._lock)
        self.waiting = 0

    def take(self, seconds: float = 0.0) -> bool:
        """Take room for one request. If there is none, wait so long for it. Return False if there is still none."""
        with self._lock:
            if not self._free and seconds > 0:
                self.waiting += 1
                try:
                    self._made.wait_for(lambda: self._free, seconds)
                except BaseException:  # Ctrl-C: leave to another thread what may have woken this one
                    self._made.notify()
                    raise
                finally:
                    self.waiting -= 1
            if not self._free:
                return False
            self._free -= 1
            return True

    def make(self, count: int) -> None:
        """Make room for so many requests."""
        with self._lock:
            self._free += count
            if self.waiting:
                self._made.notify(count)

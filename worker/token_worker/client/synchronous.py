"""Client for programs without an event loop. Many threads may share one client."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from token_worker.client.base import BaseClient, CallOptions, CallValues
from token_worker.client.call_engine import CallEngine, PreparedCall
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

    def _make_room(self, max_in_flight: int) -> None:
        self._room = threading.Semaphore(max_in_flight)

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
        future: Future[list[Answer]] = Future()
        prepared = self._prepare(op, items, options, finish=partial(_resolve, future), release=self._room.release)
        try:
            self._put(prepared)
        except BaseException:  # Ctrl-C while the call waits for room
            self._engine.drop(prepared.call)
            raise
        # The callback lives as long as the future, so it keeps the call, and not the items.
        future.add_done_callback(partial(_let_go, self._engine, prepared.call))
        return future

    def _put(self, prepared: PreparedCall) -> None:
        call, channel, parts = prepared
        for part in parts:
            if call.has_ended:
                return
            seconds = call.deadline - time.monotonic()
            if self._engine.is_own_thread:
                seconds = 0.0  # only this thread could make room
            if not self._room.acquire(timeout=max(seconds, 0.0)):
                self._engine.time_out(call)
                return
            channel.put(part)

    def close(self) -> None:
        """Close the connections. Calls that still wait raise ``ClientClosed``."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _let_go(engine: CallEngine, call: Call, future: Future[list[Answer]]) -> None:
    if future.cancelled() and engine.drop(call):
        future.set_running_or_notify_cancel()  # this wakes callers of ``wait`` and ``as_completed``


def _resolve(future: Future[list[Answer]], outcome: CallOutcome) -> None:
    if future.set_running_or_notify_cancel():
        if isinstance(outcome, list):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

"""The client for programs without an event loop; many threads may use one."""

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
    """Has values tokenized and tokens turned back, by the workers behind the streams.

    >>> with TokenClient(streams, client_id="shop-frontend") as client:
    ...     token = client.tokenize("4242 4242 4242 4242")
    ...     client.detokenize(token)
    '4242 4242 4242 4242'

    Arguments are those of ``BaseClient``. Connections are made by the first call; after a fork, make a new client.
    """

    def _make_room(self, max_in_flight: int) -> None:
        self._room = threading.Semaphore(max_in_flight)

    @overload
    def tokenize(self, value: V, *, type: Type | None = None, **options: Unpack[CallOptions]) -> V: ...
    @overload
    def tokenize(self, value: list[V], *, type: Type | None = None, **options: Unpack[CallOptions]) -> list[V]: ...
    @overload
    def tokenize(
        self, value: list[V | None], *, type: Type | None = None, **options: Unpack[CallOptions]
    ) -> list[V | None]: ...
    def tokenize(self, value: Any, *, type: Type | None = None, **options: Unpack[CallOptions]) -> Any:
        """The token of a value, or the tokens of a list of values, in order.

        >>> client.tokenize(["grace@navy.example", "ada@navy.example"], type="email") == client.tokenize(
        ...     ["grace@navy.example", "ada@navy.example"], type="email"
        ... )
        True

        Args:
            value: what to tokenize; a list may be of any length. None in a list (an empty column) stays None there.
            type: of the value, or of each in the list: ``int64``, ``str`` or ``bytes`` where it is left out.
            options: what this call says for itself: ``client_id``, ``zone_id``, ``consistent``, ``timeout_seconds``.

        Raises:
            RequestRefused: the value was refused, or the request as a whole; each code has a class of its own.
            SomeFailed: values of a list were refused; the others' tokens are in it.
            TimedOut: no reply came in time.
            StreamsUnavailable: the Redis of the streams could not be used until the time was up.
            StreamsRefused: it refuses the request.
            BadReply: what answers is no token worker.
            ClientClosed: the client was closed.
            TypeError, ValueError: the arguments are none that could be sent.
        """
        asked = CallValues(value, type)
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
        """The value of a token, or the values of a list of tokens; otherwise as ``tokenize``.

        >>> client.detokenize(client.tokenize(42, type="int32"), type="int32")
        42
        """
        asked = CallValues(value, type)
        return asked.result(self.request(Op.DETOKENIZE, asked.items, **options))

    def request(
        self, op: Op | str, items: Sequence[Item | tuple[Type, Value]], **options: Unpack[CallOptions]
    ) -> list[Answer]:
        """What came of each item, in order: the result, or the ``RequestRefused``, which is not raised.

        >>> record = [("email", "grace@navy.example"), ("int64", 2**40)]
        >>> tokens = client.request("tokenize", record)
        >>> client.request("detokenize", [("email", tokens[0]), ("int64", tokens[1])])
        ['grace@navy.example', 1099511627776]

        Raises: as ``tokenize``, but for ``SomeFailed``.
        """
        if self._engine.is_own_thread:
            raise RuntimeError("a callback of a future must not wait for the client that runs it; use submit")
        future = self.submit(op, items, **options)
        try:
            return future.result()
        finally:
            future.cancel()  # Ctrl-C while it waits; at any other time it is done
            del future  # an error that is raised holds on to this frame, and the future to the error

    def submit(
        self, op: Op | str, items: Sequence[Item | tuple[Type, Value]], **options: Unpack[CallOptions]
    ) -> Future[list[Answer]]:
        """Send items without waiting for their answers; waits only while ``max_in_flight`` requests are in flight.

        In a callback of a future, which must not wait, there is ``TimedOut`` in place of that.

        >>> futures = [client.submit("tokenize", [("str", name)]) for name in ("Grace", "Ada")]
        >>> [len(future.result()) for future in futures]
        [1, 1]

        The future has what ``request`` returns, or raises the same. Cancelled, it lets go of the request.

        Raises:
            ClientClosed: the client was closed.
            TypeError, ValueError: the arguments are none that could be sent.
        """
        future: Future[list[Answer]] = Future()
        prepared = self._prepare(op, items, options, finish=partial(_resolve, future), release=self._room.release)
        try:
            self._put(prepared)
        except BaseException:  # Ctrl-C while it waits for room
            self._engine.drop(prepared.call)
            raise
        future.add_done_callback(
            partial(_let_go, self._engine, prepared.call)
        )  # and not the items, as long as it lives
        return future

    def _put(self, prepared: PreparedCall) -> None:
        call, channel, parts = prepared
        for part in parts:
            if call.has_ended:
                return
            seconds = call.deadline - time.monotonic()
            if self._engine.is_own_thread:
                seconds = 0.0  # what makes room is this very thread
            if not self._room.acquire(timeout=max(seconds, 0.0)):
                self._engine.time_out(call)
                return
            channel.put(part)

    def close(self) -> None:
        """Close the connections; calls that still wait get ``ClientClosed``."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _let_go(engine: CallEngine, call: Call, future: Future[list[Answer]]) -> None:
    if future.cancelled() and engine.drop(call):
        future.set_running_or_notify_cancel()  # who waits for several with ``wait`` or ``as_completed`` is told by this


def _resolve(future: Future[list[Answer]], outcome: CallOutcome) -> None:
    if future.set_running_or_notify_cancel():
        if isinstance(outcome, list):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

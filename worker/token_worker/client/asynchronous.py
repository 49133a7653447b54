"""Client for programs with an event loop. Threads do the work, so that a busy loop does not delay other calls."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack, overload

from token_worker.client.base import BaseClient, CallOptions, CallValues
from token_worker.client.calls import Call, CallOutcome
from token_worker.client.errors import TokenClientError
from token_worker.client.items import Answer, Item, Type, Value
from token_worker.client.synchronous import V
from token_worker.contract.messages import Op


class AsyncTokenClient(BaseClient):
    """Tokenizes and detokenizes values with the help of the workers; for one event loop.

    >>> async def main() -> str:
    ...     async with AsyncTokenClient(streams, client_id="shop-frontend") as client:
    ...         token = await client.tokenize("4242 4242 4242 4242")
    ...         return await client.detokenize(token)
    >>> asyncio.run(main())
    '4242 4242 4242 4242'

    Takes the arguments of ``BaseClient``. Thousands of calls may wait at once. Cancelling a task gives up its request.
    The first call makes the connections.
    """

    def _limit(self, max_in_flight: int) -> Callable[[int], object]:
        self._room = asyncio.Semaphore(max_in_flight)
        self._events = LoopEvents(self._room)
        return self._events.add

    @overload
    async def tokenize(
        self, value: V, *, type: Type | None = None, format: str | None = None, **options: Unpack[CallOptions]
    ) -> V: ...
    @overload
    async def tokenize(
        self, value: list[V], *, type: Type | None = None, format: str | None = None, **options: Unpack[CallOptions]
    ) -> list[V]: ...
    @overload
    async def tokenize(
        self,
        value: list[V | None],
        *,
        type: Type | None = None,
        format: str | None = None,
        **options: Unpack[CallOptions],
    ) -> list[V | None]: ...
    async def tokenize(
        self, value: Any, *, type: Type | None = None, format: str | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Do as ``TokenClient.tokenize`` does."""
        asked = self._values(value, type, format)
        return asked.result(await self.request(Op.TOKENIZE, asked.items, **options))

    @overload
    async def detokenize(self, value: V, *, type: Type | None = None, **options: Unpack[CallOptions]) -> V: ...
    @overload
    async def detokenize(
        self, value: list[V], *, type: Type | None = None, **options: Unpack[CallOptions]
    ) -> list[V]: ...
    @overload
    async def detokenize(
        self, value: list[V | None], *, type: Type | None = None, **options: Unpack[CallOptions]
    ) -> list[V | None]: ...
    async def detokenize(self, value: Any, *, type: Type | None = None, **options: Unpack[CallOptions]) -> Any:
        """Do as ``TokenClient.detokenize`` does."""
        asked = CallValues(value, type)
        return asked.result(await self.request(Op.DETOKENIZE, asked.items, **options))

    async def request(
        self, op: Op | str, items: Sequence[Item | tuple[Type, Value]], **options: Unpack[CallOptions]
    ) -> list[Answer]:
        """Do as ``TokenClient.request`` does. To send many requests at once, gather them: each waits for room itself.

        Raises:
            RuntimeError: the client was used in another event loop before.
        """
        loop = asyncio.get_running_loop()
        if self._events.loop is not loop:
            if self._events.loop is not None:
                raise RuntimeError("the client belongs to another event loop; make a client for each loop")
            self._events.loop = loop
        future: asyncio.Future[CallOutcome] = loop.create_future()
        call = LoopCall(self._events, future)
        channel, parts = self._begin(call, op, items, options)
        try:
            for part in parts:
                if not await self._take_room(future):
                    break
                channel.put(part)
            outcome = await future
            if isinstance(outcome, TokenClientError):
                raise outcome
            return outcome
        finally:
            if not call.has_ended:
                self._engine.drop(call)
            outcome = []  # a raised error keeps this frame alive
            del future

    async def _take_room(self, future: asyncio.Future[CallOutcome]) -> bool:
        """Wait for room for a request. Return False if the call ends first."""
        if not self._room.locked():
            await self._room.acquire()
            return True
        room = asyncio.ensure_future(self._room.acquire())
        is_taken = False
        try:
            await asyncio.wait((room, future), return_when=asyncio.FIRST_COMPLETED)
            is_taken = room.done() and not future.done()
        finally:
            if not is_taken and not room.cancel():  # there was room, but the call has ended meanwhile
                self._room.release()
        return is_taken

    async def close(self) -> None:
        """Close the connections. Calls that still wait raise ``ClientClosed``."""
        await asyncio.get_running_loop().run_in_executor(None, self._engine.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()


class LoopCall(Call):
    """A call whose outcome is the result of a future of an event loop.

    Args:
        events: passes the outcome on to the loop.
        future: the future.
    """

    __slots__ = ("_events", "_future", "_outcome")

    def __init__(self, events: "LoopEvents", future: asyncio.Future[CallOutcome]) -> None:
        self._events = events
        self._future: asyncio.Future[CallOutcome] | None = future
        self._outcome: CallOutcome | None = None

    def _finish(self, outcome: CallOutcome | None) -> None:
        if outcome is None:
            self._future = None
        else:
            self._outcome = outcome
            self._events.add(self)

    def resolve(self) -> None:
        """End the future. The loop calls this."""
        future, outcome = self._future, self._outcome
        self._future = self._outcome = None
        if future is not None and outcome is not None and not future.done():  # otherwise its task was cancelled
            future.set_result(outcome)


class LoopEvents:
    """Results that the threads of a client pass on to its event loop: calls that have ended, and room for requests.

    Args:
        room: the room for requests.

    Attributes:
        loop: the loop, from the first call on.
    """

    def __init__(self, room: asyncio.Semaphore) -> None:
        self._room = room
        self._waiting: deque[LoopCall | int] = deque()
        self._is_woken = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def add(self, event: LoopCall | int) -> None:
        """Let the loop end a call, or make room for so many requests. One wake-up serves all events that wait."""
        self._waiting.append(event)
        if not self._is_woken and self.loop is not None:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed: no task waits there
                self.loop.call_soon_threadsafe(self._handle)

    def _handle(self) -> None:
        self._is_woken = False
        while self._waiting:
            event = self._waiting.popleft()
            if isinstance(event, LoopCall):
                event.resolve()
            else:
                for _ in range(event):
                    self._room.release()

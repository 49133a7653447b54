"""The client for programs with an event loop; threads do the work, so that a busy loop delays no other call."""

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

from token_worker.client.base import BaseClient, CallOptions, items_of, result_of
from token_worker.client.calls import Outcome
from token_worker.client.items import Answer, Item, Type, Value
from token_worker.client.synchronous import V
from token_worker.contract.messages import Op


class AsyncTokenClient(BaseClient):
    """Has values tokenized and tokens turned back, by the workers behind the streams; for one event loop.

    >>> async def main() -> str:
    ...     async with AsyncTokenClient(streams, client_id="shop-frontend") as client:
    ...         token = await client.tokenize("4242 4242 4242 4242")
    ...         return await client.detokenize(token)
    >>> asyncio.run(main())
    '4242 4242 4242 4242'

    Arguments are those of ``BaseClient``. Thousands of calls may wait at once; a task that is cancelled lets go of its
    request. Connections are made by the first call.
    """

    def _make_room(self, max_in_flight: int) -> None:
        self._room = asyncio.Semaphore(max_in_flight)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[asyncio.Future[list[Answer]], Outcome] | None] = deque()
        self._is_woken = False

    @overload
    async def tokenize(self, value: V, *, type: Type | None = None, **options: Unpack[CallOptions]) -> V: ...
    @overload
    async def tokenize(
        self, value: list[V], *, type: Type | None = None, **options: Unpack[CallOptions]
    ) -> list[V]: ...
    async def tokenize(self, value: Any, *, type: Type | None = None, **options: Unpack[CallOptions]) -> Any:
        """As ``TokenClient.tokenize``."""
        return result_of(value, await self.request(Op.TOKENIZE, items_of(value, type), **options))

    @overload
    async def detokenize(self, value: V, *, type: Type | None = None, **options: Unpack[CallOptions]) -> V: ...
    @overload
    async def detokenize(
        self, value: list[V], *, type: Type | None = None, **options: Unpack[CallOptions]
    ) -> list[V]: ...
    async def detokenize(self, value: Any, *, type: Type | None = None, **options: Unpack[CallOptions]) -> Any:
        """As ``TokenClient.detokenize``."""
        return result_of(value, await self.request(Op.DETOKENIZE, items_of(value, type), **options))

    async def request(
        self, op: Op | str, items: Sequence[Item | tuple[Type, Value]], **options: Unpack[CallOptions]
    ) -> list[Answer]:
        """As ``TokenClient.request``; for many at once, gather them: each waits for room by itself."""
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Answer]] = loop.create_future()
        call, lane, parts = self._prepare(
            op,
            items,
            options,
            finish=lambda outcome: self._pass_on((future, outcome)),
            release=lambda: self._pass_on(None),
        )
        try:
            for part in parts:
                if not await self._take_room(future):
                    break
                lane.put(part)
            return await future
        finally:
            self._core.drop(call)

    async def _take_room(self, future: asyncio.Future[list[Answer]]) -> bool:
        """Wait for room for a request; False if the call is over before there is."""
        if not self._room.locked():
            await self._room.acquire()
            return True
        room = asyncio.ensure_future(self._room.acquire())
        try:
            await asyncio.wait((room, future), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not room.done():
                room.cancel()
            elif future.done():
                self._room.release()
        return not future.done()

    def _pass_on(self, event: tuple[asyncio.Future[list[Answer]], Outcome] | None) -> None:
        """Have the loop end a call, or make room for a request; wakes it once for all that come up meanwhile."""
        self._waiting.append(event)
        if not self._is_woken and self._loop is not None and not self._loop.is_closed():
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._work_off)

    def _work_off(self) -> None:
        self._is_woken = False
        while self._waiting:
            event = self._waiting.popleft()
            if event is None:
                self._room.release()
                continue
            future, outcome = event
            if future.done():  # its task was cancelled
                continue
            if isinstance(outcome, list):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

    async def close(self) -> None:
        """Close the connections; calls that still wait get ``ClientClosed``."""
        await asyncio.get_running_loop().run_in_executor(None, self._core.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

"""The worker in a test's own process. See the package for what is real about it."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from fakeredis import FakeRedis
from redis.exceptions import ResponseError

from token_worker.contract.codec import decode
from token_worker.contract.decoded import Decoded, Limits, Unanswerable
from token_worker.contract.messages import Op
from token_worker.errors import Code
from token_worker.keys.cache import KeyCache
from token_worker.keys.layout_record import LayoutName
from token_worker.redis.address import parse
from token_worker.service.handler import Handler
from token_worker.service.replies import DeadLettered
from token_worker.settings import load
from token_worker.storage.make_layout import make_layout
from token_worker.streams.commit import trace_of
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import DEFAULT_ROUTES, Route, check_formats, check_routes
from token_worker.testing.memory import MASTER_KEY, KeysForEverybody, MemoryTokens
from token_worker.testing.plans import Plan
from token_worker.testing.received import ReceivedRequest
from token_worker.testing.server import FakeRedisServer

_READ_COUNT: Final = 1000
"""Entries of one read."""

_BLOCK_MS: Final = 20
"""Time that a read waits. ``close`` waits for the worker at most so long, and so do requests after a pause."""

_TRACE: Final = (b"traceparent", b"tracestate")


class _Waiting(msgspec.Struct, gc=False):
    """An entry that was read and is not answered yet; ``request`` and ``decoded`` are None where it has no answer."""

    entry: Entry
    decoded: Decoded | None
    request: ReceivedRequest | None


class InProcessWorker:
    """A token worker, and the Redis of its streams, in threads of this process.

    >>> from token_worker.client import TokenClient
    >>> with InProcessWorker() as worker, TokenClient(worker.url, client_id="shop-frontend") as client:
    ...     token = client.tokenize("grace@navy.example", type="email")
    ...     client.detokenize(token, type="email")
    'grace@navy.example'

    Args:
        routes: what is served, as for ``TokenClient``.
        formats: formats besides the built-in ones: for each the members that it has in the settings.
        layout: how tokens are stored, ``acra`` or ``dense``. Producers get the same replies and tokens in both.

    Attributes:
        url: address of the Redis of the streams. It begins empty, and is nobody else's.

    Raises:
        ValueError: no worker can serve these routes.
        SettingsError: a format is wrong.
    """

    def __init__(
        self,
        routes: Sequence[Route] = DEFAULT_ROUTES,
        formats: Sequence[Mapping[str, object]] = (),
        *,
        layout: LayoutName = "acra",
    ) -> None:
        environ = {"TOKEN_WORKER_MASTER_KEY_SOURCE": "env"}
        if formats:
            environ["TOKEN_WORKER_FORMATS"] = msgspec.json.encode(formats).decode()
        settings = load(environ)
        problems = check_routes(tuple(routes)) or [*check_formats(routes, settings.formats)]
        if problems:
            raise ValueError("; ".join(problems))
        self._routes = {route.requests.encode(): route for route in routes}
        self._server = FakeRedisServer()
        self.url: str = self._server.url
        settings = msgspec.structs.replace(settings, streams=parse(self.url), routes=tuple(routes))
        self._limits = Limits(settings.max_request_bytes, settings.max_items)
        tokens = MemoryTokens(make_layout(layout))
        keys = KeyCache(KeysForEverybody(), MASTER_KEY, with_index=tokens.layout.has_index_keys)
        self._handler = Handler(settings, keys, tokens)
        self._redis: Any = FakeRedis(server=self._server.data, protocol=2)
        self._group = settings.group
        for stream in self._routes:
            self._redis.xgroup_create(stream, self._group, "0", mkstream=True)
        self._changed = threading.Condition()
        self._requests: list[ReceivedRequest] = []
        self._waiting: deque[_Waiting] = deque()
        self._plans: list[Plan] = []
        self._pauses = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="token-worker testing", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<InProcessWorker {self.url}, requests: {len(self._requests)}>"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests so far, in the order in which they were read; those that were refused or dropped, too."""
        return [*self._requests]

    def wait_for_requests(self, count: int = 1, timeout_seconds: float = 5.0) -> list[ReceivedRequest]:
        """Wait until there are so many requests. For producers that do not wait for their replies.

        Raises:
            TimeoutError: there are not, in that time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout_seconds):
                raise TimeoutError(f"expected {count} requests, got {len(self._requests)}")
            return self.requests

    def refuse_next(
        self,
        code: Code | str,
        *,
        op: Op | str | None = None,
        client_id: str | None = None,
        items: Iterable[int] | None = None,
        count: int = 1,
    ) -> None:
        """Answer the next request with an error; the ones after it are answered as ever.

        The error is one of each value where workers answer the code for single values (``token_not_found``), else of
        the request as a whole (``forbidden``). A list that the client sends in several requests counts as several.

        Args:
            code: one of the contract's.
            op: only a request for ``tokenize``, or for ``detokenize``.
            client_id: only a request of this client.
            items: refuse the values at these positions alone (from 0); of a request that has all of them.
            count: how many requests to refuse.

        Raises:
            ValueError: there is no such code, or an argument has no meaning.
        """
        self._plan(Plan(code, op=op, client_id=client_id, items=items, count=count))

    def drop_next(self, *, op: Op | str | None = None, client_id: str | None = None, count: int = 1) -> None:
        """Leave the next request without an answer: its call ends by its time-out. Arguments as for ``refuse_next``."""
        self._plan(Plan(None, op=op, client_id=client_id, items=None, count=count))

    def _plan(self, plan: Plan) -> None:
        with self._changed:
            self._plans.append(plan)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Answer nothing meanwhile: calls wait, or end by their time-out. Then everything is answered.

        A request whose time is over by then has the error ``expired``, as with a worker that comes too late.
        """
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1

    def close(self) -> None:
        """Stop the worker and its Redis."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
        self._thread.join()
        self._redis.close()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close.

        Raises:
            AssertionError: a planned error or drop was not used: the test does not test what it seems to.
        """
        __tracebackhide__ = True
        self.close()
        if error is None and self._plans:
            raise AssertionError(f"no request came for: {', '.join(map(repr, self._plans))}")

    # All below is done by the worker's thread.

    def _work(self) -> None:
        while not self._is_closed:
            self._read()
            with self._changed:
                while self._waiting and not self._pauses:
                    self._answer(self._waiting.popleft())

    def _read(self) -> None:
        streams = dict.fromkeys(self._routes, ">")
        found = self._redis.xreadgroup(self._group, "in-process", streams, count=_READ_COUNT, block=_BLOCK_MS)
        with self._changed:
            for stream, entries in found:
                route = self._routes[stream]
                self._waiting += (self._received(Entry.of(route, entry_id, fields)) for entry_id, fields in entries)
            self._changed.notify_all()

    def _received(self, entry: Entry) -> _Waiting:
        try:
            decoded = decode(entry.payload, self._limits)
        except Unanswerable:
            return _Waiting(entry, None, None)
        request = ReceivedRequest(entry.route, decoded)
        self._requests.append(request)
        return _Waiting(entry, decoded, request)

    def _answer(self, waiting: _Waiting) -> None:
        entry, decoded, request = waiting.entry, waiting.decoded, waiting.request
        plan = None if request is None else self._plan_for(request)
        if plan is None or plan.code is not None:
            [result] = self._handler.handle([entry])
            if isinstance(result, Answer):
                if plan is not None and decoded is not None:
                    result = msgspec.structs.replace(result, payload=plan.change(result.payload, decoded))
                self._reply(result)
            elif isinstance(result, DeadLettered):
                self._dead_letter(entry, result.reason)
        self._redis.xack(entry.route.requests, self._group, entry.id)

    def _plan_for(self, request: ReceivedRequest) -> Plan | None:
        plan = next((plan for plan in self._plans if plan.is_for(request)), None)
        if plan is not None:
            plan.count -= 1
            if not plan.count:
                self._plans.remove(plan)
        return plan

    def _reply(self, answer: Answer) -> None:
        route = answer.entry.route
        trace = {name: value for name, value in zip(_TRACE, trace_of(answer.entry), strict=True) if value}
        fields: dict[Any, Any] = {b"payload": answer.payload, **trace}
        if answer.reply_to is not None:
            try:
                self._redis.xadd(answer.reply_to, fields)
            except ResponseError:  # no stream
                fields[b"payload"] = answer.forbidden
            else:
                self._redis.expire(answer.reply_to, route.response_seconds, nx=True)
                return
        self._redis.xadd(route.responses, fields)

    def _dead_letter(self, entry: Entry, reason: str) -> None:
        fields: dict[Any, Any] = {"dead_reason": reason, "dead_stream": entry.route.requests, "dead_entry": entry.id}
        fields["dead_deliveries"] = entry.deliveries
        fields.update(entry.others or {})
        if entry.payload is not None:
            fields[b"payload"] = entry.payload
        self._redis.xadd(entry.route.dead_letters, fields)

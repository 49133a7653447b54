"""What both clients share: their settings, and what a call may say in place of them."""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, Final, TypedDict

from token_worker.client.call_engine import CallEngine, PreparedCall
from token_worker.client.calls import CallKey, CallOutcome
from token_worker.client.errors import RequestRefused, SomeFailed
from token_worker.client.items import Answer, Item, RequestLimits, Type, Value, type_of
from token_worker.contract.messages import Op
from token_worker.contract.values import is_utf8
from token_worker.redis.address import RedisSettings, parse
from token_worker.settings.load import load
from token_worker.settings.options import Settings
from token_worker.streams.routes import DEFAULT_ROUTES, Route

TIMEOUT_SECONDS: Final = 10.0
"""How long a call waits for its reply, unless told otherwise."""

MAX_TIMEOUT_SECONDS: Final = 365 * 86_400
"""Longest time-out; far longer ones are none that a thread can wait for."""

MAX_BATCH_MS: Final = 60_000
"""Longest time to gather."""

MAX_OWNER_ID: Final = 256
"""Longest id of a client or zone, in characters."""

MAX_IN_FLIGHT: Final = 1000
"""Requests that wait for their replies, unless told otherwise: what a worker takes in two batches."""


class CallOptions(TypedDict, total=False):
    """What a call may say for itself; what it leaves out, or sets to None, is as the client says.

    Attributes:
        client_id: whose keys are used; then the client's own zone has no meaning.
        zone_id: the zone whose key is used.
        consistent: whether the same value gets the same token each time.
        timeout_seconds: how long to wait for the reply.
    """

    client_id: str | None
    zone_id: str | None
    consistent: bool | None
    timeout_seconds: float | None


class BaseClient:
    """Settings of a client.

    Args:
        streams: address of the Redis of the streams, with the password in it where one is needed; or its settings; or
            all settings of a worker, as ``token_worker.settings.load`` gives them. None: those of the environment.
        client_id: whose keys are used, unless a call says otherwise. Can be left out on a route pinned to one client.
        zone_id: the same for a zone (Acra 0.94 and earlier).
        consistent: whether the same value gets the same token each time, unless a call says otherwise.
        routes: where requests go; those of the settings, else ``tokenize:requests`` and ``detokenize:requests``.
        timeout_seconds: how long a call waits for its reply, unless it says otherwise.
        max_in_flight: how many requests may wait for their replies; further ones wait until there are fewer.
        batch_ms: how long a call may wait for others to share its request. None: each has a request of its own.
        shared_replies: have the replies on the route's own response stream, beside those of everybody else, in
            place of a stream that only this client reads.

    Raises:
        SettingsError: the environment has wrong settings.
        ValueError: the address is none, or another argument is out of range.
    """

    def __init__(
        self,
        streams: str | RedisSettings | Settings | None = None,
        *,
        client_id: str | None = None,
        zone_id: str | None = None,
        consistent: bool = True,
        routes: Sequence[Route] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_in_flight: int = MAX_IN_FLIGHT,
        batch_ms: float | None = None,
        shared_replies: bool = False,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError("max_in_flight: expected at least 1")
        _check_seconds(timeout_seconds)
        if batch_ms is not None and not 0 <= batch_ms <= MAX_BATCH_MS:
            raise ValueError(f"batch_ms: expected 0 to {MAX_BATCH_MS}")
        if streams is None:
            streams = load(os.environ, None)
        limits = RequestLimits()
        of_settings: tuple[Route, ...] = DEFAULT_ROUTES
        if isinstance(streams, Settings):
            limits, of_settings = RequestLimits(streams.max_items, streams.max_request_bytes), streams.routes
            streams = streams.streams
        self._streams = parse(streams) if isinstance(streams, str) else streams
        self._client_id = client_id
        self._zone_id = zone_id
        self._consistent = consistent
        self._timeout_seconds = timeout_seconds
        self._engine = CallEngine(
            self._streams,
            of_settings if routes is None else routes,
            limits=limits,
            gather_seconds=(batch_ms or 0) / 1000,
            shared=shared_replies,
        )
        self._make_room(max_in_flight)

    def _make_room(self, max_in_flight: int) -> None:
        """Have what keeps requests in flight to so many."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._streams.server!r}, client_id={self._client_id!r})"

    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_ending: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        engine: CallEngine | None = getattr(self, "_engine", None)
        if engine is not None and engine.needs_closing:
            # By a thread of its own: this one, whatever it is, may hold a lock of the client, and must not wait.
            if not _is_ending():  # no thread starts any more then, and Python 3.11 waits for it
                with suppress(RuntimeError):
                    threading.Thread(target=engine.close, name="token-client close", daemon=True).start()
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    @property
    def away(self) -> str | None:
        """Why the Redis of the streams cannot be used now, as far as calls have found out; None while it can be."""
        return self._engine.away

    def _prepare(
        self,
        op: Op | str,
        items: Sequence[Item | tuple[Type, Value]],
        options: CallOptions,
        *,
        finish: Callable[[CallOutcome], None],
        release: Callable[[], None],
    ) -> PreparedCall:
        """A call, as ``CallEngine.prepare`` has it."""
        client_id, zone_id = options.get("client_id"), options.get("zone_id")
        consistent, seconds = options.get("consistent"), options.get("timeout_seconds")
        key = CallKey(
            Op(op),
            self._client_id if client_id is None else client_id,
            self._zone_id if client_id is None and zone_id is None else zone_id,
            self._consistent if consistent is None else consistent,
        )
        seconds = self._timeout_seconds if seconds is None else seconds
        _check_seconds(seconds)
        for name, given in (("client_id", key.client_id), ("zone_id", key.zone_id)):
            if given is not None and not (len(given) <= MAX_OWNER_ID and is_utf8(given)):
                raise ValueError(f"{name}: expected text of at most {MAX_OWNER_ID} characters")
        return self._engine.prepare(items, key, seconds, finish=finish, release=release)


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise ValueError(f"timeout_seconds: expected more than 0, and at most {MAX_TIMEOUT_SECONDS}")


class CallValues:
    """The value, or the list of values, of one call.

    Args:
        value: as it was given. None in a list is no value: it is not sent, and stays None.
        type_name: of each; the one that is meant where it is left out.

    Attributes:
        items: what to send.

    Raises:
        TypeError: a value is of no type that can be sent.
    """

    def __init__(self, value: Value | list[Any], type_name: Type | None) -> None:
        self._is_list = isinstance(value, list)
        values = [*value] if isinstance(value, list) else [value]
        self._is_there = [it is not None or not self._is_list for it in values]
        there = compress(values, self._is_there)
        self.items = [Item(type_of(it) if type_name is None else type_name, it) for it in there]

    def result(self, answers: list[Answer]) -> Any:
        """What the call returns.

        Raises:
            RequestRefused: the value was refused.
            SomeFailed: one of a list was.
        """
        if self._is_list:
            all_answers: list[Answer | None] = [*answers]
            if len(answers) < len(self._is_there):
                found = iter(answers)
                all_answers = [next(found) if is_there else None for is_there in self._is_there]
            if any(isinstance(answer, RequestRefused) for answer in answers):
                raise SomeFailed(all_answers)
            return all_answers
        answer = answers.pop()
        if isinstance(answer, RequestRefused):
            try:
                raise answer
            finally:
                del answer  # what is raised holds on to this frame, which must not hold on to it
        return answer

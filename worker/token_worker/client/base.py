"""Settings that both clients share, and options of a call that override them."""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, Final, TypedDict

from token_worker.client.call_engine import CallEngine
from token_worker.client.calls import Call, Part
from token_worker.client.errors import RequestRefused, SomeFailed
from token_worker.client.items import SENDABLE_TYPES, Answer, Item, RequestLimits, Type, Value, type_of
from token_worker.client.route_channel import RouteChannel
from token_worker.contract.messages import Op, TypeName
from token_worker.redis.address import RedisSettings, parse
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.streams.routes import DEFAULT_ROUTES, Route
from token_worker.tokens.formats import KINDS, AnyFormat

TIMEOUT_SECONDS: Final = 10.0
"""Default time-out of a call."""

MAX_TIMEOUT_SECONDS: Final = 365 * 86_400
"""Longest time-out. Threads cannot wait for much longer times."""

MAX_BATCH_MS: Final = 60_000
"""Largest value of ``batch_ms``."""

MAX_IN_FLIGHT: Final = 1000
"""Default number of requests that may wait for their replies: a worker reads this many in two batches."""


class CallOptions(TypedDict, total=False):
    """Options of one call. An option that is missing or None has the value that the client was given.

    Attributes:
        client_id: the client whose keys are used. If it is set, the zone of the client object is ignored.
        zone_id: the zone whose key is used.
        consistent: True if the same value shall get the same token each time.
        timeout_seconds: how long to wait for the reply.
        mark_other: True if a token that does not have the format that was asked for shall be an ``OtherFormat``.
    """

    client_id: str | None
    zone_id: str | None
    consistent: bool | None
    timeout_seconds: float | None
    mark_other: bool | None


_CALL_OPTIONS: Final = CallOptions.__annotations__.keys()


class BaseClient:
    """Settings of a client.

    Args:
        streams: address of the Redis of the streams, with its password if one is needed; or the settings of this Redis;
            or all settings of a worker, from ``token_worker.settings.load``. Default: settings of the environment.
        client_id: the client whose keys are used, unless a call has its own. Not needed if a route is pinned to one.
        zone_id: the zone whose key is used, unless a call has its own (Acra 0.94 and earlier).
        consistent: True if the same value shall get the same token each time, unless a call has its own option.
        routes: routes of the requests. Default: the routes of the settings, or ``tokenize:requests`` and
            ``detokenize:requests``.
        timeout_seconds: how long a call waits for its reply, unless the call has its own time-out.
        max_in_flight: how many requests may wait for their replies. Further requests wait until there are fewer.
        batch_ms: how long a call may wait for other calls to share its request. 0: it does not wait, and shares its
            request with calls that are sent at the same moment. None: each call has its own request.

    Raises:
        SettingsError: the settings of the environment are wrong.
        ValueError: the address is malformed, or another argument is out of range.
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
        batch_ms: float | None = 0,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError("max_in_flight: expected at least 1")
        _check_seconds(timeout_seconds)
        if batch_ms is not None and not 0 <= batch_ms <= MAX_BATCH_MS:
            raise ValueError(f"batch_ms: expected 0 to {MAX_BATCH_MS}")
        if streams is None:
            streams = load(os.environ, None)
        limits = RequestLimits()
        self._formats: Mapping[str, AnyFormat | type[AnyFormat]] = KINDS
        configured_routes: tuple[Route, ...] = DEFAULT_ROUTES
        if isinstance(streams, Settings):
            limits, configured_routes = RequestLimits(streams.max_items, streams.max_request_bytes), streams.routes
            self._formats = streams.formats
            streams = streams.streams
        self._streams = parse(streams) if isinstance(streams, str) else streams
        self._client_id = client_id
        self._zone_id = zone_id
        self._consistent = consistent
        self._timeout_seconds = timeout_seconds
        self._engine = CallEngine(
            self._streams,
            configured_routes if routes is None else routes,
            limits=limits,
            gather_seconds=None if batch_ms is None else batch_ms / 1000,
            make_room=self._limit(max_in_flight),
        )

    def _limit(self, max_in_flight: int) -> Callable[[int], object]:
        """Limit the requests in flight. Return what makes room for so many more; it does not keep the client alive."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._streams.server!r}, client_id={self._client_id!r})"

    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_ending: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        engine: CallEngine | None = getattr(self, "_engine", None)
        if engine is not None and engine.needs_closing:
            # Another thread closes the client: the current thread may hold a lock of the client, and must not wait.
            if not _is_ending():  # a new thread cannot start then, and Python 3.11 would wait for it
                with suppress(RuntimeError):
                    threading.Thread(target=engine.close, name="token-client close", daemon=True).start()
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    @property
    def away(self) -> str | None:
        """Reason why the Redis of the streams cannot be used now, as seen by the last calls. None if it can be used."""
        return self._engine.away

    def _values(self, value: Value | list[Any], type_name: Type | None, format: str | None) -> "CallValues":
        """Read the arguments of a call. The default type is that of the format, if the client knows the format."""
        if type_name is None and format is not None and format in self._formats:
            type_name = TypeName(self._formats[format].value_type.name)
        return CallValues(value, type_name, format)

    def _begin(
        self, call: Call, op: Op | str, items: Sequence[Item | tuple[Type, Value]], options: CallOptions
    ) -> tuple[RouteChannel, list[Part]]:
        """Begin a call; see ``CallEngine.begin``. Return its parts and the channel for them.

        Raises:
            ValueError: an option is out of range, or no route takes such requests.
            TypeError: there is no such option.
        """
        client_id, zone_id, consistent = self._client_id, self._zone_id, self._consistent
        seconds, marks_other = self._timeout_seconds, False
        if options:
            if not options.keys() <= _CALL_OPTIONS:
                unknown = min(options.keys() - _CALL_OPTIONS)
                raise TypeError(f"there is no option {unknown!r}; there are {', '.join(sorted(_CALL_OPTIONS))}")
            own_client_id, own_zone_id = options.get("client_id"), options.get("zone_id")
            own_consistent, own_seconds = options.get("consistent"), options.get("timeout_seconds")
            zone_id = zone_id if own_client_id is None and own_zone_id is None else own_zone_id
            client_id = client_id if own_client_id is None else own_client_id
            consistent = consistent if own_consistent is None else own_consistent
            marks_other = bool(options.get("mark_other"))
            seconds = seconds if own_seconds is None else own_seconds
            _check_seconds(seconds)
        target = self._engine.target(op, client_id, zone_id, consistent, marks_other)
        return target.channel, self._engine.begin(call, items, target, seconds)


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise ValueError(f"timeout_seconds: expected more than 0, and at most {MAX_TIMEOUT_SECONDS}")


def _raise_for(values: list[Any]) -> None:
    """Raise ``TypeError`` for the first value of a list that cannot be sent, such as the NaN of a data frame."""
    for at, value in enumerate(values):
        try:
            if value is not None:
                type_of(value)
        except TypeError as error:
            raise TypeError(f"values[{at}]: {error}; None stands for no value") from None


class CallValues:
    """The value, or the list of values, of one call.

    Args:
        value: argument of the call. None in a list is not sent, and stays None in the result.
        type_name: type of each value. Default: see ``type_of``.
        format: format of each token.

    Attributes:
        items: the items to send.

    Raises:
        TypeError: a value has a type that cannot be sent.
    """

    def __init__(self, value: Value | list[Any], type_name: Type | None, format: str | None = None) -> None:
        self._is_list = isinstance(value, list)
        values = [*value] if isinstance(value, list) else [value]
        self._is_there = [value is not None or not self._is_list for value in values]
        if self._is_list and not {*map(type, values)} <= SENDABLE_TYPES:
            _raise_for(values)
        there = compress(values, self._is_there)
        self.items = [Item(type_of(value) if type_name is None else type_name, value, None, format) for value in there]

    def result(self, answers: list[Answer]) -> Any:
        """Return the result of the call.

        Raises:
            RequestRefused: the value was refused.
            SomeFailed: values of a list were refused.
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
                del answer  # the raised error keeps this frame alive; the frame must not keep the error
        return answer

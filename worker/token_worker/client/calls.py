"""Calls, the requests they go out in, and the replies they wait for: the client's protocol without sockets or threads.

A *call* is what one caller waits for. Its items go out in one *part*, or in several where they are too many for one
request; with a time to gather, parts of several calls share a request. A *request* is one entry of the stream, known by
its id until its reply is there.

- A request whose arrival is in doubt (the connection broke before the server's answer) is sent again, with the same id.
  Of two replies the first counts, and any that nobody waits for is passed over.
- A request that nobody waits for any more is not sent.
- Nothing is kept of a call once it is over.
"""

import copy
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from token_worker.client.errors import BadReply, RequestRefused, TokenClientError, refusal
from token_worker.client.items import OVERHEAD_BYTES, Answer, RequestLimits
from token_worker.client.tracing import SendSpan, SendSpans
from token_worker.contract.messages import Op

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CallOutcome = list[Answer] | TokenClientError
Finish = Callable[[CallOutcome], None]

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
_VALUES: Final = frozenset({int, str, bytes})


class CallKey(NamedTuple):
    """Whose key is used, and how: parts that share a request agree in it."""

    op: Op
    client_id: str | None
    zone_id: str | None
    consistent: bool


class Call:
    """What one caller waits for.

    Args:
        count: how many answers there are to be.
        deadline: when it is over, in seconds of the monotonic clock.
        timeout_error: what to end it with at its deadline.
        finish: takes the outcome, once.
    """

    __slots__ = ("answers", "deadline", "finish", "has_ended", "missing", "timeout_error")

    def __init__(
        self, count: int, deadline: float, timeout_error: Callable[[], TokenClientError], finish: Finish
    ) -> None:
        self.answers: list[Any] = [None] * count
        self.missing = count
        self.deadline = deadline
        self.timeout_error = timeout_error
        self.finish: Finish | None = finish
        self.has_ended = False

    def answer(self, at: int, answers: Sequence[Answer]) -> bool:
        """Take the answers from position ``at`` on; whether all are there."""
        self.answers[at : at + len(answers)] = answers
        self.missing -= len(answers)
        return not self.missing

    def end(self, outcome: CallOutcome | None) -> None:
        """It is over, with an outcome unless nobody wants to know it; only for who took it from ``DeadlineTable``."""
        self.has_ended = True
        finish, self.finish = self.finish, None  # and nothing of it is kept here
        self.answers = []
        if finish is not None and outcome is not None:
            finish(outcome)


class Part:
    """Items of a call that go into one request.

    Args:
        call: whose.
        at: position of the first item in the call.
        items: as ``items.encode`` gives them.
        key: whose key.
        caller: the caller's span, if there is something to trace.
        release: called once when the part is over, with or without an answer.
    """

    __slots__ = ("at", "call", "caller", "items", "key", "queued_at", "release")

    def __init__(
        self,
        call: Call,
        at: int,
        items: list[bytes],
        key: CallKey,
        caller: "Span | None",
        release: Callable[[], None],
    ) -> None:
        self.call = call
        self.at = at
        self.items = items
        self.key = key
        self.caller = caller
        self.release = release
        self.queued_at = 0.0


class StreamRequest(NamedTuple):
    """One entry for the stream: its id, the parts in it, the stream for the reply, and its span if any."""

    id: str
    parts: list[Part]
    reply_to: str | None
    sending: SendSpan | None = None

    def fields(self, unix_ms: Callable[[float], int | None]) -> tuple[str | bytes, ...]:
        """Names and values of the entry in turn, each time it is sent: servers differ in what time it is.

        Args:
            unix_ms: the time of a deadline by the server's clock, in Unix milliseconds; None where that is not known.
        """
        op, client_id, zone_id, consistent = self.parts[0].key
        message: dict[str, Any] = {"id": self.id, "op": op}
        expires_at = unix_ms(max(part.call.deadline for part in self.parts))
        given = {"client_id": client_id, "zone_id": zone_id, "reply_to": self.reply_to, "expires_at": expires_at}
        message |= {name: it for name, it in given.items() if it is not None}
        if not consistent:
            message["consistent"] = False
        message["items"] = [msgspec.Raw(item) for part in self.parts for item in part.items]
        headers = self.sending.headers if self.sending else ()
        return ("payload", _encode(message), *headers)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return any(not part.call.has_ended for part in self.parts)


class Requests:
    """The requests of one route, from the call to the reply. Not thread-safe; times are seconds of one clock.

    Args:
        limits: of one request.
        gather_seconds: how long a part waits for others to share its request; 0: each has one of its own.
        sends: makes the spans.
    """

    def __init__(self, limits: RequestLimits, gather_seconds: float = 0.0, sends: SendSpans | None = None) -> None:
        self._limits = limits
        self._sends = sends
        self._gather_seconds = gather_seconds
        self._prefix = f"{secrets.token_hex(8)}-"
        self._count = 0
        self._parts: deque[Part] = deque()
        self._items = 0  # in the parts above
        self._again: deque[StreamRequest] = deque()
        self._open: dict[str, StreamRequest] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self._parts or self._open)

    @property
    def waiting_since(self) -> float | None:
        """When the oldest request without a reply was asked for; None: there is none."""
        return next((request.parts[0].queued_at for request in self._open.values()), None)

    def add(self, part: Part, now: float) -> None:
        """A part that is to be sent."""
        part.queued_at = now
        self._parts.append(part)
        self._items += len(part.items)

    def next_at(self) -> float | None:
        """When there is something to send; None: not before something is added."""
        if self._again or self._items >= self._limits.items:
            return 0.0
        return self._parts[0].queued_at + self._gather_seconds if self._parts else None

    def take(self, most: int, reply_to: str | None) -> list[StreamRequest]:
        """At most so many requests to send now, with replies to be had on the stream ``reply_to``.

        What has to be sent again comes first, as it was.
        """
        taken: list[StreamRequest] = []
        while self._again and len(taken) < most:
            taken += self._wanted([self._again.popleft()])
        while self._parts and len(taken) < most:
            if parts := self._take_parts():
                request = self._make(parts, reply_to)
                self._open[request.id] = request
                taken.append(request)
        return taken

    def _take_parts(self) -> list[Part]:
        """Parts for one request: the first, and with a time to gather those behind it that agree and fit."""
        taken: list[Part] = []
        count, room = 0, self._limits.bytes - OVERHEAD_BYTES
        while self._parts:
            part = self._parts[0]
            if part.call.has_ended:
                part.release()
            else:
                count += len(part.items)
                room -= sum(map(len, part.items)) if self._gather_seconds else 0
                if taken and not (self._gather_seconds and count <= self._limits.items and room >= 0):
                    break
                if taken and (part.key, part.caller) != (taken[0].key, taken[0].caller):
                    break
                taken.append(part)
            self._items -= len(self._parts.popleft().items)
        return taken

    def _make(self, parts: list[Part], reply_to: str | None) -> StreamRequest:
        self._count += 1
        request_id, caller = f"{self._prefix}{self._count}", parts[0].caller
        sending = self._sends.begin(caller, request_id) if caller and self._sends else None
        return StreamRequest(request_id, parts, reply_to, sending)

    def requeue(self, requests: Iterable[StreamRequest]) -> None:
        """These did not arrive, or it is not known whether they did."""
        self._again.extend(self._wanted(requests))

    def _wanted(self, requests: Iterable[StreamRequest]) -> list[StreamRequest]:
        """Those that somebody still waits for; the others will not be sent again."""
        wanted: list[StreamRequest] = []
        for request in requests:
            if request.id in self._open:
                wanted.append(request)
            elif request.sending:
                request.sending.end(None)
        return wanted

    def reply(self, payload: bytes) -> list[tuple[Call, CallOutcome]]:
        """Take what a stream of replies has; the calls that are over by it."""
        if payload[:1] in b"{[ \t\r\n":  # JSON is never ours
            return []
        try:
            message = _decode(payload)
            request_id = message["id"]
            request = self._open.get(request_id)
        except (ValueError, TypeError, LookupError, RecursionError):  # msgspec's errors are ValueErrors
            return []
        if request is None:
            return []
        try:
            answers = _answers(message, sum(len(part.items) for part in request.parts))
        except (TypeError, LookupError, AttributeError, ValueError):
            answers = BadReply("the reply is none of the contract's")
        return self._close(request, answers)

    def reply_among(self, payloads: Iterable[bytes]) -> list[tuple[Call, CallOutcome]]:
        """Take those that are ours of a stream that others read, too; the calls that are over by them."""
        mark = self._prefix.encode()
        return [over for payload in payloads if mark in payload for over in self.reply(payload)]

    def fail(self, request: StreamRequest, error: TokenClientError) -> list[tuple[Call, CallOutcome]]:
        """The request can not be sent at all; the calls that are over by it."""
        return self._close(request, error) if request.id in self._open else []

    def _close(self, request: StreamRequest, answers: CallOutcome) -> list[tuple[Call, CallOutcome]]:
        del self._open[request.id]
        if request.sending:
            request.sending.is_answered = True
        over: list[tuple[Call, CallOutcome]] = []
        at = 0
        for part in request.parts:
            part.release()
            call, count = part.call, len(part.items)
            if not call.has_ended:
                if isinstance(answers, TokenClientError):
                    over.append((call, copy.copy(answers)))  # each caller raises one of its own
                elif call.answer(part.at, answers[at : at + count]):
                    over.append((call, call.answers))
            at += count
        return over

    def sweep(self) -> None:
        """Let go of requests and parts whose calls are over in another way: too late, cancelled, closed."""
        for request in [request for request in self._open.values() if not request.is_wanted]:
            del self._open[request.id]
            for part in request.parts:
                part.release()
        self._again = deque(self._wanted(self._again))
        kept = [part for part in self._parts if not part.call.has_ended]
        for part in self._parts:
            if part.call.has_ended:
                part.release()
        self._parts = deque(kept)
        self._items = sum(len(part.items) for part in kept)


def _answers(message: dict[str, Any], count: int) -> CallOutcome:
    """What a reply holds: an answer for each of so many items, or the error of the request as a whole."""
    items = message.get("items")
    if items is None:
        return _refusal(message["error"])
    if len(items) != count:
        raise ValueError("another number of items")
    return [_value(item["value"]) if "value" in item else _refusal(item["error"]) for item in items]


def _value(value: Any) -> Answer:
    if type(value) not in _VALUES:
        raise TypeError("no value of any type")
    return cast("Answer", value)


def _refusal(error: Any) -> RequestRefused:
    code, message = error["code"], error["message"]
    if not (isinstance(code, str) and isinstance(message, str)):
        raise TypeError("no error of the contract's")
    return refusal(code, message)

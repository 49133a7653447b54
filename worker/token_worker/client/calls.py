"""Calls, their requests and their replies: the protocol of the client, without sockets or threads.

One caller waits for one *call*. The items of a call are sent in one *part*, or in several parts if they are too many
for one request. If the client has ``batch_ms``, parts of several calls share a request. A *request* is one entry of the
request stream. The client knows a request by its id until the reply is there.

- If a connection breaks before the server has confirmed a request, the same request is sent again, with the same id.
  If there are two replies, the first one counts. Replies that no call waits for are dropped.
- A request that no call waits for any more is not sent.
- Nothing of a call is kept after its end.
"""

import copy
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from token_worker.client.errors import BadReply, RequestRefused, TokenClientError, refusal
from token_worker.client.items import OVERHEAD_BYTES, Answer, OtherFormat, RequestLimits
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
    """What applies to all items of a request. Parts share a request only if these are equal.

    All but ``marks_other`` are members of the request. If it is True, some tokens of the reply are ``OtherFormat``.
    """

    op: Op
    client_id: str | None
    zone_id: str | None
    consistent: bool
    marks_other: bool = False


class Call:
    """One call. One caller waits for its outcome.

    Args:
        count: number of answers that the call needs.
        deadline: end of its time-out, in seconds of the monotonic clock.
        timeout_error: makes the error to end the call with at its deadline.
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
        """Take the answers from position ``at`` on. Return True if no answer is missing any more."""
        self.answers[at : at + len(answers)] = answers
        self.missing -= len(answers)
        return not self.missing

    def end(self, outcome: CallOutcome | None) -> None:
        """End the call, and pass an outcome to the caller unless it is None.

        Only the thread that took the call from the ``DeadlineTable`` may end the call.
        """
        self.has_ended = True
        finish, self.finish = self.finish, None  # keep no reference to the caller
        self.answers = []
        if finish is not None and outcome is not None:
            finish(outcome)


class Part:
    """Items of one call that are sent in one request.

    Args:
        call: the call.
        at: position of the first item in the call.
        items: the items, encoded by ``items.encode``.
        key: the members that all items of a request share.
        caller: the caller's span, if tracing is on.
        release: called once when the part is done, with or without an answer.
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
    """One entry for the request stream: its id, its parts, the stream for the reply, and its span if tracing is on."""

    id: str
    parts: list[Part]
    reply_to: str
    span: SendSpan | None = None

    def fields(self, unix_ms: Callable[[float], int | None]) -> tuple[str | bytes, ...]:
        """Return the fields of the entry, names and values in turn.

        The fields are made each time that the request is sent, because the clocks of servers differ.

        Args:
            unix_ms: converts a deadline to Unix milliseconds of the server's clock. Returns None if that is unknown.
        """
        op, client_id, zone_id, consistent, _ = self.parts[0].key
        message: dict[str, Any] = {"id": self.id, "op": op}
        expires_at = unix_ms(max(part.call.deadline for part in self.parts))
        optional = {"client_id": client_id, "zone_id": zone_id, "reply_to": self.reply_to, "expires_at": expires_at}
        message |= {name: member for name, member in optional.items() if member is not None}
        if not consistent:
            message["consistent"] = False
        message["items"] = [msgspec.Raw(item) for part in self.parts for item in part.items]
        headers = self.span.headers if self.span else ()
        return ("payload", _encode(message), *headers)

    @property
    def is_wanted(self) -> bool:
        """True as long as a call waits for the reply."""
        return any(not part.call.has_ended for part in self.parts)


class Requests:
    """The requests of one route, from the call to the reply. Not thread-safe. All times are seconds of one clock.

    Args:
        limits: limits of one request.
        gather_seconds: how long a part waits for other parts to share its request. 0: each part has its own request.
        spans: makes the spans.
    """

    def __init__(self, limits: RequestLimits, gather_seconds: float = 0.0, spans: SendSpans | None = None) -> None:
        self._limits = limits
        self._spans = spans
        self._gather_seconds = gather_seconds
        self._prefix = f"{secrets.token_hex(8)}-"
        self._count = 0
        self._parts: deque[Part] = deque()
        self._items = 0  # number of items in the parts above
        self._requeued: deque[StreamRequest] = deque()
        self._open: dict[str, StreamRequest] = {}

    @property
    def is_idle(self) -> bool:
        """True if no call waits for a reply."""
        return not (self._parts or self._open)

    @property
    def waiting_since(self) -> float | None:
        """Time when the oldest request without a reply was queued. None if there is no such request."""
        return next((request.parts[0].queued_at for request in self._open.values()), None)

    def add(self, part: Part, now: float) -> None:
        """Queue a part."""
        part.queued_at = now
        self._parts.append(part)
        self._items += len(part.items)

    def next_at(self) -> float | None:
        """Time when a request can be sent. None: not before a part is added."""
        if self._requeued or self._items >= self._limits.items:
            return 0.0
        return self._parts[0].queued_at + self._gather_seconds if self._parts else None

    def take(self, most: int, reply_to: str) -> list[StreamRequest]:
        """Return at most so many requests to send now. Their replies shall come on the stream ``reply_to``.

        Requests that are sent again come first, unchanged.
        """
        taken: list[StreamRequest] = []
        while self._requeued and len(taken) < most:
            taken += self._wanted([self._requeued.popleft()])
        while self._parts and len(taken) < most:
            if parts := self._take_parts():
                request = self._make(parts, reply_to)
                self._open[request.id] = request
                taken.append(request)
        return taken

    def _take_parts(self) -> list[Part]:
        """Take the parts for one request: the first part, and with ``gather_seconds`` the next parts that fit."""
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

    def _make(self, parts: list[Part], reply_to: str) -> StreamRequest:
        self._count += 1
        request_id, caller = f"{self._prefix}{self._count}", parts[0].caller
        span = self._spans.begin(caller, request_id) if caller and self._spans else None
        return StreamRequest(request_id, parts, reply_to, span)

    def requeue(self, requests: Iterable[StreamRequest]) -> None:
        """Queue requests again that did not arrive, or may not have arrived."""
        self._requeued.extend(self._wanted(requests))

    def _wanted(self, requests: Iterable[StreamRequest]) -> list[StreamRequest]:
        """Return the requests that a call still waits for. End the spans of the others: they are not sent again."""
        wanted: list[StreamRequest] = []
        for request in requests:
            if request.id in self._open:
                wanted.append(request)
            elif request.span:
                request.span.end(None)
        return wanted

    def take_reply(self, payload: bytes) -> list[tuple[Call, CallOutcome]]:
        """Take the payload of a reply. Return the calls to end, with their outcomes."""
        if payload[:1] in b"{[ \t\r\n":  # the client's own requests are never JSON, nor are the replies to them
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
            if request.parts[0].key.marks_other and isinstance(answers, list):
                answers = [*map(_marked, message["items"], answers)]
        except (TypeError, LookupError, AttributeError, ValueError):
            answers = BadReply("the reply does not follow the contract")
        return self._close(request, answers)

    def take_shared_replies(self, payloads: Iterable[bytes]) -> list[tuple[Call, CallOutcome]]:
        """Take the client's own replies from a stream that others read, too. Return the calls to end."""
        mark = self._prefix.encode()
        return [ended for payload in payloads if mark in payload for ended in self.take_reply(payload)]

    def fail(self, request: StreamRequest, error: TokenClientError) -> list[tuple[Call, CallOutcome]]:
        """Take the error of a request that cannot be sent. Return the calls to end, with this error."""
        return self._close(request, error) if request.id in self._open else []

    def _close(self, request: StreamRequest, answers: CallOutcome) -> list[tuple[Call, CallOutcome]]:
        del self._open[request.id]
        if request.span:
            request.span.is_answered = True
        ended: list[tuple[Call, CallOutcome]] = []
        at = 0
        for part in request.parts:
            part.release()
            call, count = part.call, len(part.items)
            if not call.has_ended:
                if isinstance(answers, TokenClientError):
                    ended.append((call, copy.copy(answers)))  # each caller raises its own copy
                elif call.answer(part.at, answers[at : at + count]):
                    ended.append((call, call.answers))
            at += count
        return ended

    def sweep(self) -> None:
        """Release requests and parts whose calls have ended without a reply: by time-out, cancellation or closing."""
        for request in [request for request in self._open.values() if not request.is_wanted]:
            del self._open[request.id]
            for part in request.parts:
                part.release()
        self._requeued = deque(self._wanted(self._requeued))
        kept = [part for part in self._parts if not part.call.has_ended]
        for part in self._parts:
            if part.call.has_ended:
                part.release()
        self._parts = deque(kept)
        self._items = sum(len(part.items) for part in kept)


def _answers(message: dict[str, Any], count: int) -> CallOutcome:
    """Read a reply: an answer for each of so many items, or the error for the whole request."""
    items = message.get("items")
    if items is None:
        return _refusal(message["error"])
    if len(items) != count:
        raise ValueError("wrong number of items")
    return [_value(item["value"]) if "value" in item else _refusal(item["error"]) for item in items]


def _marked(item: dict[str, Any], answer: Answer) -> Answer:
    """Return the answer to an item, as an ``OtherFormat`` if the reply says so."""
    return OtherFormat(answer) if isinstance(answer, str) and item.get("format") == "other" else answer


def _value(value: Any) -> Answer:
    if type(value) not in _VALUES:
        raise TypeError("not a value of any type")
    return cast("Answer", value)


def _refusal(error: Any) -> RequestRefused:
    code, message = error["code"], error["message"]
    if not (isinstance(code, str) and isinstance(message, str)):
        raise TypeError("not an error of the contract")
    return refusal(code, message)

"""Calls, their requests and their replies: the protocol of the client, without sockets or threads.

One caller waits for one *call*. The items of a call are sent in one *part*, or in several parts if they are too many
for one request. Small parts of several calls share a request, unless ``batch_ms`` is None. A *request* is one entry of
the request stream. The client knows a request by its id until the reply is there.

- If a connection breaks before the server has confirmed a request, the same request is sent again, with the same id.
  If there are two replies, the first one counts. Replies that no call waits for are dropped.
- A request that no call waits for any more is not sent.
- If a shared request is refused for a reason that may lie in one of its parts, each part is sent again on its own. So
  no call fails for another's sake.
- Nothing of a call is kept after its end.
"""

import copy
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from token_worker.client.errors import BadReply, RequestRefused, TokenClientError, refusal
from token_worker.client.items import OVERHEAD_BYTES, Answer, OtherFormat, RequestLimits
from token_worker.client.tracing import SendSpan, SendSpans
from token_worker.contract.messages import Op
from token_worker.errors import Code

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CallOutcome = list[Answer] | TokenClientError

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
_VALUES: Final = frozenset({int, str, bytes})
_OF_ONE_PART: Final = frozenset({Code.INVALID_REQUEST, Code.INTERNAL})
"""Codes of whole requests whose reason may lie in one part, or in their number."""

JOINED_ITEMS: Final = 100
"""Most items of calls that share a request without a time to wait: the rest is for another worker."""

_SHORT_ARRAYS: Final = [bytes([0x90 + count]) for count in range(16)]


class CallKey(NamedTuple):
    """Members of a request that apply to all its items. Parts share a request only if these are equal.

    All but ``marks_other`` are members of the request. If it is True, some tokens of the reply are ``OtherFormat``.
    """

    op: Op
    client_id: str | None
    zone_id: str | None
    consistent: bool
    marks_other: bool = False


class Call:
    """One call. One caller waits for its outcome. Each kind of client has a subclass, which passes the outcome on.

    Attributes:
        deadline: end of its time-out, in seconds of the monotonic clock.
        has_ended: True from its end on.
        timeout_error: makes the error to end the call with at its deadline.
    """

    __slots__ = ("_answers", "_count", "_missing", "_refused", "deadline", "has_ended", "timeout_error")

    def start(
        self,
        count: int,
        deadline: float,
        timeout_error: Callable[[], TokenClientError],
        refused: Mapping[int, RequestRefused] | None = None,
    ) -> None:
        """Set what the call needs.

        Args:
            count: number of answers that the call needs from workers.
            deadline: see above.
            timeout_error: see above.
            refused: items that are not sent, by their positions among all items.
        """
        self._answers: list[Any] | None = None
        self._count = self._missing = count
        self._refused = refused
        self.deadline = deadline
        self.timeout_error = timeout_error
        self.has_ended = False

    def answer(self, at: int, answers: list[Answer]) -> list[Answer] | None:
        """Take the answers from position ``at`` on. Return all answers if none is missing any more."""
        if len(answers) == self._count:
            return answers
        if self._answers is None:
            self._answers = [None] * self._count
        self._answers[at : at + len(answers)] = answers
        self._missing -= len(answers)
        return None if self._missing else self._answers

    def end(self, outcome: CallOutcome | None) -> None:
        """End the call, and pass an outcome to the caller unless it is None.

        Only the thread that took the call from the ``DeadlineTable`` may end the call.
        """
        self.has_ended = True
        self._answers = None
        if self._refused:
            if isinstance(outcome, list):
                others = iter(outcome)
                count = len(self._refused) + len(outcome)
                outcome = [self._refused[at] if at in self._refused else next(others) for at in range(count)]
            self._refused = None
        self._finish(outcome)

    def _finish(self, outcome: CallOutcome | None) -> None:
        """Let go of the caller, and pass an outcome to it unless it is None. Called once."""
        raise NotImplementedError


class Part:
    """Items of one call that are sent in one request.

    The first part of a request stands for the request, which is one entry of the request stream. There are many parts:
    they hold no lists, so that the garbage collector has little to do.

    Args:
        call: the call.
        at: position of the first item in the call.
        count: number of items.
        items: the items, encoded by ``items.encode``, one after another.
        key: the members that all items of a request share.
        caller: the caller's span, if tracing is on.

    Attributes:
        queued_at: when the part was queued.
        id: id of the request, if the part is the first one.
        reply_to: stream for the reply to this request.
        span: span of this request, if tracing is on.
        joined: the other parts of this request.
        is_alone: True if the part must not share a request.
    """

    __slots__ = (
        "at",
        "call",
        "caller",
        "count",
        "id",
        "is_alone",
        "items",
        "joined",
        "key",
        "queued_at",
        "reply_to",
        "span",
    )

    def __init__(self, call: Call, at: int, count: int, items: bytes, key: CallKey, caller: "Span | None") -> None:
        self.call = call
        self.at = at
        self.count = count
        self.items = items
        self.key = key
        self.caller = caller
        self.queued_at = 0.0
        self.id = self.reply_to = ""
        self.span: SendSpan | None = None
        self.joined: Sequence[Part] = ()
        self.is_alone = False

    @property
    def parts(self) -> Sequence["Part"]:
        """All parts of the request of which this part is the first one."""
        return (self, *self.joined)

    @property
    def is_wanted(self) -> bool:
        """True as long as a call waits for the reply to the request."""
        return not self.call.has_ended or any(not part.call.has_ended for part in self.joined)

    def fields(self, unix_ms: Callable[[float], int | None]) -> tuple[str | bytes, ...]:
        """Return the fields of the request's entry, names and values in turn.

        The fields are made each time that the request is sent, because the clocks of servers differ.

        Args:
            unix_ms: converts a deadline to Unix milliseconds of the server's clock. Returns None if that is unknown.
        """
        op, client_id, zone_id, consistent, _ = self.key
        count, items, deadline = self.count, self.items, self.call.deadline
        if self.joined:
            parts = self.parts
            count = sum(part.count for part in parts)
            items = b"".join([part.items for part in parts])
            deadline = max(part.call.deadline for part in parts)
        array = msgspec.Raw(_array_head(count) + items)
        message = _Message(self.id, op, array, client_id, zone_id, self.reply_to or None, unix_ms(deadline), consistent)
        headers = self.span.headers if self.span else ()
        return ("payload", _encode(message), *headers)


def _array_head(count: int) -> bytes:
    """Return the bytes of an array of MessagePack before its elements."""
    if count < 16:
        return _SHORT_ARRAYS[count]
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


class _Message(msgspec.Struct, omit_defaults=True, gc=False):
    """The payload of a request."""

    id: str
    op: Op
    items: msgspec.Raw
    client_id: str | None = None
    zone_id: str | None = None
    reply_to: str | None = None
    expires_at: int | None = None
    consistent: bool = True


class Requests:
    """The requests of one route, from the call to the reply. Not thread-safe. All times are seconds of one clock.

    Args:
        limits: limits of one request.
        gather_seconds: how long a part waits for other parts to share its request. 0: it shares its request with those
            that are queued when it is sent. None: each part has its own request.
        spans: makes the spans.
    """

    def __init__(
        self, limits: RequestLimits, gather_seconds: float | None = 0.0, spans: SendSpans | None = None
    ) -> None:
        self._limits = limits
        self._items_max = limits.items if gather_seconds else min(limits.items, JOINED_ITEMS)
        self._spans = spans
        self._gather_seconds = gather_seconds
        self._prefix = f"{secrets.token_hex(8)}-"
        self._count = 0
        self._parts: deque[Part] = deque()
        self._items = 0  # number of items in the parts above
        self._requeued: deque[Part] = deque()
        self._open: dict[str, Part] = {}
        self._done = 0

    @property
    def is_idle(self) -> bool:
        """True if no call waits for a reply."""
        return not (self._parts or self._open)

    @property
    def waiting_since(self) -> float | None:
        """Time when the oldest request without a reply was queued. None if there is no such request."""
        return next((request.queued_at for request in self._open.values()), None)

    def take_done(self) -> int:
        """Return how many parts are done since the last time, with or without an answer: they leave room for others."""
        done, self._done = self._done, 0
        return done

    def add(self, part: Part, now: float) -> bool:
        """Queue a part. Return True if ``next_at`` may be earlier than before."""
        part.queued_at = now
        self._parts.append(part)
        self._items += part.count
        return len(self._parts) == 1 or self._items >= self._limits.items

    def next_at(self) -> float | None:
        """Time when a request can be sent. None: not before a part is added."""
        if self._requeued or self._items >= self._limits.items:
            return 0.0
        return self._parts[0].queued_at + (self._gather_seconds or 0.0) if self._parts else None

    def take(self, most: int, reply_to: str) -> list[Part]:
        """Return at most so many requests to send now. Their replies shall come on the stream ``reply_to``.

        Requests that are sent again come first, unchanged.
        """
        taken: list[Part] = []
        while self._requeued and len(taken) < most:
            taken += self._wanted([self._requeued.popleft()])
        new: list[Part] = []
        while self._parts and len(taken) + len(new) < most:
            if (request := self._take_request()) is not None:
                self._count += 1
                request.id = f"{self._prefix}{self._count}"
                request.reply_to = reply_to
                self._open[request.id] = request
                new.append(request)
        if self._spans is not None:
            self._spans.begin(new)
        return taken + new

    def _take_request(self) -> Part | None:
        """Take the parts for one request: the first part, and unless it is alone the next parts that fit."""
        first: Part | None = None
        joined: list[Part] = []
        count, room = 0, self._limits.bytes - OVERHEAD_BYTES
        while self._parts:
            part = self._parts[0]
            if part.call.has_ended:
                self._done += 1
            else:
                count += part.count
                room -= len(part.items)
                if first is None:
                    first = part
                elif count > self._items_max or room < 0 or part.is_alone or not _are_alike(part, first):
                    break
                else:
                    joined.append(part)
            self._items -= self._parts.popleft().count
            if first is not None and (first.is_alone or self._gather_seconds is None):
                break
        if first is not None and joined:
            first.joined = joined
        return first

    def requeue(self, requests: Iterable[Part]) -> None:
        """Queue requests again that did not arrive, or may not have arrived."""
        self._requeued.extend(self._wanted(requests))

    def _wanted(self, requests: Iterable[Part]) -> list[Part]:
        """Return the requests that a call still waits for. End the spans of the others: they are not sent again."""
        wanted: list[Part] = []
        for request in requests:
            if request.id in self._open:
                wanted.append(request)
            elif request.span:
                request.span.end(None)
        return wanted

    def take_replies(self, payloads: Iterable[bytes]) -> list[tuple[Call, CallOutcome]]:
        """Take the payloads of replies. Return the calls to end, with their outcomes."""
        ended: list[tuple[Call, CallOutcome]] = []
        for payload in payloads:
            if payload[:1] in b"{[ \t\r\n":  # the client's own requests are never JSON, nor are the replies to them
                continue
            try:
                message = _decode(payload)
                request = self._open.get(message["id"])
            except (ValueError, TypeError, LookupError, RecursionError):  # msgspec's errors are ValueErrors
                continue
            if request is not None:
                self._close(request, _outcome(message, request), ended)
        return ended

    def take_shared_replies(self, payloads: Iterable[bytes]) -> list[tuple[Call, CallOutcome]]:
        """Take the client's own replies from a stream that others read, too. Return the calls to end."""
        mark = self._prefix.encode()
        return self.take_replies(payload for payload in payloads if mark in payload)

    def fail(self, request: Part, error: TokenClientError) -> list[tuple[Call, CallOutcome]]:
        """Take the error of a request that cannot be sent. Return the calls to end, with this error."""
        ended: list[tuple[Call, CallOutcome]] = []
        if request.id in self._open:
            self._close(request, error, ended)
        return ended

    def _close(self, request: Part, answers: CallOutcome, ended: list[tuple[Call, CallOutcome]]) -> None:
        """Forget a request. Append the calls to end to ``ended``."""
        del self._open[request.id]
        if request.span:
            request.span.is_answered = True
        if request.joined and isinstance(answers, RequestRefused) and answers.code in _OF_ONE_PART:
            self._queue_alone(request.parts)
            return
        at = 0
        for part in request.parts:
            self._done += 1
            call = part.call
            if not call.has_ended:
                if isinstance(answers, TokenClientError):
                    ended.append((call, copy.copy(answers)))  # each caller raises its own copy
                else:
                    its_answers = answers[at : at + part.count] if request.joined else answers
                    if (all_answers := call.answer(part.at, its_answers)) is not None:
                        ended.append((call, all_answers))
            at += part.count

    def _queue_alone(self, parts: Sequence[Part]) -> None:
        """Queue the parts of a request again, before all others. Each gets a request of its own."""
        for part in reversed(parts):
            part.joined, part.is_alone = (), True
            self._parts.appendleft(part)
            self._items += part.count

    def sweep(self) -> None:
        """Forget requests and parts whose calls have ended without a reply: by time-out, cancellation or closing."""
        for request in [request for request in self._open.values() if not request.is_wanted]:
            del self._open[request.id]
            self._done += len(request.parts)
        self._requeued = deque(self._wanted(self._requeued))
        kept = [part for part in self._parts if not part.call.has_ended]
        self._done += len(self._parts) - len(kept)
        self._parts = deque(kept)
        self._items = sum(part.count for part in kept)


def _are_alike(part: Part, other: Part) -> bool:
    """Tell whether two parts may share a request."""
    return part.key == other.key and part.caller is other.caller


def _outcome(message: dict[str, Any], request: Part) -> CallOutcome:
    """Read the reply to a request."""
    try:
        answers = _answers(message, sum(part.count for part in request.parts) if request.joined else request.count)
        if request.key.marks_other and isinstance(answers, list):
            answers = [*map(_marked, message["items"], answers)]
    except (TypeError, LookupError, AttributeError, ValueError):
        return BadReply("the reply does not follow the contract")
    return answers


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

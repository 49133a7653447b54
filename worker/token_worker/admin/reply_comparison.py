"""Compares the replies to replayed requests with the replies to the original requests. Sans-IO like ``delivery``.

Reads the response streams of the routes, and the streams that requests name in ``reply_to``. Keeps a hash of each
reply, never its values.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from token_worker.admin.pages import Pages
from token_worker.admin.payloads import fields_of, read_message
from token_worker.admin.stream_ends import is_time, read_clock
from token_worker.errors import ServerError
from token_worker.redis.exchange import Exchange
from token_worker.streams.strays import EARLIER_MS
from token_worker.streams.stream_ids import FIRST_ID, after, order


class ResentRequest(NamedTuple):
    """A request that was sent again: what is needed to find its reply and the first one.

    Attributes:
        read_entry: its id in the stream that it was read from.
        original: id of the entry that was sent first.
        entry: id of the new entry.
        request_id: the producer's own id.
        reply_streams: where its reply can be: the responses of the route, and the stream that the request names.
        was_answered: True if the original had a reply of its own. A dead letter had none, or one that tells the error.
    """

    read_entry: str
    original: str
    entry: str
    request_id: str
    reply_streams: tuple[str, ...]
    was_answered: bool


@dataclass
class ComparisonResult:
    """The comparison of the replies to replayed requests with the first ones. Members are those of ``replay --json``.

    Attributes:
        same: replays whose reply says the same as the first one.
        different: original entry, new entry and request id of each replay whose reply says something else.
        no_original: replays without a first reply to compare with: it was trimmed, or the request was a dead letter.
        missing: new entries that have no reply yet.
    """

    same: int = 0
    different: list[tuple[str, str, str]] = field(default_factory=list)
    no_original: int = 0
    missing: list[str] = field(default_factory=list)


class ReplyComparison:
    """Looks for the replies to replayed requests, and for the first replies.

    Args:
        resent: the replayed requests, at least one.
    """

    def __init__(self, resent: Sequence[ResentRequest]) -> None:
        self._resent = resent
        self._wanted = {request.entry for request in resent} | {request.original for request in resent}
        self._positions: dict[str, str | None] = {}
        """By stream: where to read on, None after its last id. Empty before the first read."""
        self._digests: dict[str, bytes] = {}
        """By request entry: the hash of the reply that was found."""
        self._pages = Pages()

    def read_replies(self) -> Exchange[int]:
        """Read what was added to the streams since the last call. Returns how many replies are still missing."""
        if not self._positions:
            start = yield from self._first_position()
            self._positions = {name: start for request in self._resent for name in request.reply_streams}
        for stream in self._positions:
            while position := self._positions[stream]:
                page = yield from self._read_page(stream, position)
                if not page:
                    break
                for _, raw in page:
                    self._note(fields_of(raw).get(b"payload", b""))
                self._positions[stream] = after(page[-1][0])
        return sum(request.entry not in self._digests for request in self._resent)

    def result(self) -> ComparisonResult:
        """Compare the replies that were found so far."""
        result = ComparisonResult()
        for request in self._resent:
            reply, first_reply = self._digests.get(request.entry), self._digests.get(request.original)
            if reply is None:
                result.missing.append(request.entry)
            elif first_reply is None or not request.was_answered:
                result.no_original += 1
            elif reply == first_reply:
                result.same += 1
            else:
                result.different.append((request.original, request.entry, request.request_id))
        return result

    def _first_position(self) -> Exchange[str]:
        """The time of the first original: its reply was added later, except that clocks are set back now and then.

        An id that is ahead of the clock, or is not a time, does not tell when its request was added. If there is one,
        all replies are read.
        """
        originals = [request.original for request in self._resent]
        now_ms = yield from read_clock()
        if not all(is_time(original, now_ms) for original in originals):
            return FIRST_ID
        return f"{min(map(order, originals))[0] - EARLIER_MS}-0"

    def _read_page(self, stream: str, position: str) -> Exchange[list[Any]]:
        try:
            return (yield from self._pages.read(stream, position))
        except ServerError as error:
            if error.code != "WRONGTYPE":
                raise
            return []  # a reply_to that is not a stream, and so got no reply

    def _note(self, payload: bytes) -> None:
        reply = read_message(payload)
        if reply is None or reply.get("request_entry") not in self._wanted:
            return
        answer = [reply.get(name) for name in ("status", "value", "items", "error")]
        self._digests[reply["request_entry"]] = hashlib.sha256(msgspec.msgpack.encode(answer)).digest()

"""Dead letters for operators: entries that could not be answered. Sans-IO like ``delivery``.

``dead_letter.lua`` writes the fields ``dead_reason``, ``dead_stream``, ``dead_entry`` and ``dead_deliveries``, then the
fields of the entry. ``replay`` sends dead letters again.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from token_worker.admin.pages import Pages
from token_worker.admin.payloads import fields_of, read_message
from token_worker.admin.stream_ends import StreamEnds, age_seconds, ahead_seconds, is_time, read_clock, read_ends
from token_worker.redis.exchange import Exchange
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import FIRST_ID, after


class DeadLetter(msgspec.Struct, kw_only=True):
    """A dead letter. Members are those of ``dead-letters list --json``. Holds no value.

    Attributes:
        dead_stream, id: its stream and its id there.
        stream, entry: the request stream, and the id that the entry had there.
        reason: why it could not be answered.
        deliveries: how often it was delivered.
        age_seconds: time since it became a dead letter, by the server's clock; None if it is unknown.
        ahead_seconds: how far its id lies ahead of that clock; 0 if it does not.
        request_id, op, client_id: as in the payload; None if absent or unreadable.
        payload_bytes: length of the payload.
    """

    dead_stream: str
    id: str
    stream: str
    entry: str
    reason: str
    deliveries: int
    age_seconds: float | None
    ahead_seconds: float
    request_id: str | None
    op: str | None
    client_id: str | None
    payload_bytes: int


class DeadLetters:
    """The dead letters of one stream. If several routes share the stream, it has the dead letters of all of them.

    Args:
        route: a route that has this dead-letter stream.

    Attributes:
        stream: name of the stream.
    """

    def __init__(self, route: Route) -> None:
        self.stream = route.dead_letters
        self._route = route
        self._pages = Pages()
        self._start: str | None = FIRST_ID
        self._ends: StreamEnds | None = None
        self._now_ms = 0

    def next_page(self) -> Exchange[list[tuple[DeadLetter, bytes]]]:
        """Read the next dead letters and their payloads; empty at the end."""
        yield from self._prepare()
        if self._start is None:
            return []
        page = yield from self._pages.read(self.stream, self._start)
        self._start = after(page[-1][0]) if page else None
        return (yield from self._describe_all(page))

    def find(self, letter: str) -> Exchange[list[tuple[DeadLetter, bytes]]]:
        """Read the dead letter with this id, if it is in this stream."""
        yield from self._prepare()
        found = yield "XRANGE", self.stream, letter, letter
        return (yield from self._describe_all(found))

    def _prepare(self) -> Exchange[None]:
        """Read the server's clock once; ages need it."""
        if not self._now_ms:
            self._now_ms = yield from read_clock()

    def _describe_all(self, page: Sequence[Any]) -> Exchange[list[tuple[DeadLetter, bytes]]]:
        """Describe entries.

        The ends of the stream are read only if an id is no time. The server copies the first and the last entry for
        that, which takes seconds if they are large.
        """
        if self._ends is None and not all(is_time(entry_id, self._now_ms) for entry_id, _ in page):
            self._ends = yield from read_ends(self._route, self.stream)
        return [self._describe(entry_id, raw) for entry_id, raw in page]

    def _describe(self, entry_id: bytes, raw: Sequence[bytes]) -> tuple[DeadLetter, bytes]:
        fields = fields_of(raw)
        payload = fields.get(b"payload", b"")
        message: dict[str, Any] = read_message(payload) or {}

        def text(name: bytes) -> str:
            return str(fields.get(name, b"").decode(errors="replace"))

        def member(name: str) -> str | None:
            found = message.get(name)
            return found if isinstance(found, str) and len(found) <= 256 else None

        letter = DeadLetter(
            dead_stream=self.stream,
            id=entry_id.decode(),
            stream=text(b"dead_stream"),
            entry=text(b"dead_entry"),
            reason=text(b"dead_reason"),
            deliveries=int(text(b"dead_deliveries") or 0) if text(b"dead_deliveries").isdecimal() else 0,
            age_seconds=age_seconds(entry_id, self._ends or StreamEnds(), self._now_ms),
            ahead_seconds=ahead_seconds(entry_id, self._now_ms),
            request_id=member("id"),
            op=member("op"),
            client_id=member("client_id"),
            payload_bytes=len(payload),
        )
        return letter, payload


def drop(dead_stream: str, letters: Sequence[str]) -> Exchange[int]:
    """Delete dead letters for good. Returns how many there were."""
    return int((yield "XDEL", dead_stream, *letters))

"""Stray replies: replies on the shared response stream of a route that should have come on another stream.

Workers answer on the shared stream with ``forbidden`` if their route does not allow the stream that a request names, or
if that stream cannot take the reply. A producer that reads a stream of its own looks at the shared stream only for a
request without a reply, and reads nothing twice. Most looks are one command that finds nothing.

By the server's clock the reply is younger than the request, whatever ids the request stream has. Mostly it stands right
behind that time, so the look begins there. If the ids of the shared stream are ahead of the clock, the reply is among
the last entries. Each look is bounded in entries and bytes: on a busy stream it takes several looks to reach the end.
"""

from collections.abc import Iterable
from typing import Any, Final

from token_worker.errors import ReplyTooLarge
from token_worker.redis.link import Link
from token_worker.streams.stream_ids import after, order

LOOK_AFTER_SECONDS: Final = 0.1
"""Age of a request without a reply at which the shared stream is looked at. Most replies arrive earlier."""

LOOK_SECONDS: Final = 0.5
"""Shortest time between two looks."""

REFUSED_SECONDS: Final = 60.0
"""Shortest time between two looks if the server refuses them."""

EARLIER_MS: Final = 1000
"""Time before a request at which the look begins, because clocks differ."""

PAGE_REPLIES: Final = 500
"""Most replies that one command asks for."""

PAGES_MAX: Final = 4
"""Most commands of one look."""

PAGE_BYTES: Final = 4 << 20
"""Most bytes that one command may bring if it asks for several replies."""

_Id = tuple[int, int]


class Strays:
    """Position up to which a shared stream was looked through.

    Args:
        stream: name of the shared stream.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._seen: _Id = (0, 0)
        self._count = PAGE_REPLIES
        self._not_before = 0.0

    def next_at(self, waiting_since: float) -> float:
        """Time at which to look for the reply to a request that was made at ``waiting_since``, in seconds."""
        return max(waiting_since + LOOK_AFTER_SECONDS, self._not_before)

    def rest(self, now: float, seconds: float = LOOK_SECONDS) -> None:
        """Look again only after so many seconds."""
        self._not_before = now + seconds

    def look(self, link: Link, since_ms: int) -> list[bytes]:
        """Return the payloads that arrived since that time, in Unix milliseconds. None of them is returned twice.

        Raises:
            Unavailable, ServerError: the stream cannot be read.
        """
        found: list[bytes] = []
        seen = max(self._seen, (since_ms, 0))
        start = after(_text(seen))
        if start is None:  # nothing comes after the last id
            return found
        try:
            last = self._page(link, "XREVRANGE", self._stream, "+", start, "COUNT", self._count)
            found += _payloads(last)
            newest = order(last[0][0]) if last else seen
            known_from = order(last[-1][0]) if len(last) == self._count else seen
            for _ in range(PAGES_MAX - 1):
                if seen >= known_from:
                    break
                read = self._page(link, "XREAD", "COUNT", self._count, "STREAMS", self._stream, _text(seen))
                if not read:  # all was deleted meanwhile
                    break
                page = read[0][1]
                found += _payloads(page)
                seen = order(page[-1][0])
            if seen >= known_from:
                seen = max(seen, newest)
            self._count = min(self._count * 2, PAGE_REPLIES)
        except ReplyTooLarge:
            self._count = max(self._count // 8, 1)
        self._seen = seen
        return found

    def _page(self, link: Link, *command: Any) -> Any:
        reply = link.call(*command) if self._count == 1 else link.call_bounded(PAGE_BYTES, *command)
        return reply or []


def _payloads(entries: Iterable[Any]) -> list[bytes]:
    payloads: list[bytes] = []
    for _, fields in entries:
        members = dict(zip(fields[::2], fields[1::2], strict=True))
        payloads += [members[b"payload"]] if b"payload" in members else []
    return payloads


def _text(entry_id: _Id) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"

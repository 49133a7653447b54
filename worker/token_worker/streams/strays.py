"""Replies that did not come where they were asked for, but on the response stream that all share.

Workers answer there with ``forbidden`` if their route does not allow the stream that a request names, or that stream
cannot take the reply. Somebody who reads a stream of his own looks there only for a request that has no reply yet, and
reads nothing twice: most looks are one command that finds nothing.

The reply is younger than the request, by the server's clock, whatever ids the request stream has. It mostly stands
right behind that time, so the look goes on from there; if the ids of the shared stream are ahead of the clock, it is
among the last. Each look is bounded in entries and bytes: on a busy stream it takes several to come to the end.
"""

from collections.abc import Iterable
from typing import Any, Final

from token_worker.errors import ReplyTooLarge
from token_worker.redis.link import Link
from token_worker.streams.stream_ids import after, order

LOOK_AFTER_SECONDS: Final = 0.1
"""How long a request may be without a reply before its reply is looked for: most are there by then."""

LOOK_SECONDS: Final = 0.5
"""Time between two looks, at least."""

REFUSED_SECONDS: Final = 60.0
"""The same where the server refuses the look."""

EARLIER_MS: Final = 1000
"""How long before a request, as far as clocks tell, its reply is looked for."""

PAGE: Final = 500
"""Replies that one command asks for, at most."""

PAGES: Final = 4
"""Commands of a look, at most."""

PAGE_BYTES: Final = 4 << 20
"""Most bytes of one of their replies, if it can bring several entries."""

_Id = tuple[int, int]


class Strays:
    """How far a shared stream was looked through.

    Args:
        stream: its name.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._seen: _Id = (0, 0)
        self._count = PAGE
        self._not_before = 0.0

    def next_at(self, waiting_since: float) -> float:
        """When to look for the reply to a request that was made then; seconds of one clock."""
        return max(waiting_since + LOOK_AFTER_SECONDS, self._not_before)

    def rest(self, now: float, seconds: float = LOOK_SECONDS) -> None:
        """Look again only after so many seconds."""
        self._not_before = now + seconds

    def look(self, link: Link, since_ms: int) -> list[bytes]:
        """Payloads that came on the stream since that time, Unix milliseconds; none that an earlier look gave.

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
            for _ in range(PAGES - 1):
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
            self._count = min(self._count * 2, PAGE)
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

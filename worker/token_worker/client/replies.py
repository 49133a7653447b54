"""Read replies from a stream of the client's own. Pure.

The first reply creates the stream, with a time to live. While the client reads the stream, it trims the entries that it
has read. After a pause in which the stream may have expired, the client takes a new name, because a new stream of the
same name may begin with lower ids.
"""

import secrets
from collections.abc import Iterable
from typing import Any, Final

from token_worker.streams.routes import Route, own_reply_stream

TRIM_SECONDS: Final = 10.0
"""Shortest time between two trims, or a third of the stream's time to live if that is shorter."""

READ_COUNT: Final = 1000
"""Most replies in one read."""


class Replies:
    """The stream that a client reads its replies from, and its position there.

    Args:
        route: the route of the requests.
        routes: all routes. Their streams cannot be a client's own stream.

    Raises:
        ValueError: the route does not allow a reply stream of the client's own.
    """

    def __init__(self, route: Route, routes: Iterable[Route]) -> None:
        self._route = route
        self._routes = tuple(routes)
        self._used_at: float | None = None
        self._trimmed_at = 0.0
        self._renew()

    def _renew(self) -> None:
        self.last_id: str | bytes = "0-0"
        """Id of the last entry that was read."""
        self.name = own_reply_stream(self._route, self._routes, f"client-{secrets.token_hex(8)}")
        """Name of the stream. Requests ask for their replies there."""

    def start(self, now: float) -> None:
        """Prepare for requests, after a time in which no call waited for a reply."""
        pause_seconds = self._route.response_seconds / 3
        if self._used_at is None or now - self._used_at > pause_seconds:
            self._renew()
            self._trimmed_at = now
        self._used_at = now

    def read_command(self, block_ms: int) -> tuple[Any, ...]:
        """Return the command that reads the next replies, or waits so long for one."""
        return ("XREAD", "COUNT", READ_COUNT, "BLOCK", block_ms, "STREAMS", self.name, self.last_id)

    def take(self, found: list[Any] | None, now: float) -> list[bytes]:
        """Return the payloads of the entries that were read."""
        payloads: list[bytes] = []
        for name, entries in found or ():
            if name.decode() != self.name:
                continue
            self._used_at = now
            self.last_id = entries[-1][0]
            for _, fields in entries:
                members = dict(zip(fields[::2], fields[1::2], strict=True))
                payloads += [members[b"payload"]] if b"payload" in members else []
        return payloads

    def trim_commands(self, now: float) -> list[tuple[Any, ...]]:
        """Return the commands that trim the stream and renew its time to live, if it is time for that."""
        seconds = self._route.response_seconds
        if now - self._trimmed_at < min(TRIM_SECONDS, seconds / 3):
            return []
        self._trimmed_at = now
        return [("XTRIM", self.name, "MINID", self.last_id), ("EXPIRE", self.name, seconds)]

    def removal_commands(self) -> list[tuple[Any, ...]]:
        """Return the command that removes the stream, if the client has used one."""
        return [("UNLINK", self.name)] if self._used_at is not None else []

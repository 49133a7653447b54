"""Read replies from a stream of the client's own, or from the response stream that all producers share. Pure.

The first reply creates the client's own stream, with a time to live. While the client reads the stream, it trims the
entries that it has read. After a pause in which the stream may have expired, the client takes a new name, because a new
stream of the same name may begin with lower ids.

The shared stream is read with plain XREAD, from the last id that it had before the first request was sent. A consumer
group would give each reply to only one of the readers.
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
        shared: read the response stream of the route.

    Raises:
        ValueError: the route does not allow a reply stream of the client's own.
    """

    def __init__(self, route: Route, routes: Iterable[Route], *, shared: bool) -> None:
        self._route = route
        self._routes = tuple(routes)
        self._is_shared = shared
        self._used_at: float | None = None
        self._trimmed_at = 0.0
        self._renew()

    def _renew(self) -> None:
        self.last_id: str | bytes | None = None if self._is_shared else "0-0"
        """Id of the last entry that was read. None: ``last_id_command`` has to be sent first."""
        self.name = self._route.responses
        if not self._is_shared:
            self.name = own_reply_stream(self._route, self._routes, f"client-{secrets.token_hex(8)}")

    @property
    def reply_to(self) -> str | None:
        """Value of ``reply_to`` in requests."""
        return None if self._is_shared else self.name

    def start(self, now: float) -> None:
        """Prepare for requests, after a time in which no call waited for a reply."""
        pause_seconds = self._route.response_seconds / 3
        if self._used_at is None or self._is_shared or now - self._used_at > pause_seconds:
            self._renew()
            self._trimmed_at = now
        self._used_at = now

    def last_id_command(self) -> tuple[Any, ...]:
        """Return the command that reads the last entry of the shared stream."""
        return ("XREVRANGE", self.name, "+", "-", "COUNT", 1)

    def take_last_id(self, found: list[Any]) -> None:
        """Take the answer to ``last_id_command``."""
        self.last_id = found[0][0] if found else "0-0"

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
        if self._is_shared or now - self._trimmed_at < min(TRIM_SECONDS, seconds / 3):
            return []
        self._trimmed_at = now
        return [("XTRIM", self.name, "MINID", self.last_id), ("EXPIRE", self.name, seconds)]

    def removal_commands(self) -> list[tuple[Any, ...]]:
        """Return the command that removes the stream, if the client has used its own one."""
        return [("UNLINK", self.name)] if self._used_at is not None and not self._is_shared else []

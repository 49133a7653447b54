"""Where replies are read: on a stream of the client's own, or on the one that all share. Pure.

An own stream is made by the first reply, with a time to live, and is kept short while it is read: what was read is
trimmed. After a rest in which it may have expired, another name is taken: a stream made anew may begin with lower ids.

The shared stream is read with plain XREAD from the last id it had before anything was sent. (A group would share its
entries out among readers.)
"""

import secrets
from collections.abc import Iterable
from typing import Any, Final

from token_worker.streams.routes import Route, own_reply_stream

TIDY_SECONDS: Final = 10.0
"""How often a stream is trimmed, at most; a third of its time to live where that is shorter."""

READ_COUNT: Final = 1000
"""Replies a read."""


class Replies:
    """The stream that a client reads its replies from, and how far it has.

    Args:
        route: whose replies.
        routes: all of them: their streams are none for a client alone.
        shared: read the stream that all share.

    Raises:
        ValueError: the route allows no stream for the reply.
    """

    def __init__(self, route: Route, routes: Iterable[Route], *, shared: bool) -> None:
        self._route = route
        self._routes = tuple(routes)
        self._is_shared = shared
        self._used_at: float | None = None
        self._tidied_at = 0.0
        self._renew()

    def _renew(self) -> None:
        self.last: str | bytes | None = None if self._is_shared else "0-0"
        """Id of the last entry that was read; None: it has to be asked for, by ``last_command``."""
        self.name = self._route.responses
        if not self._is_shared:
            self.name = own_reply_stream(self._route, self._routes, f"client-{secrets.token_hex(8)}")

    @property
    def reply_to(self) -> str | None:
        """What a request says about its reply."""
        return None if self._is_shared else self.name

    def start(self, now: float) -> None:
        """Requests are sent again, after a time in which none was waited for."""
        rest_seconds = self._route.response_seconds / 3
        if self._used_at is None or self._is_shared or now - self._used_at > rest_seconds:
            self._renew()
            self._tidied_at = now
        self._used_at = now

    def last_command(self) -> tuple[Any, ...]:
        """Asks for the last entry of the shared stream."""
        return ("XREVRANGE", self.name, "+", "-", "COUNT", 1)

    def take_last(self, found: list[Any]) -> None:
        """The answer to ``last_command``."""
        self.last = found[0][0] if found else "0-0"

    def read_command(self, block_ms: int) -> tuple[Any, ...]:
        """Reads on, and waits so long for something to read."""
        return ("XREAD", "COUNT", READ_COUNT, "BLOCK", block_ms, "STREAMS", self.name, self.last)

    def take(self, found: list[Any] | None, now: float) -> list[bytes]:
        """The payloads that a read gave."""
        payloads: list[bytes] = []
        for name, entries in found or ():
            if name.decode() != self.name:
                continue
            self._used_at = now
            self.last = entries[-1][0]
            for _, fields in entries:
                members = dict(zip(fields[::2], fields[1::2], strict=True))
                payloads += [members[b"payload"]] if b"payload" in members else []
        return payloads

    def tidy_commands(self, now: float) -> list[tuple[Any, ...]]:
        """What keeps the stream short, and there, if it is time for that."""
        seconds = self._route.response_seconds
        if self._is_shared or now - self._tidied_at < min(TIDY_SECONDS, seconds / 3):
            return []
        self._tidied_at = now
        return [("XTRIM", self.name, "MINID", self.last), ("EXPIRE", self.name, seconds)]

    def end_commands(self) -> list[tuple[Any, ...]]:
        """What takes the stream away, if one was used."""
        return [("UNLINK", self.name)] if self._used_at is not None and not self._is_shared else []

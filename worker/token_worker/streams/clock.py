"""The clock of the Redis that holds the streams. ``expires_at`` is Unix time by this clock, which both sides can ask.

The clocks of producers' and workers' hosts may be hours apart, so they are not used. The server is asked by ``TIME`` on
every new connection, and again after ``CLOCK_SECONDS``, because clocks are set. In between the monotonic clock of the
process counts on. The nodes of a cluster are assumed to agree: any of them is asked.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from token_worker.errors import ServerError
from token_worker.redis.link import Link

CLOCK_SECONDS: Final = 5.0
"""Time for which an answer counts. It takes so long to notice that the server's clock was set."""


class ServerClock:
    """The clock of a server.

    Args:
        monotonic: clock that counts between two answers, in seconds.

    Attributes:
        is_refused: whether the server refuses to tell its time, because a right is missing.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._bounds: tuple[float, float] | None = None
        """Least and most seconds to add to the monotonic clock. They differ by the time that the answer took."""
        self._connection = 0
        self._due = -math.inf
        self.is_refused = False

    def refresh(self, link: Link) -> None:
        """Ask the server if its last answer is too old, or came over another connection.

        Raises:
            Unavailable: the server is unavailable.
        """
        connection = link.connect()
        before = self._monotonic()
        if connection == self._connection and before < self._due:
            return
        try:
            seconds, micros = link.call("TIME")
        except ServerError:
            self._bounds = None
            self.is_refused, self._due = True, math.inf  # asked once a connection: servers log what they refuse
        else:
            self.is_refused, self._due = False, before + CLOCK_SECONDS
            unix = int(seconds) + int(micros) / 1_000_000
            self._bounds = unix - self._monotonic(), unix - before
        self._connection = connection

    def learn_from_id(self, entry_id: bytes, sent_at: float) -> None:
        """Learn the time from the id of an entry that was sent at ``sent_at``, if the server does not tell its time."""
        if self.is_refused:
            offset = int(entry_id.partition(b"-")[0]) / 1000 - sent_at
            self._bounds = offset, offset

    def now(self) -> float:
        """Unix seconds, never ahead of the server. Before the first answer, the clock of this host counts."""
        return time.time() if self._bounds is None else self._monotonic() + self._bounds[0]

    def unix_ms(self, at: float) -> int | None:
        """Unix milliseconds of a time ``at`` of the monotonic clock, never behind the server; None if not known."""
        return None if self._bounds is None else math.ceil((at + self._bounds[1]) * 1000)

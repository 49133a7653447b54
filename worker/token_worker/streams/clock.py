"""The clock of the Redis that holds the streams: ``expires_at`` is Unix time by that one, which both sides can ask.

The hosts of producers and workers have clocks of their own, which may be hours apart; none of them is looked at. The
server is asked by ``TIME`` on every new connection, and again after ``CLOCK_SECONDS``, since clocks are set. In between
the monotonic clock of the process counts on. The nodes of a cluster are taken to agree: any of them is asked.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from token_worker.errors import ServerError
from token_worker.redis.link import Link

CLOCK_SECONDS: Final = 5.0
"""How long an answer counts: so late is it known that the server's clock was set."""


class ServerClock:
    """What time it is for a server.

    Args:
        monotonic: seconds, of the clock that counts between two answers.

    Attributes:
        is_refused: the server does not tell its time: a right is missing.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._bounds: tuple[float, float] | None = None
        """Least and most that is to be added to the monotonic clock; the answer was on its way for the difference."""
        self._connection = 0
        self._due = -math.inf
        self.is_refused = False

    def refresh(self, link: Link) -> None:
        """Ask the server if its last answer is too old, or was that of another connection.

        Raises:
            Unavailable: the server is away.
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
        """The server gave this id to an entry that was sent then: the next best where it does not tell its time."""
        if self.is_refused:
            offset = int(entry_id.partition(b"-")[0]) / 1000 - sent_at
            self._bounds = offset, offset

    def now(self) -> float:
        """Unix seconds, and never ahead of the server; by the clock of this host while nothing is known."""
        return time.time() if self._bounds is None else self._monotonic() + self._bounds[0]

    def unix_ms(self, at: float) -> int | None:
        """The time ``at`` of the monotonic clock in Unix milliseconds, and never behind the server; None: not known."""
        return None if self._bounds is None else math.ceil((at + self._bounds[1]) * 1000)

"""Sources: what the page shows is read again and again, each kind of it by a thread of its own.

A server that is away, or hangs, holds up only its own source. What was read last stays, with its time.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from token_worker.errors import ServerError, TokenWorkerError, Unavailable

T = TypeVar("T")

AWAY_SECONDS = 1.0
"""Longest pause while a server is away: the page has to say soon that it is back."""

PAUSE_FACTOR = 2
"""A source rests for at least this many times as long as a read took, so that it does not load its server."""

OWN_ERROR = "an error of the monitor"
"""Beginning of the reason if the code of the monitor failed."""

_LOG: FilteringBoundLogger = structlog.get_logger("monitor")


class Trouble(NamedTuple):
    """The reason why a source cannot be read, and the time since then (Unix seconds)."""

    reason: str
    since: float


class Seen(NamedTuple, Generic[T]):
    """The last sight of a source.

    Attributes:
        value: what was read last; None if nothing was read yet.
        at: when, in Unix seconds.
        trouble: None if the last read succeeded.
    """

    value: T | None
    at: float
    trouble: Trouble | None


class Source(Generic[T]):
    """Reads something every few seconds in a thread.

    Args:
        name: for the thread and the log.
        read: reads it, or raises a ``TokenWorkerError``.
        interval_seconds: time from one read to the next.
        clock: Unix seconds.
    """

    def __init__(
        self, name: str, read: Callable[[], T], interval_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self._read = read
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._seen: Seen[T] = Seen(None, 0.0, None)
        self._is_away = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"monitor-{name}", daemon=True)

    @property
    def seen(self) -> Seen[T]:
        """The last sight."""
        return self._seen

    @property
    def is_alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more. Does not wait for a read that is under way."""
        self._ended.set()

    def look(self) -> None:
        """Read once."""
        self._is_away = False
        try:
            value = self._read()
        except Unavailable as error:
            self._is_away = True
            self._fail(error.reason)
        except ServerError as error:
            self._fail(error.code)
        except TokenWorkerError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - the page says so, and the next read may succeed
            _LOG.exception("the monitor failed to read", source=self.name)
            self._fail(f"{OWN_ERROR}: {type(error).__name__}")
        else:
            self._seen = Seen(value, self._clock(), None)

    def _fail(self, reason: str) -> None:
        seen = self._seen
        since = self._clock() if seen.trouble is None else seen.trouble.since
        self._seen = seen._replace(trouble=Trouble(reason, since))

    def _run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            began = time.monotonic()
            self.look()
            took = time.monotonic() - began
            pause = self._pause(took)

    def _pause(self, took_seconds: float) -> float:
        if self._is_away:
            return min(self._interval_seconds, AWAY_SECONDS)
        least = PAUSE_FACTOR * took_seconds if self._seen.trouble is None else AWAY_SECONDS
        return max(self._interval_seconds - took_seconds, least)

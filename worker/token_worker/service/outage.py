"""Waits of a worker while a server is unavailable, and the request to drain that ends them."""

import signal
from collections.abc import Callable
from types import FrameType

from token_worker.backoff import BackOffSeconds
from token_worker.errors import Unavailable
from token_worker.service.runtime import REAL, Runtime
from token_worker.telemetry.health import Health

BACK_OFF_SECONDS = BackOffSeconds(0.1, 5.0)
"""Waits while a server is unavailable. Each wait is up to one half shorter, at random."""

NAP_SECONDS = 0.1
"""Interval at which a wait checks that it is not over."""


class BackOff:
    """Waits that grow while a server is unavailable, and that end soon when the worker drains.

    Args:
        is_over: returns whether to wait no longer.
        health: told that the worker cannot work, and that the loop is alive.
        runtime: time, chance and log.
    """

    def __init__(self, is_over: Callable[[], bool], health: Health, runtime: Runtime = REAL) -> None:
        self._is_over = is_over
        self._health = health
        self._runtime = runtime
        self._failures = 0

    def wait(self, error: Unavailable, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Log which server is unavailable and why, then wait. ``meanwhile`` is called every ``NAP_SECONDS``."""
        runtime = self._runtime
        self._failures += 1
        seconds = BACK_OFF_SECONDS.after(self._failures) * runtime.uniform(0.5, 1)
        self._health.not_ready(str(error), error.server)
        runtime.log.warning(
            "server unavailable", server=error.server, reason=error.reason, retry_in_seconds=round(seconds, 2)
        )
        runtime.collect_garbage()  # errors refer to commands and to each other; an outage must not pile them up
        end = runtime.monotonic() + seconds
        while not self._is_over() and (left := end - runtime.monotonic()) > 0:
            self._health.heartbeat()
            meanwhile()
            runtime.sleep(min(left, NAP_SECONDS))

    def reset(self) -> None:
        """Note that all servers answered. The next wait is short again."""
        if self._failures:
            self._runtime.log.info("servers available again")
        self._health.ready()
        self._failures = 0


class Drain:
    """Request to drain. SIGTERM or SIGINT makes it; a second signal ends the process at once.

    Args:
        seconds: time for the entries in hand after the request.
        runtime: clock.
    """

    def __init__(self, seconds: float, runtime: Runtime = REAL) -> None:
        self._seconds = seconds
        self._runtime = runtime
        self._deadline: float | None = None

    def listen(self) -> None:
        """Handle the signals. Call this in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._deadline is not None:
            raise SystemExit(128 + number)
        self.ask()

    def ask(self) -> None:
        """Ask the worker to drain. The time for the entries in hand begins with the first request."""
        if self._deadline is None:
            self._deadline = self._runtime.monotonic() + self._seconds

    @property
    def is_asked(self) -> bool:
        """True if the worker is to read nothing new."""
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """True if the time for the entries in hand is over, too."""
        return self._deadline is not None and self._runtime.monotonic() >= self._deadline


class Outage:
    """Waits of one worker for unavailable servers.

    Attributes:
        drain: the request to drain. It ends all waits.
        idle: waits with nothing in hand. They end when the worker is asked to drain.
        in_hand: waits with entries in hand. They end when the time for these entries is over, too.
    """

    def __init__(self, drain: Drain, health: Health, runtime: Runtime = REAL) -> None:
        self.drain = drain
        self.idle = BackOff(lambda: drain.is_asked, health, runtime)
        self.in_hand = BackOff(lambda: drain.is_over, health, runtime)

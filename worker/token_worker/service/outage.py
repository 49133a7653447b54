"""Waits of a worker while a server is away, and the request to drain that ends them."""

import signal
from collections.abc import Callable
from types import FrameType

from token_worker.errors import Unavailable
from token_worker.service.runtime import REAL, Runtime
from token_worker.telemetry.health import Health

BACK_OFF_SECONDS = (0.1, 5.0)
"""Shortest and longest wait while a server is away; doubled each time, less up to half at random."""

NAP_SECONDS = 0.1
"""How often a wait looks whether to drain."""


class BackOff:
    """Waits that grow while a server is away, and end at once when the worker is to drain."""

    def __init__(self, is_over: Callable[[], bool], health: Health, runtime: Runtime = REAL) -> None:
        self._is_over = is_over
        self._health = health
        self._runtime = runtime
        self._seconds = BACK_OFF_SECONDS[0]

    def wait(self, error: Unavailable, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Say which server is away and why, then wait. ``meanwhile`` is called again and again as the wait goes on."""
        runtime = self._runtime
        seconds = self._seconds * runtime.uniform(0.5, 1)
        self._health.not_ready(str(error))
        runtime.log.warning(
            "server unavailable", server=error.server, reason=error.reason, retry_in_seconds=round(seconds, 2)
        )
        self._seconds = min(self._seconds * 2, BACK_OFF_SECONDS[1])
        runtime.collect_garbage()  # errors hold what they were about, and each other: an outage must not gather them
        end = runtime.monotonic() + seconds
        while not self._is_over() and (left := end - runtime.monotonic()) > 0:
            self._health.heartbeat()
            meanwhile()
            runtime.sleep(min(left, NAP_SECONDS))

    def reset(self) -> None:
        """All is well again."""
        if self._seconds != BACK_OFF_SECONDS[0]:
            self._runtime.log.info("servers available again")
        self._health.ready()
        self._seconds = BACK_OFF_SECONDS[0]


class Drain:
    """Asked for by SIGTERM or SIGINT; a second signal ends the process at once."""

    def __init__(self, seconds: float, runtime: Runtime = REAL) -> None:
        self._seconds = seconds
        self._runtime = runtime
        self._deadline: float | None = None

    def listen(self) -> None:
        """Take the signals over; only in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._deadline is not None:
            raise SystemExit(128 + number)
        self._deadline = self._runtime.monotonic() + self._seconds

    @property
    def is_asked(self) -> bool:
        """Whether to read nothing new any more."""
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """Whether the time for the batch in hand is over, too."""
        return self._deadline is not None and self._runtime.monotonic() >= self._deadline


class Outage:
    """How one worker waits for a server that is unavailable.

    Attributes:
        drain: the request to drain. It ends all waits.
        idle: waits with nothing in hand. They end when the worker is asked to drain.
        in_hand: waits with entries in hand. They end when the time for these entries is over, too.
    """

    def __init__(self, drain: Drain, health: Health, runtime: Runtime = REAL) -> None:
        self.drain = drain
        self.idle = BackOff(lambda: drain.is_asked, health, runtime)
        self.in_hand = BackOff(lambda: drain.is_over, health, runtime)

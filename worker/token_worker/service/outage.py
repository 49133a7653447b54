"""Waits of a worker while a server is unavailable, and the request to drain that ends them."""

import signal
from collections.abc import Callable
from types import FrameType

from token_worker.backoff import BackOffSeconds
from token_worker.errors import NoKeyOpens, Unavailable
from token_worker.service.runtime import REAL, Runtime
from token_worker.telemetry.health import Health

BACK_OFF_SECONDS = BackOffSeconds(0.1, 5.0)
"""Waits while a server is unavailable. Each wait is up to one half shorter, at random."""

LOG_AGAIN_SECONDS = 60.0
"""Interval at which a wait is logged again while its reason stays the same."""

NAP_SECONDS = 0.1
"""Interval at which a wait checks that it is not over."""


class BackOff:
    """Waits that grow while servers are unavailable, and that end soon when the worker drains.

    Args:
        is_over: returns whether to wait no longer.
        away: the servers that did not answer, with the last error of each. Shared by all waits of a worker.
        logged: the reason that was logged last for each of these servers, and when. Shared likewise.
        health: told that the worker cannot work, and that the loop is alive.
        runtime: time, chance and log.
    """

    def __init__(
        self,
        is_over: Callable[[], bool],
        away: dict[str, Unavailable],
        logged: dict[str, tuple[str, float]],
        health: Health,
        runtime: Runtime = REAL,
    ) -> None:
        self._is_over = is_over
        self._away = away
        self._logged = logged
        self._health = health
        self._runtime = runtime
        self.failures = 0

    def wait(
        self, error: Unavailable, meanwhile: Callable[[], object] = lambda: None, *, least_seconds: float = 0.0
    ) -> None:
        """Log which server is unavailable and why, then wait. ``meanwhile`` is called every ``NAP_SECONDS``.

        The same reason is logged at most once in ``LOG_AGAIN_SECONDS``.
        """
        runtime = self._runtime
        self._away[error.server] = error.with_traceback(None)
        self.failures += 1
        seconds = max(BACK_OFF_SECONDS.after(self.failures), least_seconds) * runtime.uniform(0.5, 1)
        self._health.not_ready(str(error), None if isinstance(error, NoKeyOpens) else error.server)
        self._log(error, round(seconds, 2))
        runtime.collect_garbage()  # errors refer to commands and to each other; an outage must not pile them up
        end = runtime.monotonic() + seconds
        while not self._is_over() and (left := end - runtime.monotonic()) > 0:
            self._health.heartbeat()
            meanwhile()
            runtime.sleep(min(left, NAP_SECONDS))

    def _log(self, error: Unavailable, pause_seconds: float) -> None:
        reason, now = str(error), self._runtime.monotonic()
        before, at = self._logged.get(error.server, ("", now))
        if reason == before and now - at < LOG_AGAIN_SECONDS:
            return
        self._logged[error.server] = reason, now
        log = self._runtime.log
        if isinstance(error, NoKeyOpens):
            log.error("not ready: no key opens", reason=reason, retry_in_seconds=pause_seconds)
        else:
            log.warning(
                "server unavailable",
                server=error.server,
                code=error.reason,
                reason=reason,
                retry_in_seconds=pause_seconds,
            )


class Drain:
    """Request to drain. SIGTERM or SIGINT makes it; a second signal ends the process at once.

    Args:
        seconds: time for the entries in hand after the request.
        runtime: clock.

    Attributes:
        is_asked: True if the worker is to read nothing new.
    """

    def __init__(self, seconds: float, runtime: Runtime = REAL) -> None:
        self._seconds = seconds
        self._runtime = runtime
        self._deadline: float | None = None
        self.is_asked = False

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
            self.is_asked = True

    @property
    def is_over(self) -> bool:
        """True if the time for the entries in hand is over, too."""
        return self._deadline is not None and self._runtime.monotonic() >= self._deadline


class Outage:
    """Waits of one worker for unavailable servers.

    Attributes:
        drain: the request to drain. It ends all waits.
        away: the servers that did not answer and have not answered since, with the last error of each.
        idle: waits with nothing in hand. They end when the worker is asked to drain.
        in_hand: waits with entries in hand. They end when the time for these entries is over, too.
    """

    def __init__(self, drain: Drain, health: Health, runtime: Runtime = REAL) -> None:
        self.drain = drain
        self._health = health
        self._log = runtime.log
        self.away: dict[str, Unavailable] = {}
        self._logged: dict[str, tuple[str, float]] = {}
        self._back: set[str] = set()
        self._is_started = False
        shared = self.away, self._logged, health, runtime
        self.idle = BackOff(lambda: drain.is_asked, *shared)
        self.in_hand = BackOff(lambda: drain.is_over, *shared)

    def returned(self, *servers: str) -> bool:
        """Note that these servers did what was asked of them. Returns True if no other one is away."""
        if self.away:
            back = [server for server in servers if self.away.pop(server, None) is not None]
            self._back.update(back)
            for server in back:
                self._logged.pop(server, None)
            if self.away:
                server, error = next(iter(self.away.items()))
                self._health.not_ready(str(error), server)
                return False
            self._log.info("servers available again", servers=sorted(self._back))
            self._back.clear()
            self.idle.failures = self.in_hand.failures = 0
        return True

    def answered(self, *servers: str) -> None:
        """Note that these servers did what was asked of them. The worker is ready if no other one is away."""
        if self.away:
            if not self.returned(*servers):
                return
        elif self._is_started:
            return
        if not self._is_started:
            self._is_started = True
            self._log.info("worker is ready")
        self._health.ready()

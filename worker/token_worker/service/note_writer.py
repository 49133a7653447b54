"""Writes a worker's notes about itself, see ``streams.worker_notes``. A failure is logged once, and stops nothing."""

import socket
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from token_worker import __version__
from token_worker.errors import TokenWorkerError
from token_worker.redis.exchange import Exchange
from token_worker.service.runtime import REAL, Runtime
from token_worker.streams.routes import Route
from token_worker.streams.worker_notes import NOTE_SECONDS, Refusals, WorkerNote, WorkerNotes
from token_worker.telemetry.health import Health

T = TypeVar("T")

Drive = Callable[[Exchange[Refusals]], Refusals]
"""Runs an exchange on the streams' server."""

SWEEP_SECONDS = 60.0
"""Interval at which a worker sweeps the notes of a route that it trims."""


class NoteWriter:
    """Writes the notes of one worker while it starts and works, and removes them when it stops.

    Args:
        notes: what to ask of the streams.
        routes: routes that the worker serves.
        health: knows whether the worker is ready.
        server_now: Unix seconds by the clock of the streams' server.
        runtime: time and log.

    Attributes:
        due: time of the monotonic clock from which on ``write`` writes.
    """

    def __init__(
        self,
        notes: WorkerNotes,
        routes: Sequence[Route],
        health: Health,
        server_now: Callable[[], float],
        runtime: Runtime = REAL,
    ) -> None:
        self._notes = notes
        self._routes = routes
        self._health = health
        self._server_now = server_now
        self._monotonic, self._log = runtime.monotonic, runtime.log
        self._host = socket.gethostname()
        self._began = self._monotonic()
        self.due = float("-inf")
        self._sweep_due: dict[Route, float] = {}
        self._is_written = False
        self._refused: set[str] = set()
        """The attempts that were refused the last time: to write, to sweep, or both."""

    def write(self, drive: Drive, resting: Collection[Route] = ()) -> None:
        """Write the notes if they are due. Routes that are resting are left out: their server is unavailable."""
        monotonic = self._monotonic()
        if monotonic < self.due:
            return
        self.due = monotonic + NOTE_SECONDS
        now, why = self._server_now(), self._health.why_not_ready
        started = round(now - (monotonic - self._began))
        note = WorkerNote(__version__, self._host, started, why is None, round(now), why)
        self._try("write", drive, self._notes.write(note, resting))
        if self._is_written and not self._sweep_due:
            # At the start, too: processes that only ever start must not leave more and more notes.
            self.sweep(drive, [route for route in self._routes if route not in resting])

    def sweep(self, drive: Drive, routes: Sequence[Route]) -> None:
        """Remove the notes of consumers that are gone, at most once in ``SWEEP_SECONDS`` for each route."""
        now = self._monotonic()
        due = [route for route in routes if now >= self._sweep_due.get(route, float("-inf"))]
        if due:
            self._sweep_due |= dict.fromkeys(due, now + SWEEP_SECONDS)
            self._try("sweep", drive, self._notes.sweep(due))

    def remove(self, drive: Drive, resting: Collection[Route] = ()) -> None:
        """Remove the worker's notes, because it stops."""
        if not self._is_written:
            return
        self._try("write", drive, self._notes.remove(resting))

    def _try(self, what: str, drive: Drive, exchange: Exchange[Refusals]) -> None:
        try:
            refused = drive(exchange)
            self._is_written = True
        except TokenWorkerError as error:
            refused = [(self._routes[0].requests, str(error))]
        if not refused:
            self._refused.discard(what)
            return
        if not self._refused:
            stream, reason = refused[0]
            self._log.warning(
                "notes of this worker could not be written", stream=stream, reason=reason, streams=len(refused)
            )
        self._refused.add(what)

"""Maintenance of the streams beside the work: trims them, and writes this worker's notes about itself.

At the end it removes this worker's consumer and its notes.
"""

from token_worker.errors import Unavailable
from token_worker.service.committer import Committer
from token_worker.service.note_writer import NoteWriter
from token_worker.service.runtime import REAL, Runtime
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.retention import AHEAD_MS, Retention, Trimmed

TRIM_SECONDS = 0.02
"""Longest time that streams are trimmed in a row. A batch of many entries takes longer."""

REST_RATIO = 4
"""Time for work after trimming, as a multiple of the time that the trimming took. So trimming takes at most a fifth. A
worker answers some 60,000 requests a second and trims twenty times as many."""

PAUSE_SECONDS = 5.0
"""Pause after the streams were unavailable. A wait for another server asks for trimming ten times a second."""


class Maintenance:
    """Trims streams and writes notes between batches. A failure is logged and never stops the work.

    Args:
        retention: knows how to trim.
        delivery: knows which routes are away.
        committer: asks the streams.
        runtime: time and log.
        notes: writes the worker's notes; None to write none.
    """

    def __init__(
        self,
        retention: Retention,
        delivery: DeliveryProtocol,
        committer: Committer,
        runtime: Runtime = REAL,
        notes: NoteWriter | None = None,
    ) -> None:
        self._retention = retention
        self._delivery = delivery
        self._committer = committer
        self._notes = notes
        self._monotonic, self._log = runtime.monotonic, runtime.log
        self._ids_ahead: set[str] = set()
        self._paused_until = float("-inf")

    def tend(self) -> None:
        """Trim the streams that are due, and write the notes. Much trimming takes turns with the work."""
        began = now = self._monotonic()
        if began < self._paused_until:
            return
        try:
            if self._retention.clears:
                self._log_trimmed(self._committer.drive(self._retention.clear(self._delivery.away)))
                now = self._monotonic()
            while self._retention.is_due(now):
                self._log_trimmed(self._committer.drive(self._retention.tend(self._delivery.away)))
                now = self._monotonic()
                if (spent := now - began) > TRIM_SECONDS:
                    self._retention.rest(began + (1 + REST_RATIO) * spent)
        except Unavailable as error:
            self._log.warning("trimming stopped: server unavailable", reason=str(error))
            self._paused_until = self._monotonic() + PAUSE_SECONDS
        else:
            if self._notes is not None and now >= self._notes.due:
                self.write_notes()

    def write_notes(self) -> None:
        """Write the notes if they are due."""
        if self._notes is not None:
            self._notes.write(self._committer.drive, self._delivery.away)

    def remove_notes(self) -> None:
        """Remove the notes, because the worker stops."""
        if self._notes is not None:
            self._notes.remove(self._committer.drive, self._delivery.away)

    def _log_trimmed(self, done: Trimmed) -> None:
        for stream, reason in done.refused:
            self._log.warning("streams of a route could not be trimmed", stream=stream, reason=reason)
        if done.given_up:
            self._log.warning("unread replies deleted: a consumer group stopped reading", groups=done.given_up)
        if done.deleted or done.consumers:
            self._log.debug("streams trimmed", entries=done.deleted, consumers=done.consumers)
        for stream, ahead_ms in done.ahead_ms.items():
            if ahead_ms > AHEAD_MS and stream not in self._ids_ahead:
                self._ids_ahead.add(stream)
                self._log.warning(
                    "stream ids are ahead of the server's clock: entries expire by arrival time",
                    stream=stream,
                    ahead_seconds=ahead_ms / 1000,
                )
            elif ahead_ms <= AHEAD_MS and stream in self._ids_ahead:
                self._ids_ahead.remove(stream)
                self._log.info("stream ids are no longer ahead of the server's clock", stream=stream)

    def remove_consumer(self) -> None:
        """Remove this worker's notes, and its consumer from the groups.

        The consumer stays where it holds entries: others take these over.
        """
        away = self._delivery.away
        self.remove_notes()
        try:
            self._committer.drive(self._delivery.uncount_tries())
            done = self._committer.drive(self._retention.leave(away))
        except Unavailable as error:
            self._log.warning("consumer was not removed", reason=str(error))
            return
        for stream, reason in [*done.refused, *((route.requests, reason) for route, reason in away.items())]:
            self._log.warning("consumer was not removed", stream=stream, reason=reason)

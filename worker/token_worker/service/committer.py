"""Ends the work on entries: writes replies and dead letters, or leaves entries pending.

``Committer`` owns the only connection to the streams' server, and the commit in flight on it. A commit is in flight
while its script was sent and its reply was not read: the worker handles its next batch meanwhile. The server answers
in order, so the reply to that script has to be read before anything else is asked. Every part of the worker asks the
streams through ``Committer.drive``, which finishes the commit in flight first. No other part has the connection.

Where few requests are in flight, a commit and the read of the next entries are sent together: ``commit_and_read``. To
send, to sleep and to be woken is most of what a small batch costs. The reply to the commit is taken first, and noted;
so only a commit that failed has to wait until the read is over, which is a second at most.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from token_worker.errors import Code, ServerError, Unavailable
from token_worker.redis.exchange import Exchange, drive, start, start_pair
from token_worker.redis.link import Link
from token_worker.service.outage import Outage
from token_worker.service.runtime import REAL, Runtime
from token_worker.streams.clock import ServerClock
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.entry import Answer, Batch, Committed, Entry
from token_worker.telemetry.telemetry import Telemetry
from token_worker.telemetry.trace_context import log_fields

EARLY_IN_A_ROW = 2
COMMITS_APART = 64
"""After so many reads in a row that came too early, so many batches are committed without a read. The same after a
commit that failed: the next one may fail, too, and would be done only after its read."""

T = TypeVar("T")


class _InFlightCommit(Struct, frozen=True, gc=False):
    """A commit whose first script was sent.

    Attributes:
        parts: the answers that it writes, grouped by the scripts that write them.
        taken_ns: time at which their batch was read, in Unix nanoseconds.
        exchange: the commit; the next thing that it is sent is the reply to the script.
    """

    parts: Sequence[Sequence[Answer]]
    taken_ns: int
    exchange: Exchange[Committed]


class Committer:
    """Commits answers, moves entries to the dead letters, and leaves entries pending.

    Args:
        link: connection to the streams' server. Nobody else may use it.
        delivery: knows how to commit.
        clock: clock of the streams' server.
        outage: waits while the streams are unavailable.
        telemetry: told what became of the answers.
        runtime: time and log.
    """

    def __init__(
        self,
        link: Link,
        delivery: DeliveryProtocol,
        clock: ServerClock,
        outage: Outage,
        telemetry: Telemetry,
        runtime: Runtime = REAL,
    ) -> None:
        self._link = link
        self._delivery = delivery
        self._clock = clock
        self._outage = outage
        self._metrics, self._spans = telemetry.metrics, telemetry.spans
        self._monotonic, self._log = runtime.monotonic, runtime.log
        self._in_flight: _InFlightCommit | None = None
        self._committed_on = 0
        """The connection of the last commit: its server knows the script, most likely."""
        self._early_in_a_row = 0
        """Reads in a row, each sent with a commit, that came too early."""
        self._apart_left = 0
        """Batches that are committed without a read, before one is committed with a read."""

    # -- asking the streams

    @property
    def is_in_flight(self) -> bool:
        """True if a commit was sent and is not finished."""
        return self._in_flight is not None

    def drive(self, exchange: Exchange[T]) -> T:
        """Finish the commit in flight, then run an exchange on the streams' server."""
        if self._in_flight is not None:
            self.finish()
        return drive(exchange, self._link, log=self._log)

    def refresh_clock(self) -> None:
        """Finish the commit in flight, then ask for the server's time if the last answer is too old.

        Raises:
            Unavailable: the server is unavailable.
        """
        if self._in_flight is not None:
            self.finish()
        self._clock.refresh(self._link)

    # -- replies

    def commit(self, parts: Sequence[Sequence[Answer]], taken_ns: int) -> None:
        """Acknowledge entries and write their replies, through outages of the streams. Arguments as of ``begin``."""
        if self._in_flight is not None:
            self.finish()
        self._finish(parts, taken_ns, self._delivery.commit(parts, self._monotonic()))

    def begin(self, parts: Sequence[Sequence[Answer]], taken_ns: int) -> None:
        """Finish the commit in flight, then send the first script of another one. ``finish`` does the rest.

        Args:
            parts: answers to commit, as ``DeliveryProtocol.parts`` groups them; not empty.
            taken_ns: time at which their batch was read, in Unix nanoseconds.
        """
        if self._in_flight is not None:
            self.finish()
        exchange = self._delivery.commit(parts, self._monotonic())
        start(exchange, self._link)
        self._in_flight = _InFlightCommit(parts, taken_ns, exchange)

    def finish(self) -> None:
        """Finish the commit in flight if there is one, through outages of the streams."""
        begun, self._in_flight = self._in_flight, None
        if begun is not None:
            self._finish(begun.parts, begun.taken_ns, begun.exchange, self._link.finish_script)

    def may_read_on(self, answers: Sequence[Answer]) -> bool:
        """Ask whether to use ``commit_and_read`` for these answers.

        Not if something is in flight, or if the server may not know the script. Not if one of several answers goes to a
        stream that its request named: the server may refuse the commit of all for that, and they would wait for the
        read. And not for a while after a commit that failed, or after reads that came too early. Those found entries at
        once, or fewer than the batch before had: then a read a moment later brings more.
        """
        link = self._link
        if not link.sends_pairs or self._in_flight is not None or link.connections != self._committed_on:
            return False
        if self._apart_left:
            self._apart_left -= 1
            return False
        return len(answers) == 1 or all(answer.reply_to is None for answer in answers)

    def commit_and_read(self, parts: Sequence[Sequence[Answer]], taken_ns: int, fetch: Exchange[Batch]) -> Batch:
        """Commit answers, and read the next entries by commands that are sent with the script.

        So a worker that waits for requests sends and sleeps less often. If the commit fails, it is done again after
        the read: no reply is written twice. Entries that have to stay pending are left after the read, too.

        Args:
            parts: one part, as of ``begin``.
            taken_ns: as of ``begin``.
            fetch: from ``DeliveryProtocol.fetch``, when ``reads_at_once`` was true.

        Raises:
            Unavailable: the read failed, and may have brought entries. The commit is done, or as by ``commit``.
        """
        commit = self._delivery.commit(parts, self._monotonic())
        start_pair(commit, fetch, self._link)
        done = self._finish_first(parts, taken_ns, commit)
        is_early = self._link.has_second
        if done is None or done.stuck:
            self._apart_left = COMMITS_APART
        try:
            batch = drive(fetch, self._link, receive=self._link.finish_second, log=self._log)
        except Unavailable:
            self._complete(done, parts, taken_ns)
            raise
        self._complete(done, parts, taken_ns)
        is_early = is_early or 0 < len(batch.entries) < len(parts[0])
        self._early_in_a_row = self._early_in_a_row + 1 if is_early else 0
        if self._early_in_a_row >= EARLY_IN_A_ROW:
            self._early_in_a_row, self._apart_left = 0, COMMITS_APART
        return batch

    def _finish_first(
        self, parts: Sequence[Sequence[Answer]], taken_ns: int, commit: Exchange[Committed]
    ) -> Committed | None:
        """Take the reply to the script of a pair. Return None if the commit is not done by that."""
        try:
            commit.send(self._link.finish_first())
        except StopIteration as end:
            done: Committed = end.value
            self._note_committed(parts[0], done, taken_ns)
            return done
        except (Unavailable, ServerError):
            pass
        return None

    def _complete(self, done: Committed | None, parts: Sequence[Sequence[Answer]], taken_ns: int) -> None:
        """Do after the read what is left of a commit that was sent with it."""
        if done is None:
            self.commit(parts, taken_ns)
        elif done.stuck:
            self._leave_stuck(done)

    def _finish(
        self,
        parts: Sequence[Sequence[Answer]],
        taken_ns: int,
        exchange: Exchange[Committed],
        receive: Callable[[], Any] | None = None,
    ) -> None:
        answers = parts[0] if len(parts) == 1 else [answer for part in parts for answer in part]
        begun_at = self._monotonic()
        done: Committed | None
        try:
            done = drive(exchange, self._link, receive=receive, log=self._log)
        except Unavailable as error:
            entries = [answer.entry for answer in answers]
            done = self._try_again(entries, lambda: self._delivery.commit(parts, self._monotonic()), begun_at, error)
        if done is not None:
            self._note_committed(answers, done, taken_ns)
            if done.stuck:
                self._leave_stuck(done)

    def _note_committed(self, answers: Sequence[Answer], done: Committed, taken_ns: int) -> None:
        self._committed_on = self._link.connections
        self._outage.answered("streams")
        self._metrics.committed(answers, done)
        if self._spans is not None:
            self._spans.answered(answers, done, taken_ns)
        if done.suppressed or done.forbidden:
            self._log.info(
                "some replies were suppressed or refused", suppressed=done.suppressed, forbidden=len(done.forbidden)
            )
        self._log.debug("batch answered", answers=len(answers), written=done.written)

    # -- dead letters

    def dead_letter(self, entry: Entry, reason: str, reply: Answer | None, taken_ns: int) -> None:
        """Move an entry to the dead letters, through outages of the streams; with a reply to its producer if given."""

        def attempt() -> Exchange[Committed]:
            return self._delivery.dead_letter(entry, reason, reply, self._monotonic())

        self.finish()
        if self._outage.drain.is_over:
            return
        begun_at = self._monotonic()
        done: Committed | None
        try:
            done = drive(attempt(), self._link, log=self._log)
        except Unavailable as error:
            done = self._try_again([entry], attempt, begun_at, error)
        if done is None:
            return
        if done.stuck:
            self._leave_stuck(done)
        if done.written:
            self.note_dead_letter(entry, reason)
            if self._spans is not None:
                self._spans.dead_lettered(entry, Code.INTERNAL.value if reply else reason, taken_ns)

    def note_dead_letter(self, entry: Entry, reason: str) -> None:
        """Count and log an entry that was moved to the dead letters."""
        self._metrics.dead_letter(reason)
        self._log.warning(
            "entry moved to the dead letters", reason=reason, deliveries=entry.deliveries, **log_fields(entry)
        )

    # -- entries that stay pending

    def leave_pending(self, entries: Sequence[Entry]) -> None:
        """Leave entries pending that failed for no fault of their own. They are tried again.

        This delivery of them is not counted as a try. If the streams are unavailable, it is uncounted later.
        """
        if not entries:
            return
        try:
            self.drive(self._delivery.put_off(entries, self._monotonic()))
        except Unavailable as error:
            self._log.warning(
                "tries of entries will be uncounted when the server is available",
                entries=len(entries),
                reason=str(error),
            )

    def _leave_stuck(self, done: Committed) -> None:
        """Leave entries pending if a stream of their route cannot be written."""
        for stream, reason in done.refused.items():
            self._log.error(
                "entries stay pending: a stream of their route cannot be written",
                stream=stream,
                reason=reason,
                entries=len(done.stuck),
            )
        self.leave_pending(done.stuck)

    def _try_again(
        self,
        entries: Sequence[Entry],
        again: Callable[[], Exchange[Committed]],
        begun_at: float,
        error: Unavailable,
    ) -> Committed | None:
        """Run an exchange again and again until the streams are available.

        Args:
            entries: the entries that it is about. They are left pending when the patience of the delivery is over.
            again: makes the next attempt.
            begun_at: time of the first attempt.
            error: why that one failed.

        Returns:
            What the exchange did; None if there was no time for it.
        """
        leave_at = begun_at + self._delivery.patience_seconds
        while True:
            if self._monotonic() > leave_at:
                self._log.warning(
                    "entries left pending for a retry", entries=len(entries), server=error.server, reason=str(error)
                )
                self.leave_pending(entries)
                return None
            self._outage.in_hand.wait(error)
            if self._outage.drain.is_over:
                return None
            try:
                return drive(again(), self._link, log=self._log)
            except Unavailable as raised:
                error = raised

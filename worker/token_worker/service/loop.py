"""The loop of one worker: fetch, handle, commit, until asked to drain. One thread.

While there is more to read than a batch takes, the next batch is read before a commit is sent, and handled while the
server is at that: see ``Worker._commit``. Before anything else is asked of the streams, that commit is settled.

What may happen between two of its steps, and what then:

- *streams away while fetching*: wait; entries that were delivered without our knowing are found as pending ones
  afterwards;
- *token storage away or full*: the entries in hand stay here, their lease is renewed, nothing new is read; one that
  was being tried alone is put off, uncounted;
- *keys away*: the entries that need them are put off, uncounted, and taken again in batches;
- *streams away while committing*: the same commit is sent again, and before all else; what it did is not done twice;
- *killed*: entries stay pending, another worker takes them over after ``claim_idle_ms``, and tries each alone;
- *a defect of ours*: the entries of the batch are tried alone, the one at fault ends as a dead letter.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from token_worker.contract.codec import items_at_most
from token_worker.errors import Code, ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript, drive
from token_worker.redis.link import Link
from token_worker.service.handler import Buried, Handler, Postponed
from token_worker.service.outage import BackOff, Drain
from token_worker.service.runtime import REAL, Runtime
from token_worker.settings.options import Settings
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.clock import ServerClock
from token_worker.streams.cluster_delivery import Deliveries
from token_worker.streams.delivery import (
    EXHAUSTED,
    Answer,
    Batch,
    Committed,
    Delivery,
    Entry,
)
from token_worker.streams.parts import split
from token_worker.streams.retention import AHEAD_MS, Retention, Trimmed
from token_worker.streams.routes import Route
from token_worker.telemetry.audit import Audit
from token_worker.telemetry.health import Health
from token_worker.telemetry.metrics import Metrics
from token_worker.telemetry.trace_context import names_of

if TYPE_CHECKING:
    from token_worker.telemetry.spans import Spans  # of the extra "otel"

BLOCK_MS = 1000
"""How long a read waits for new entries: below the socket's time-out, and soon enough to see a request to drain."""

UNIT_ITEMS = 2000
"""Items handled together; bounded before decoding, so that a batch of large requests is taken apart."""

UNIT_BYTES = 1 << 20
"""Payload bytes handled together: values, tokens, entries and replies take ten times as many while they are."""


TEND_SECONDS = 0.02
"""How long streams are trimmed in a row before work goes on: less than a batch of many entries takes."""

REST_RATIO = 4
"""How many times as long work goes on before there is more trimming: that takes a fifth of the time at most. A worker
answers some 60,000 requests a second and trims twenty times as many."""


T = TypeVar("T")


class Telemetry(NamedTuple):
    """What a worker tells the world."""

    metrics: Metrics
    health: Health
    audit: Audit
    spans: "Spans | None" = None


class _Sent(NamedTuple):
    """Answers whose commit is on its way, and when their batch was read."""

    answers: Sequence[Answer]
    taken_ns: int
    commit: Exchange[Committed]


class Worker:
    """One worker process."""

    def __init__(
        self,
        settings: Settings,
        streams: Link,
        delivery: Delivery | Deliveries,
        handler: Handler,
        tokens: TokenStorage,
        retention: Retention,
        drain: Drain,
        telemetry: Telemetry,
        clock: ServerClock,
        runtime: Runtime = REAL,
    ) -> None:
        self._monotonic, self._unix_ns, self._log = runtime.monotonic, runtime.unix_ns, runtime.log
        self._streams = streams
        self._clock = clock
        self._retention = retention
        self._metrics, self._health, self._audit, self._spans = telemetry
        self._delivery = delivery
        self._handler = handler
        self._tokens = tokens
        self._drain = drain
        self._lease_seconds = settings.claim_idle_ms / 3000
        self._idle = BackOff(lambda: drain.is_asked, self._health, runtime)
        self._in_hand = BackOff(lambda: drain.is_over, self._health, runtime)
        self._groups_made_again = 0
        self._paused: set[Route] = set()
        self._away: set[Route] = set()
        self._ids_ahead: set[str] = set()
        self._ahead: Batch | None = None
        self._sent: _Sent | None = None
        self._taken_ns = 0

    def run(self) -> None:
        """Serve until asked to drain; then what is in hand is finished if there is time."""
        while self._ahead is not None or not self._drain.is_asked:
            batch, self._ahead = self._ahead or self._fetch(), None
            if batch is None:
                continue
            self._health.turn(in_batch=True)
            leased_at = self._monotonic()
            alone, more, units = batch.alone, batch.more, deque(_units(batch.entries))
            del batch  # payloads go as they are answered, not with the next read
            while units:
                if self._monotonic() - leased_at > self._lease_seconds:
                    leased_at = self._monotonic()
                    units = deque(_units(self._renew([entry for unit in units for entry in unit])))
                    continue
                unit = units.popleft()
                self._answer(unit, alone=alone, more=more and not units)
            self._health.turn()
            if self._sent is None:
                self._tend()
        self._settle()
        self._health.not_ready("drained")
        self._leave()
        self._log.info("drained")

    def _fetch(self) -> Batch | None:
        self._settle()  # else its entries would be found as pending ones
        now = self._monotonic()
        self._health.turn()
        try:
            if self._delivery.has_older(now):
                self._tokens.ping()  # a try that counts begins only when the token storage is there
            self._clock.refresh(self._streams)
            batch = drive(self._delivery.fetch(now, BLOCK_MS), self._streams, log=self._log)
        except Unavailable as error:
            self._wait(self._idle, error)
            return None
        if self._groups_made_again != self._delivery.groups_made_again:
            self._groups_made_again = self._delivery.groups_made_again
            self._metrics.group_made_again()
            self._log.warning("missing consumer groups were created again", times=self._groups_made_again)
        self._tell_who_rests()
        self._idle.reset()
        if batch.alone:
            self._metrics.redelivery(batch.entries[0].route.requests)
        return self._taken(batch)

    def _fetch_ahead(self) -> Batch | None:
        """New entries, if nothing else is due and there are any now."""
        now = self._monotonic()
        if self._drain.is_asked or self._delivery.has_older(now):
            return None
        try:
            self._clock.refresh(self._streams)
            batch = drive(self._delivery.fetch(now, 0), self._streams, log=self._log)
        except Unavailable:
            return None  # the next ``_fetch`` looks for what it may have brought
        return self._taken(batch) if batch.entries else None

    def _taken(self, batch: Batch) -> Batch:
        if self._spans is not None:
            self._taken_ns = self._unix_ns()
        if batch.entries:
            self._metrics.batch(len(batch.entries))
        return batch

    def _tell_who_rests(self) -> None:
        away = self._delivery.away
        paused = set(self._delivery.paused) - away.keys()
        for route in paused - self._paused:
            self._log.error("route paused: one of its streams cannot be used", stream=route.requests)
        for route in away.keys() - self._away:
            self._log.error("route paused: its server is unavailable", stream=route.requests, reason=away[route])
        for route in self._away - away.keys():
            self._log.info("route resumed: its server is available again", stream=route.requests)
        self._paused, self._away = paused, set(away)

    def _answer(self, entries: list[Entry], *, alone: bool, more: bool) -> None:
        """Handle entries and commit their replies, through outages of the token storage."""
        renewed_at = self._monotonic()
        while entries and not self._drain.is_over:
            try:
                if alone and entries[0].exhausted:
                    internal = self._handler.internal(entries[0])
                    self._audit.detokenize([internal])
                    self._bury(entries[0], EXHAUSTED, internal if internal.payload else None)
                    return
                results = self._handler.handle(entries)
                answers = [result for result in results if isinstance(result, Answer)]
                self._audit.detokenize(answers)
            except Unavailable as error:
                if alone:
                    self._give_back(entries)
                    self._wait(self._idle, error)
                    return
                self._settle()
                self._wait(self._in_hand, error)
                if self._monotonic() - renewed_at > self._lease_seconds:
                    renewed_at = self._monotonic()
                    entries = self._renew(entries)
            except Exception:  # noqa: BLE001 - a defect of ours must not stop the others: each entry is tried alone next
                names = names_of(entries[0]) if alone else {}
                self._log.exception("batch failed", entries=len(entries), alone=alone, **names)
                self._delivery.suspect(entries, self._monotonic())
                return
            else:
                self._in_hand.reset()
                self._commit(answers, more=more and len(answers) == len(results))
                self._postpone([result for result in results if isinstance(result, Postponed)])
                for result in results:
                    if isinstance(result, Buried):
                        self._bury(result.entry, result.reason, None)
                return
        self._give_back(entries)  # there is no time left for them

    def _commit(self, answers: Sequence[Answer], *, more: bool) -> None:
        """Commit answers. With ``more``, and if there is a batch to handle meanwhile, the last script is only sent.

        That batch is read before: the server would keep a read waiting until it is through with the script.
        """
        if not answers:
            return
        self._settle()
        taken_ns = self._taken_ns
        if more:
            *parts, answers = self._delivery.parts(answers)
            for part in parts:
                self._send(part, taken_ns)
                self._settle()
            self._tend()
            self._ahead = self._fetch_ahead()
        self._send(answers, taken_ns)
        if self._ahead is None:
            self._settle()

    def _send(self, answers: Sequence[Answer], taken_ns: int) -> None:
        """Send the first script of their commit."""
        commit = self._delivery.commit(answers, self._monotonic())
        self._streams.begin(*cast(RunScript, next(commit)))
        self._sent = _Sent(answers, taken_ns, commit)

    def _settle(self) -> None:
        """Finish the commit that is on its way, if there is one, through outages of the streams."""
        if self._sent is None:
            return
        (answers, taken_ns, commit), self._sent = self._sent, None
        is_begun = True
        leave_at = self._monotonic() + self._delivery.patience_seconds
        while True:
            try:
                done = drive(commit, self._streams, is_begun=is_begun, log=self._log)
                break
            except Unavailable as error:
                if self._monotonic() > leave_at:
                    self._put_off([answer.entry for answer in answers], error)
                    return
                self._in_hand.wait(error)
                if self._drain.is_over:
                    return
                commit, is_begun = self._delivery.commit(answers, self._monotonic()), False
        self._in_hand.reset()
        self._metrics.committed(answers, done)
        if self._spans is not None:
            self._spans.answered(answers, done, taken_ns)
        if done.suppressed or done.forbidden:
            self._log.info(
                "some replies were suppressed or refused", suppressed=done.suppressed, forbidden=len(done.forbidden)
            )
        if done.stuck:
            self._stuck(done)
        self._log.debug("batch answered", answers=len(answers), written=done.written)

    def _bury(self, entry: Entry, reason: str, reply: Answer | None) -> None:
        leave_at = self._monotonic() + self._delivery.patience_seconds
        while not self._drain.is_over:
            try:
                done = self._perform(self._delivery.bury(entry, reason, reply, self._monotonic()))
            except Unavailable as error:
                if self._monotonic() < leave_at:
                    self._in_hand.wait(error)
                    continue
                self._put_off([entry], error)
                return
            if done.stuck:
                self._stuck(done)
            elif done.written:
                self._metrics.dead_letter(reason)
                self._log.warning(
                    "entry moved to the dead letters", reason=reason, deliveries=entry.deliveries, **names_of(entry)
                )
                if self._spans is not None:
                    self._spans.buried(entry, Code.INTERNAL.value if reply else reason, self._taken_ns)
            return

    def _put_off(self, entries: Sequence[Entry], error: Unavailable) -> None:
        """Leave entries that cannot be answered now for later, so that other slots have their turn."""
        self._log.warning(
            "entries left pending for a retry", entries=len(entries), server=error.server, reason=error.reason
        )
        self._give_back(entries)

    def _stuck(self, done: Committed) -> None:
        """Leave entries pending since a stream of their route cannot take what is to be written there."""
        for stream, reason in done.refused.items():
            self._log.error(
                "entries stay pending: a stream of their route cannot be written",
                stream=stream,
                reason=reason,
                entries=len(done.stuck),
            )
        self._give_back(done.stuck)

    def _postpone(self, postponed: Sequence[Postponed]) -> None:
        for entry, why in postponed:
            self._log.debug("entry waits for a key", server=why.server, reason=why.reason, **names_of(entry))
        self._give_back([entry for entry, _ in postponed])

    def _give_back(self, entries: Sequence[Entry]) -> None:
        """They failed for no fault of their own: this delivery of them is not counted, and they are tried again."""
        if not entries:
            return
        try:
            self._perform(self._delivery.put_off(entries, self._monotonic()))
        except Unavailable as error:
            self._log.warning(
                "entries will be given back when the server is available", entries=len(entries), reason=error.reason
            )

    def _wait(self, back_off: BackOff, error: Unavailable) -> None:
        """Wait for a server that is away. The streams are trimmed meanwhile, unless that server holds them."""
        if error.server == "streams":
            back_off.wait(error)
        else:
            back_off.wait(error, self._tend)

    def _tend(self) -> None:
        """Trim the streams where it is time to; failing at that never stops the work, and it takes turns with that."""
        away = self._delivery.away
        began = self._monotonic()
        try:
            self._tell_trimmed(drive(self._retention.clear(away), self._streams))
            while self._retention.is_due(now := self._monotonic()):
                self._tell_trimmed(drive(self._retention.tend(away), self._streams))
                if (spent := self._monotonic() - began) > TEND_SECONDS:
                    self._retention.rest(now + (1 + REST_RATIO) * spent)
        except Unavailable as error:
            self._log.warning("trimming stopped: server unavailable", reason=str(error))

    def _tell_trimmed(self, done: Trimmed) -> None:
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

    def _leave(self) -> None:
        """Take this worker's consumer out of the groups; one that still holds entries stays, they are taken over."""
        away = self._delivery.away
        try:
            drive(self._delivery.settle(), self._streams)
            done = drive(self._retention.leave(away), self._streams)
        except Unavailable as error:
            self._log.warning("consumer was not removed", reason=str(error))
            return
        for stream, reason in [*done.refused, *((route.requests, reason) for route, reason in away.items())]:
            self._log.warning("consumer was not removed", stream=stream, reason=reason)

    def _renew(self, entries: list[Entry]) -> list[Entry]:
        """The entries that are still ours; all of them where that cannot be known now."""
        try:
            return self._perform(self._delivery.renew(entries))
        except (Unavailable, ServerError):
            return entries

    def _perform(self, protocol: Exchange[T]) -> T:
        self._settle()
        return drive(protocol, self._streams)


def _units(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Parts of a batch, each bounded in bytes and items, but of one entry at least."""
    payloads = [entry.fields.get(b"payload", b"") for entry in entries]
    return split(entries, [*map(items_at_most, payloads)], [*map(len, payloads)], UNIT_ITEMS, UNIT_BYTES)

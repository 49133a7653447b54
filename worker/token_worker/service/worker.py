"""The loop of one worker: fetch a batch, handle it, commit the replies, until asked to drain. One thread.

While there is more to read than a full batch, the next batch is read before a commit is sent. That batch is handled
while the server runs the commit, see ``Worker._commit``. ``Committer`` finishes the commit before anything else is
asked of the streams. After a small batch the next read is sent with the commit, see ``Worker._commit_and_read``.

What can happen between two steps, and what the worker does then:

- *Streams unavailable while fetching*: it waits. Entries that were delivered without its knowledge are found as
  pending entries afterwards.
- *Token storage unavailable or full*: the entries in hand stay here and their lease is renewed. Nothing new is read.
  An isolated entry is left pending, and its try is not counted.
- *Keys unavailable*: the entries that need them are left pending, not counted, and taken again in batches.
- *Streams unavailable while committing*: the same commit is sent again, before all else. What was done is not done
  twice.
- *Worker killed*: its entries stay pending. Another worker takes them over after ``claim_idle_ms``, each isolated.
- *Defect in our code*: the entries of the batch are tried again, each isolated. The one at fault becomes a dead
  letter.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from token_worker.chunks import bounded_chunks
from token_worker.contract.codec import items_at_most
from token_worker.errors import ServerError, Unavailable
from token_worker.service.committer import Committer
from token_worker.service.handler import Handler
from token_worker.service.maintenance import Maintenance
from token_worker.service.outage import BackOff, Outage
from token_worker.service.replies import DeadLettered, Postponed, Result
from token_worker.service.runtime import REAL, Runtime
from token_worker.settings.options import Settings
from token_worker.storage.token_store import TokenStore
from token_worker.streams.delivery import EXHAUSTED
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.entry import Answer, Batch, Entry
from token_worker.streams.routes import Route
from token_worker.telemetry.telemetry import Telemetry
from token_worker.telemetry.trace_context import log_fields

BLOCK_MS = 1000
"""Longest wait of a read for new entries: less than the time-out of the socket, and short enough to drain soon."""

UNIT_ITEMS = 2000
"""Items handled together. They are counted before decoding, so that a batch of large requests is taken apart."""

UNIT_BYTES = 1 << 20
"""Payload bytes handled together. Values, tokens, entries and replies take ten times as much memory meanwhile."""


class Worker:
    """One worker process.

    Args:
        settings: ``claim_idle_ms`` is used here.
        delivery: says what to ask of the streams.
        handler: makes answers of entries.
        tokens: token storage.
        committer: asks the streams, and commits the answers.
        maintenance: trims the streams.
        outage: waits while a server is unavailable.
        telemetry: told what the worker does.
        runtime: time and log.
    """

    def __init__(
        self,
        settings: Settings,
        delivery: DeliveryProtocol,
        handler: Handler,
        tokens: TokenStore,
        committer: Committer,
        maintenance: Maintenance,
        outage: Outage,
        telemetry: Telemetry,
        runtime: Runtime = REAL,
    ) -> None:
        self._delivery = delivery
        self._handler = handler
        self._tokens = tokens
        self._committer = committer
        self._maintenance = maintenance
        self._outage = outage
        self._metrics, self._health, self._audit, self._spans = telemetry
        self._monotonic, self._unix_ns, self._log = runtime.monotonic, runtime.unix_ns, runtime.log
        self._lease_seconds = settings.claim_idle_ms / 3000
        self._groups_made_again = 0
        self._paused: set[Route] = set()
        self._away: set[Route] = set()
        self._prefetched: Batch | None = None
        self._taken_ns = 0

    def run(self) -> None:
        """Serve until asked to drain. Then finish what is in hand if there is time."""
        while self._prefetched is not None or not self._outage.drain.is_asked:
            batch, self._prefetched = self._prefetched or self._fetch(), None
            if batch is None:
                continue
            self._health.heartbeat(in_batch=True)
            leased_at = self._monotonic()
            isolated, more, units = batch.isolated, batch.more, deque(_units(batch.entries))
            del batch  # payloads are freed as they are answered, not with the next read
            while units:
                unit = units.popleft()
                self._answer(unit, isolated=isolated, more=more and not units, last=not units)
                if units and self._monotonic() - leased_at > self._lease_seconds:
                    leased_at = self._monotonic()
                    units = deque(_units(self._renew([entry for unit in units for entry in unit])))
            if not self._committer.is_in_flight:
                self._maintenance.tend()
        self._committer.finish()
        self._health.not_ready("drained")
        self._maintenance.remove_consumer()
        self._log.info("drained")

    @property
    def has_routes_away(self) -> bool:
        """True if the servers of some routes are unavailable, while those of others are not. Any thread may ask."""
        return bool(self._away)

    # -- reading

    def _fetch(self) -> Batch | None:
        """Wait for a batch; None if a server is unavailable."""
        self._committer.finish()  # else its entries would be found as pending entries
        now = self._monotonic()
        self._health.heartbeat()
        try:
            if is_back := "tokens" in self._outage.away:
                self._tokens.probe()
            elif self._delivery.has_older(now):
                self._tokens.ping()  # a try that counts begins only while the token storage is available
            self._committer.refresh_clock()
            batch = self._committer.drive(self._delivery.fetch(now, BLOCK_MS))
        except Unavailable as error:
            self._wait(self._outage.idle, error)
            return None
        if self._groups_made_again != self._delivery.groups_made_again:
            self._groups_made_again = self._delivery.groups_made_again
            self._metrics.group_made_again()
            self._log.warning("missing consumer groups were created again", times=self._groups_made_again)
        paused = self._delivery.paused
        if paused or self._paused or self._away:
            self._log_paused_routes(paused)
        self._outage.answered("streams", *(("tokens",) if is_back else ()))
        if batch.isolated:
            self._metrics.redelivery(batch.entries[0].route.requests)
        return self._taken(batch)

    def _prefetch(self) -> Batch | None:
        """Read new entries without waiting; None if there are none, or if older entries are due."""
        now = self._monotonic()
        if self._outage.drain.is_asked or self._delivery.has_older(now):
            return None
        try:
            self._committer.refresh_clock()
            batch = self._committer.drive(self._delivery.fetch(now, 0))
        except Unavailable:
            return None  # the next ``_fetch`` looks for entries that this read may have brought
        return self._taken(batch) if batch.entries else None

    def _taken(self, batch: Batch) -> Batch:
        if self._spans is not None:
            self._taken_ns = self._unix_ns()
        if batch.entries:
            self._metrics.batch(len(batch.entries))
        return batch

    def _log_paused_routes(self, all_paused: Iterable[Route]) -> None:
        """Log routes that are paused or resumed since the last call."""
        away = self._delivery.away
        paused = set(all_paused) - away.keys()
        for route in paused - self._paused:
            self._log.error("route paused: one of its streams cannot be used", stream=route.requests)
        for route in away.keys() - self._away:
            self._log.error("route paused: its server is unavailable", stream=route.requests, reason=away[route])
        for route in self._away - away.keys():
            self._log.info("route resumed: its server is available again", stream=route.requests)
        self._paused, self._away = paused, set(away)

    # -- answering

    def _answer(self, entries: list[Entry], *, isolated: bool, more: bool, last: bool) -> None:
        """Handle entries and commit their replies, through outages of the token storage.

        Args:
            entries: what to answer.
            isolated: whether this is one entry that is tried by itself, since an earlier try of it failed.
            more: whether there may be more to read once these entries are answered.
            last: whether these are the last entries of their batch.
        """
        renewed_at = self._monotonic()
        failed: set[str] = set()
        while entries and not self._outage.drain.is_over:
            try:
                if isolated and entries[0].exhausted:
                    self._give_up(entries[0])
                    return
                results = self._handler.handle(entries)
                answers = [result for result in results if isinstance(result, Answer)]
                self._audit.detokenize(answers)
            except Unavailable as error:
                failed.add(error.server)
                if isolated:
                    self._committer.leave_pending(entries)
                    self._wait(self._outage.idle, error)
                    return
                self._committer.finish()  # the replies of the batch before do not wait for this server
                self._wait(self._outage.in_hand, error)
                if self._monotonic() - renewed_at > self._lease_seconds:
                    renewed_at = self._monotonic()
                    entries = self._renew(entries)
            except Exception:  # noqa: BLE001 - a defect must not stop the other entries: each is isolated next
                names = log_fields(entries[0]) if isolated else {}
                self._log.exception("batch failed", entries=len(entries), isolated=isolated, **names)
                self._delivery.suspect(entries, self._monotonic())
                return
            else:
                if "audit" in self._outage.away and any(answer.facts.op == "detokenize" for answer in answers):
                    failed.add("audit")
                if failed:
                    self._outage.answered(*failed)
                are_all = len(answers) == len(results)
                self._commit(answers, more=more and are_all, last=last and are_all)
                if not are_all:
                    self._end_unanswered(results)
                return
        self._committer.leave_pending(entries)  # there is no time left for them

    def _end_unanswered(self, results: Sequence[Result]) -> None:
        """Leave the entries pending that wait for a key, and move those that cannot be answered to the dead letters."""
        postponed = [result for result in results if isinstance(result, Postponed)]
        for entry, why in postponed:
            self._log.debug("entry waits for a key", server=why.server, reason=str(why), **log_fields(entry))
        self._committer.leave_pending([entry for entry, _ in postponed])
        for result in results:
            if isinstance(result, DeadLettered):
                self._committer.dead_letter(result.entry, result.reason, None, self._taken_ns)

    def _give_up(self, entry: Entry) -> None:
        """Move an entry to the dead letters after its last try. Its producer gets ``internal``."""
        internal = self._handler.internal(entry)
        self._audit.detokenize([internal])
        self._committer.dead_letter(entry, EXHAUSTED, internal if internal.payload else None, self._taken_ns)

    def _commit(self, answers: Sequence[Answer], *, more: bool, last: bool) -> None:
        """Commit answers. With ``more``, and if there is a batch to handle meanwhile, the last script is only sent.

        The next batch is read before the script is sent, because the server would block that read until the script
        ends. With ``last``, nothing else is in hand, so that a read may wait.
        """
        if not answers:
            return
        self._committer.finish()
        taken_ns, parts = self._taken_ns, self._delivery.parts(answers)
        if last and not more and len(parts) == 1 and self._commit_and_read(parts):
            return
        if more:
            *others, final = parts
            for part in others:
                self._committer.commit([part], taken_ns)
            self._maintenance.tend()
            self._prefetched, parts = self._prefetch(), [final]
        if self._prefetched is None:
            self._committer.commit(parts, taken_ns)
        else:
            self._committer.begin(parts, taken_ns)

    def _commit_and_read(self, parts: Sequence[Sequence[Answer]]) -> bool:
        """Commit answers and read the next entries by one write. Return False, with nothing done, if that cannot be.

        Where few requests are in flight, each batch takes a round trip less.
        """
        now = self._monotonic()
        if self._outage.drain.is_asked or self._outage.away or not self._delivery.reads_at_once(now, len(parts[0])):
            return False
        try:
            self._committer.refresh_clock()
        except Unavailable:
            return False  # the commit finds out, too
        if not self._committer.may_read_on(parts[0]):
            return False
        self._health.heartbeat()
        fetch = self._delivery.fetch(now, BLOCK_MS, with_commit=True)
        try:
            batch = self._committer.commit_and_read(parts, self._taken_ns, fetch)
        except Unavailable:
            return True  # as by ``_prefetch``
        if batch.entries:
            self._prefetched = self._taken(batch)
        return True

    # -- outages

    def _wait(self, back_off: BackOff, error: Unavailable) -> None:
        """Wait for an unavailable server. The streams are trimmed meanwhile, unless their server is the one."""
        if error.server == "streams":
            back_off.wait(error)
        else:
            back_off.wait(error, self._maintenance.tend)

    def _renew(self, entries: list[Entry]) -> list[Entry]:
        """Renew the lease of entries, and return those that are still ours; all of them if the streams do not tell."""
        try:
            return self._committer.drive(self._delivery.renew(entries))
        except (Unavailable, ServerError):
            return entries


def _units(entries: list[Entry]) -> Iterable[list[Entry]]:
    """Split a batch into units that are bounded in bytes and items; each has at least one entry."""
    if len(entries) == 1:
        return (entries,)
    payloads = [entry.payload or b"" for entry in entries]
    joined = b"".join(payloads)
    if len(joined) <= UNIT_BYTES and len(entries) + joined.count(b"{") <= UNIT_ITEMS and b"items" not in joined:
        return (entries,)  # of JSON, each item has a brace; of MessagePack, each request has one item
    counts, sizes = [*map(items_at_most, payloads)], [*map(len, payloads)]
    return bounded_chunks(entries, counts, sizes, max_count=UNIT_ITEMS, max_size=UNIT_BYTES)

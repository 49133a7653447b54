"""The delivery protocol of one worker, sans-IO: see ``redis.exchange``.

Entries come to a worker in three ways:

- *New* entries are read by ``XREADGROUP … >``, many at a time, bounded in number and bytes over all routes. Redis
  answers a read that waits as soon as the first entry is there, though many more may come with it. So where such a read
  brings much less than the last batch had, all routes are read once more, without waiting. A read that is sent with the
  commit of several entries has two parts, so that it mostly brings all at once: see ``reads.read_with_commit``.
- Entries that were *put off* (a key or a server that they need was unavailable), or that the worker never saw (the
  reply to a read was lost), do not count as delivered. They are claimed many at a time, bounded like new entries. So a
  backlog that had to wait drains as fast as a new one.
- Entries that were *delivered before* (to a worker that died, or in a batch that failed) are isolated: each is claimed
  and tried by itself. Only this ``XCLAIM`` counts as a try. After ``max_deliveries`` tries an entry goes to the
  dead-letter stream.

Put-off entries and delivered entries are found by ``XPENDING``, which counts nothing. They differ in the delivery
count that the server keeps: it is 0 after a delivery was uncounted. A claim is conditional on the idle time that was
seen, so one of several workers gets the entry. Deliveries that must not count are uncounted before the next claim, see
``uncounted``.

Memory: entries are asked for by number, and Redis does not tell their size beforehand. After large entries COUNT is
small. After small ones it is larger than what came at once, so that whatever waits comes as one batch. If large entries
follow, the read is aborted at ``READ_BYTES``. Its entries are then pending here, and are claimed, one at first. So a
batch is at most ``BATCH_BYTES`` plus ``READ_BYTES`` of requests, or one entry of any size. The server knows no such
bound: it has made the whole reply by then, up to COUNT requests.

Redis counts a delivery for all entries of a batch alike, so a batch says nothing about one entry. Isolated tries do.

Touches: the request streams and their group, the dead-letter, response and reply streams.
"""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.redis.exchange import BoundedCommand, Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.commit import CommitScripts
from token_worker.streams.entry import Batch, Entry
from token_worker.streams.pending import OWN_AT_ONCE, Candidate, Pending
from token_worker.streams.reads import (
    BATCH_BYTES,
    FIRST_COUNT,
    READ_BYTES,
    joined,
    next_count,
    read_command,
    read_with_commit,
)
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import order
from token_worker.streams.uncounted import UncountedTries

GROUP = Script(__package__, "group.lua", before="stream_info.lua")

EXHAUSTED = "deliveries_exhausted"
"""Reason of a dead letter whose isolated tries all failed."""

READ_ON_ENTRIES = 64
"""Entries of a batch up to which the next read is sent with its commit. After more, a later read brings more."""

OLDER_IN_A_ROW = 50
"""Isolated tries before new entries get their turn. A batch of put-off entries counts as that many."""

PAUSE_SECONDS = 5.0
"""Pause of a route whose streams cannot be used. The other routes go on."""

_GROUP_GONE = frozenset({"NOGROUP", "UNBLOCKED"})


class Delivery(CommitScripts):
    """State of one worker between its commands. Its streams are read by one command.

    Args:
        routes: the routes to serve.
        group: consumer group of all workers.
        consumer: name of this worker in the group.
        batch_size: most entries of a batch.
        claim_idle_ms: idle time after which an entry of another worker is taken over.
        max_deliveries: isolated tries of an entry before it becomes a dead letter.
        rng: spreads the times at which workers look for old entries.
        clock: the monotonic clock that ``now`` is of.
        note_unread: told of each entry that was moved to the dead letters without being read.
    """

    patience_seconds = float("inf")
    """A commit is repeated as long as it takes: nothing else could be done meanwhile."""

    groups_made_again = 0

    def __init__(
        self,
        routes: Sequence[Route],
        group: str,
        consumer: str,
        *,
        batch_size: int,
        claim_idle_ms: int,
        max_deliveries: int,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        note_unread: Callable[[Entry], object] = lambda _entry: None,
    ) -> None:
        self._routes = deque(routes)
        self._note_unread = note_unread
        self._by_name = {route.requests.encode(): route for route in routes}
        super().__init__(group)
        self._consumer = consumer
        self._batch_size = batch_size
        self._max_deliveries = max_deliveries
        rng = rng or random.Random()  # noqa: S311 - spreads the workers' times, guards nothing
        self._uncounted = UncountedTries(group, consumer)
        self._pending = Pending(group, consumer, claim_idle_ms, self._uncounted, rng, clock)
        self._groups_to_make = dict.fromkeys(routes)
        self._older_in_a_row = 0
        self._room = min(FIRST_COUNT, batch_size)
        self._found = 0  # entries of the last batch of new ones
        self._paused: dict[Route, float] = {}

    # -- reading

    def has_older(self, now: float) -> bool:
        return bool(self._uncounted.open) or now >= self._pending.due

    def reads_at_once(self, now: float, answers: int) -> bool:
        if max(self._found, answers) > READ_ON_ENTRIES:
            return False
        return not (self._paused or self._groups_to_make or self.has_older(now))

    def fetch(self, now: float, block_ms: int, *, with_commit: bool = False) -> Exchange[Batch]:
        try:
            due = self._pending.due
            if self._paused or self._groups_to_make or now >= due or self._uncounted.open:
                older = yield from self._prepare(now)
                if older is not None:
                    return older
                block_ms = self._block_ms(now, block_ms)
            else:  # mostly
                self._older_in_a_row = 0
                self._pending.end_search()
                block_ms = _least_ms(block_ms, due - now)
            return (yield from self._read_new(now, block_ms, with_commit=with_commit))
        except Unavailable:
            self._pending.look_at_own(now)
            raise
        except ServerError as error:  # a group is gone, or a key is no stream any more: find out which
            self._groups_to_make = dict.fromkeys(self._routes)
            self._pending.start_anew(now)
            if error.code in _GROUP_GONE:
                self.groups_made_again += 1
            raise Unavailable("streams", error.code, error.address) from None

    def _prepare(self, now: float) -> Exchange[Batch | None]:
        """Do all that comes before new entries. Return older entries if there are some to handle now."""
        self._resume(now)
        yield from self._make_groups(now)
        if not self._active():
            raise Unavailable("streams", "no route can be served")
        yield from self._uncounted.uncount_tries()
        return (yield from self._fetch_older(now))

    def _block_ms(self, now: float, most_ms: int) -> int:
        """Milliseconds that a read may wait for new entries: until there is something else to do, at most."""
        if not most_ms or self.has_older(now):
            return 0
        return _least_ms(most_ms, min([self._pending.due, *self._paused.values()]) - now)

    def suspect(self, entries: Sequence[Entry], now: float) -> None:
        for entry in entries:
            self._pending.suspect(entry.route, [entry.id])
        self._pending.look_at_own_next(now)

    def _make_groups(self, now: float) -> Exchange[None]:
        for route in [route for route in self._groups_to_make if route not in self._paused]:
            if (yield from self._make_group(route)):
                del self._groups_to_make[route]
            else:
                self._pause(route, now)

    def _make_group(self, route: Route) -> Exchange[bool]:
        """Make the route's group if it is missing; False if that is impossible now."""
        own = route.own_keys
        keys = (route.requests, own.low_water_mark, own.arrivals[route.requests])
        try:
            try:
                yield RunScript(GROUP, keys, (self._group,))
            except ServerError as error:
                if error.code != "NOPERM":
                    raise
                yield RunScript(GROUP, keys[:1], (self._group,))  # no right to know what is acknowledged
        except ServerError:
            return False
        return True

    def _active(self) -> list[Route]:
        if not self._paused:
            return [*self._routes]
        return [route for route in self._routes if route not in self._paused]

    def _resume(self, now: float) -> None:
        for route in [route for route, until in self._paused.items() if until <= now]:
            del self._paused[route]
            self._groups_to_make[route] = None
            self._pending.look_at_own_of(route)

    def _pause(self, route: Route, now: float) -> None:
        self._paused[route] = now + PAUSE_SECONDS
        self._pending.drop(route)

    @property
    def paused(self) -> list[Route]:
        return list(self._paused)

    @property
    def away(self) -> dict[Route, str]:
        """Always empty: all routes of a ``Delivery`` share one server."""
        return {}

    def _read_new(self, now: float, block_ms: int, *, with_commit: bool) -> Exchange[Batch]:
        routes = self._active()
        entries: list[Entry] = []
        size = 0
        while routes and len(entries) < self._room and size < BATCH_BYTES:
            count = max(1, (self._room - len(entries)) // len(routes))
            try:
                got = yield from self._read(routes, count, 0 if entries else block_ms, now, with_commit=with_commit)
            except ReplyTooLarge:
                self._pending.look_at_own(now)
                self._room = 1
                return Batch(entries, isolated=False)
            with_commit = False
            full = []
            for route, found in got:
                entries += found
                size += _size(found)
                if len(found) >= count:
                    full.append(route)
            routes = full
            if block_ms and not routes and 0 < 2 * len(entries) < self._found:
                routes, block_ms = self._active(), 0
        self._routes.rotate(-1)
        if entries:
            self._found = len(entries)
            self._pace(len(entries), size)
        is_full = len(entries) >= self._batch_size or size >= BATCH_BYTES // 2
        return Batch(entries, isolated=False, more=is_full and bool(routes))

    def _pace(self, found: int, size: int) -> None:
        self._room = next_count(self._room, found, size, self._batch_size)

    def _read(
        self, routes: list[Route], count: int, block_ms: int, now: float, *, with_commit: bool = False
    ) -> Exchange[list[tuple[Route, list[Entry]]]]:
        names = tuple([route.requests for route in routes])
        try:
            if with_commit:
                is_split = count > 1 and self._found > 1
                replies = yield read_with_commit(self._group, self._consumer, count, block_ms, names, is_split)
                reply = joined(replies) if is_split else replies[0]
            else:
                reply = yield read_command(self._group, self._consumer, count, block_ms, names)
        except ServerError as error:
            if with_commit:
                self._pending.look_at_own(now)  # a part that was not refused may have brought entries
            if error.code in _GROUP_GONE:
                raise
            if len(routes) == 1:
                self._pause(routes[0], now)
                return []
            apart = []
            for route in routes:  # one of them is at fault; the others go on
                apart += yield from self._read([route], count, 0, now)
            return apart
        read = []
        for name, found in reply or ():
            route = self._by_name[name]
            entries = [
                Entry(route, entry_id, raw[1])
                if len(raw) == 2 and raw[0] == b"payload"
                else Entry.of(route, entry_id, _fields(raw))
                for entry_id, raw in found
            ]
            read.append((route, entries))
        return read

    # -- entries delivered before

    def _fetch_older(self, now: float) -> Exchange[Batch | None]:
        yield from self._pending.find(self._active(), now)
        if self._older_in_a_row >= OLDER_IN_A_ROW:
            self._older_in_a_row = 0
            return None  # new entries have their turn, after the look: that is no try
        while found := self._pending.take(self._room):
            if found[0].deliveries:
                entry = yield from self._claim(found[0], now)
                if entry is not None:
                    self._older_in_a_row += 1
                    return Batch([entry], isolated=True)
            else:
                entries = yield from self._claim_many(found, now)
                if entries:
                    self._older_in_a_row += OLDER_IN_A_ROW
                    return Batch(entries, isolated=False)
        self._older_in_a_row = 0
        return None

    def _claim(self, candidate: Candidate, now: float) -> Exchange[Entry | None]:
        """Claim an entry if nobody touched it since it was found. This counts as an isolated try."""
        route, entry_id, tries = candidate.route, candidate.id, candidate.deliveries
        idle_ms = self._pending.least_idle_ms([candidate])
        claim = ("XCLAIM", route.requests, self._group, self._consumer, idle_ms, entry_id)
        if tries > self._max_deliveries + 1:  # it killed even the worker that gave it up: do not read it
            if (yield (*claim, "JUSTID")):
                entry = Entry(route, entry_id, None, deliveries=tries)
                moved = yield from self.dead_letter(entry, EXHAUSTED, None, now)
                if moved.written:
                    self._note_unread(entry)
            return None
        self._pending.suspect(route, [entry_id])
        try:
            claimed = yield from self._uncounted.claim(route, {entry_id: tries + 1}, claim)
        except Unavailable as error:
            if self._pending.doubt(route, [entry_id], error.reason):
                self._uncounted.forget(route, entry_id)
            raise
        if not claimed or claimed[0] is None or claimed[0][1] is None:
            return None  # another worker has it, or it was deleted
        fields = _fields(claimed[0][1])
        return Entry.of(route, entry_id, fields, tries + 1, exhausted=tries > self._max_deliveries)

    def _claim_many(self, found: Sequence[Candidate], now: float) -> Exchange[list[Entry]]:
        """Claim put-off entries of one route that nobody touched since they were found."""
        route = found[0].route
        ids = [candidate.id for candidate in found]
        self._pending.trust(route, ids)
        idle_ms = self._pending.least_idle_ms(found)
        claim = ("XCLAIM", route.requests, self._group, self._consumer, idle_ms, *ids)
        try:
            claimed = yield BoundedCommand(READ_BYTES, claim) if len(ids) > 1 else claim
        except ReplyTooLarge:  # as for a read
            self._pending.look_at_own(now)
            self._room = 1
            return []
        except Unavailable as error:
            self._pending.doubt(route, ids, error.reason)
            raise
        entries = [
            Entry.of(route, raw[0], _fields(raw[1])) for raw in claimed if raw is not None and raw[1] is not None
        ]
        if entries:
            self._pace(len(entries), _size(entries))
        return entries

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        for entry in entries:
            self._uncounted.add(entry.route, {entry.id: entry.deliveries})
        self._pending.look_again(now)
        yield from self._uncounted.uncount_tries()

    def uncount_tries(self) -> Exchange[None]:
        return self._uncounted.uncount_tries()

    def renew(self, entries: Sequence[Entry]) -> Exchange[list[Entry]]:
        kept: list[Entry] = []
        for route in {entry.route: None for entry in entries}:
            mine = {entry.id: entry for entry in entries if entry.route == route}
            ids = sorted(mine, key=order)
            among = (ids[0], ids[-1], len(ids) + OWN_AT_ONCE, self._consumer)
            pending = yield "XPENDING", route.requests, self._group, *among
            idle = {entry_id: idle_ms for entry_id, _, idle_ms, _ in pending if entry_id in mine}
            if idle:
                head = ("XCLAIM", route.requests, self._group, self._consumer, min(idle.values()))
                kept += [mine[entry_id] for entry_id in (yield (*head, *idle, "JUSTID")) if entry_id in mine]
        return kept


def _least_ms(most_ms: int, seconds: float) -> int:
    """Milliseconds of a wait that is to end in so many seconds, at least 1; or fewer, where ``most_ms`` is less."""
    if most_ms <= 1 or seconds * 1000 >= most_ms:
        return most_ms
    return max(1, math.ceil(seconds * 1000))


def _fields(raw: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(raw[::2], raw[1::2], strict=True))


def _size(entries: Sequence[Entry]) -> int:
    size = 0
    for entry in entries:
        size += len(entry.payload or b"")
        if entry.others:
            size += sum(map(len, entry.others.values()))
    return size

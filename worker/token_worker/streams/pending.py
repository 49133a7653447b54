"""Finds entries that were delivered before, by ``XPENDING``, which counts nothing. Sans-IO.

The worker looks for its own pending entries after a command whose reply was lost, and again some time after it put
entries off. Now and then it looks for entries of other workers that nobody touched for the claim time. A search goes
over the pending entries in order, page by page. The next page is read when the entries of the last page are taken.

An own entry that was delivered once since this worker started, and that the worker has never seen, belongs to a read
whose reply was lost. Nothing speaks against the entry, so its delivery is uncounted, as for an entry that was put off.

Touches: the request streams and their group.
"""

import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from token_worker.redis.exchange import Exchange
from token_worker.redis.link import SOCKET_SECONDS
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import after
from token_worker.streams.uncounted import UncountedTries

OWN_AT_ONCE = 1000
"""Own pending entries in one page."""

FOUND_AT_ONCE = 500
"""Pending entries of other workers in one page. Several workers may find the same ones; one of them gets each."""

RETRY_OWN_SECONDS = 2.0
"""Time after which put-off entries are tried again. They were put off because a key is unavailable, say."""

LONGEST_RETRY_SECONDS = 15.0
"""While servers are unavailable, all put-off entries are tried again and again. The rest after that is twice as long as
the tries took, and at most this."""

SUSPECTS_KEPT = 10_000
"""Entries that are remembered because they failed here. A forgotten entry makes a batch fail once more."""

UNREADABLE = "InvalidResponse"
"""Reason of a command whose reply arrived and could not be read: it is too large for this process, say."""

MOST_DOUBTS = 20
"""Claims of one entry whose replies may be lost before the entry is suspected: its size may be the cause."""


class Candidate(NamedTuple):
    """A pending entry.

    Attributes:
        idle_ms: milliseconds since it was delivered last, when it was found.
        deliveries: as counted by the server; 0 if the entry was put off and nothing speaks against it.
        asked_at: monotonic time at which the server was asked for it.
    """

    route: Route
    id: bytes
    idle_ms: int
    deliveries: int
    asked_at: float


class _Page(NamedTuple):
    """A page of pending entries to be read, from ``start`` on."""

    route: Route
    is_own: bool
    start: str = "-"


class Pending:
    """Pending entries that one worker knows, and when it looks for more. ``now`` is monotonic time in seconds."""

    def __init__(
        self,
        group: str,
        consumer: str,
        claim_idle_ms: int,
        uncounted: UncountedTries,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._group = group
        self._consumer = consumer
        self._claim_idle_ms = claim_idle_ms
        self._uncounted = uncounted
        self._rng = rng
        self._clock = clock
        self._looked_through: set[Route] = set()
        self._own_due = self._others_due = float("-inf")
        self._retry_due = float("inf")
        self._looking_since: float | None = None
        self._is_looking_at_others = False
        self._pages: deque[_Page] = deque()
        self._untried: deque[Candidate] = deque()
        self._tried: deque[Candidate] = deque()
        self._found_at = 0.0
        self._suspects: OrderedDict[tuple[Route, bytes], None] = OrderedDict()
        self._doubts: Counter[tuple[Route, bytes]] = Counter()

    @property
    def due(self) -> float:
        """Time at which there is something to take or to look for."""
        if self._untried or self._tried or self._pages:
            return float("-inf")
        return min(self._own_due, self._retry_due, self._others_due)

    def suspect(self, route: Route, ids: Iterable[bytes]) -> None:
        """Have these entries isolated if they have to be tried again."""
        for entry_id in ids:
            self._suspects[route, entry_id] = None
        while len(self._suspects) > SUSPECTS_KEPT:
            self._suspects.popitem(last=False)

    def trust(self, route: Route, ids: Iterable[bytes]) -> None:
        """Suspect these entries no more: their count is 0, so they were given out anew since they failed here."""
        for entry_id in ids:
            self._suspects.pop((route, entry_id), None)

    def doubt(self, route: Route, ids: Sequence[bytes], reason: str) -> bool:
        """Note that a claim of these entries failed, and that nobody knows whether it was done.

        Returns:
            Whether this speaks against the entries. If it does, they are isolated, and it counts as a try.
        """
        if len(self._doubts) > SUSPECTS_KEPT:
            self._doubts.clear()
        self._doubts.update((route, entry_id) for entry_id in ids)
        against = reason == UNREADABLE or any(self._doubts[route, entry_id] > MOST_DOUBTS for entry_id in ids)
        if against:
            self.suspect(route, ids)
        return against

    def look_at_own(self, now: float) -> None:
        """Look for own entries before all else, because nobody knows which entries were delivered."""
        self._own_due = min(self._own_due, now)

    def look_at_own_next(self, now: float) -> None:
        """Look for own entries when the known ones are taken."""
        self._retry_due = min(self._retry_due, now)

    def look_at_own_of(self, route: Route) -> None:
        """Look for own entries of one route soon."""
        self._pages.appendleft(_Page(route, is_own=True))

    def look_again(self, now: float) -> None:
        """Look for put-off entries after a rest, which begins when all of them have been tried once."""
        if self._looking_since is None:
            self._retry_due = min(self._retry_due, now + RETRY_OWN_SECONDS)
        else:
            rest = min(2 * (now - self._looking_since), LONGEST_RETRY_SECONDS)
            self._retry_due = now + max(RETRY_OWN_SECONDS, rest)

    def start_anew(self, now: float) -> None:
        """Forget all entries that were found, because a group is gone, and look for everything."""
        self._forget()
        self._own_due = self._others_due = now

    def _forget(self) -> None:
        self._pages.clear()
        self._untried.clear()
        self._tried.clear()

    def drop(self, route: Route) -> None:
        """Forget the entries of a route."""
        self._pages = deque(page for page in self._pages if page.route != route)
        self._untried = deque(found for found in self._untried if found.route != route)
        self._tried = deque(found for found in self._tried if found.route != route)

    def take(self, most: int) -> list[Candidate]:
        """Take the next entries: up to ``most`` put-off entries of one route, or one entry to isolate.

        Empty if none is known; ``find`` looks for more.
        """
        if not self._untried:
            return [self._tried.popleft()] if self._tried else []
        first = self._untried[0]
        taken: list[Candidate] = []
        while self._untried and len(taken) < most and self._is_like(self._untried[0], first):
            taken.append(self._untried.popleft())
        return taken

    def _is_like(self, one: Candidate, other: Candidate) -> bool:
        """Return True if one claim may take both entries. It is conditional on the shortest idle time of its entries.

        If their idle times differ much, it could take an entry away from a worker that got it after it was found.
        """
        half_ms = self._claim_idle_ms / 2
        return one.route == other.route and (one.idle_ms < half_ms) == (other.idle_ms < half_ms)

    def least_idle_ms(self, found: Iterable[Candidate]) -> int:
        """Idle time that entries have by now, at least, if nobody has touched them since they were found.

        A worker that was stopped for seconds between its question and its claim, by its host say, must not take an
        entry away that another worker got meanwhile.
        """
        now = self._clock()
        return min(it.idle_ms + max(0, int((now - it.asked_at - SOCKET_SECONDS) * 1000)) for it in found)

    def find(self, routes: Sequence[Route], now: float) -> Exchange[None]:
        """Look for entries of these routes until a page has some or nothing is due; not at all if some are known."""
        if self._is_stale(now):  # other workers may have these entries by now; a claim could take them away
            self._own_due = now
        if now >= self._own_due:
            self._forget()
            if self._is_looking_at_others:
                self._others_due = now
        if self._untried or self._tried:
            return
        if now >= min(self._own_due, self._retry_due):
            self._own_due = self._retry_due = float("inf")
            self._looking_since = now
            self._pages = deque(page for page in self._pages if not page.is_own)
            for route in routes:
                yield from self._read(_Page(route, is_own=True), now)
        if now >= self._others_due and all(page.is_own for page in self._pages):
            self._pages.extend(_Page(route, is_own=False) for route in routes)
            self._others_due = now + self._claim_idle_ms / 1000 * self._rng.uniform(0.25, 0.5)
            self._is_looking_at_others = True
        while self._pages and not (self._untried or self._tried):
            yield from self._read(self._pages[0], now)
        if not (self._untried or self._tried):
            self.end_search()

    def end_search(self) -> None:
        """Note that all entries which were found have been taken. The next search begins anew."""
        self._looking_since = None
        self._is_looking_at_others = False

    def _is_stale(self, now: float) -> bool:
        return bool(self._untried or self._tried) and now - self._found_at > self._claim_idle_ms / 2000

    def _read(self, page: _Page, now: float) -> Exchange[None]:
        """Read a page. If it is the first of ``_pages`` and cannot be read, it stays there."""
        if page.is_own and page.route not in self._looked_through:
            found = yield from self._suspect_earlier(page)
        else:
            found = yield from self._look(page)
        unseen = [candidate.id for candidate in found if page.is_own and self._is_unseen(candidate)]
        if unseen:
            self._uncounted.add(page.route, dict.fromkeys(unseen, 1))
            yield from self._uncounted.uncount_tries()
            found = yield from self._look(page)
        if self._pages and self._pages[0] is page:
            self._pages.popleft()
        if not (self._untried or self._tried):
            self._found_at = now
        if following := self._following(page, found):
            self._pages.appendleft(following)
        for candidate in found:
            (self._tried if candidate.deliveries else self._untried).append(candidate)

    def _look(self, page: _Page) -> Exchange[list[Candidate]]:
        idle = () if page.is_own else ("IDLE", self._claim_idle_ms)
        owner = (self._consumer,) if page.is_own else ()
        stream, count = page.route.requests, self._page_size(page)
        asked_at = self._clock()
        found = yield "XPENDING", stream, self._group, *idle, page.start, "+", count, *owner
        return [Candidate(page.route, raw[0], raw[2], raw[3], asked_at) for raw in found]

    def _page_size(self, page: _Page) -> int:
        return OWN_AT_ONCE if page.is_own else FOUND_AT_ONCE

    def _following(self, page: _Page, found: Sequence[Candidate]) -> _Page | None:
        """The page after a full one; None after the last page."""
        start = after(found[-1].id) if len(found) >= self._page_size(page) else None
        return page._replace(start=start) if start is not None else None

    def _suspect_earlier(self, page: _Page) -> Exchange[list[Candidate]]:
        """Read a page, and suspect all entries that this consumer held before this process read the route.

        An earlier process of the same name may have died of one of them.
        """
        first: list[Candidate] | None = None
        following: _Page | None = page
        while following is not None:
            found = yield from self._look(following)
            self.suspect(page.route, [candidate.id for candidate in found if candidate.deliveries])
            following = self._following(following, found)
            first = found if first is None else first
        self._looked_through.add(page.route)
        return first or []

    def _is_unseen(self, candidate: Candidate) -> bool:
        """Return True if this own entry was delivered to this process by a command whose reply was lost."""
        return candidate.deliveries == 1 and (candidate.route, candidate.id) not in self._suspects

"""Finds entries that were delivered before: by ``XPENDING``, which counts nothing. Sans-IO.

The worker's own pending entries are looked for after a command whose reply was lost, and again some time after entries
were put off. Entries of other workers are looked for now and then: those that nobody touched for the claim time. A look
goes over the pending entries in order, page by page; the next page is read when the entries of this one are taken.

An own entry that was delivered once since this worker started, and that the worker has never seen, is one of a read
whose reply was lost. Nothing speaks against it, so it is taken back like an entry that was put off.

Touches: the request streams and their group.
"""

import random
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from token_worker.redis.exchange import Exchange
from token_worker.streams.give_backs import GiveBacks
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import after

OWN_AT_ONCE = 1000
"""Own pending entries in one page."""

FOUND_AT_ONCE = 500
"""Pending entries of other workers in one page: several workers may find the same ones, and one of them gets each."""

RETRY_OWN_SECONDS = 2.0
"""When entries that had to wait (a key is out of reach) are tried again."""

LONGEST_RETRY_SECONDS = 15.0
"""While servers are away, all entries that were put off are tried again and again. The more there are the longer that
takes, and the longer is the rest after it, up to this: twice as long as the tries took."""


SUSPECTS_KEPT = 10_000
"""Entries known to have failed here; one that is forgotten fails a batch once more."""


UNREADABLE = "InvalidResponse"
"""Reason of a command whose reply came and could not be taken in, as one that is larger than this process may be."""

MOST_DOUBTS = 20
"""Claims of one entry whose replies may be lost before that speaks against it: its size may be what loses them."""


class Candidate(NamedTuple):
    """A pending entry.

    Attributes:
        deliveries: as the server has counted; 0 if it was put off and nothing speaks against it.
    """

    route: Route
    id: bytes
    idle_ms: int
    deliveries: int


class _Page(NamedTuple):
    """Pending entries to be looked at next, from ``start`` on."""

    route: Route
    is_own: bool
    start: str = "-"


class Pending:
    """What one worker knows of pending entries; ``now`` is monotonic time in seconds."""

    def __init__(
        self, group: str, consumer: str, claim_idle_ms: int, give_backs: GiveBacks, rng: random.Random
    ) -> None:
        self._group = group
        self._consumer = consumer
        self._claim_idle_ms = claim_idle_ms
        self._give_backs = give_backs
        self._rng = rng
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
        """When there is something to take or to look for."""
        if self._untried or self._tried or self._pages:
            return float("-inf")
        return min(self._own_due, self._retry_due, self._others_due)

    def suspect(self, route: Route, ids: Iterable[bytes]) -> None:
        """Have these entries tried alone, if they have to be tried again."""
        for entry_id in ids:
            self._suspects[route, entry_id] = None
        while len(self._suspects) > SUSPECTS_KEPT:
            self._suspects.popitem(last=False)

    def doubt(self, route: Route, ids: Sequence[bytes], reason: str) -> bool:
        """A claim of these entries failed, and nobody knows whether it was done.

        Returns:
            Whether that speaks against them: then they are tried alone, and it counts as a try.
        """
        if len(self._doubts) > SUSPECTS_KEPT:
            self._doubts.clear()
        self._doubts.update((route, entry_id) for entry_id in ids)
        against = reason == UNREADABLE or any(self._doubts[route, entry_id] > MOST_DOUBTS for entry_id in ids)
        if against:
            self.suspect(route, ids)
        return against

    def look_at_own(self, now: float) -> None:
        """Look for own entries before all else: nobody knows what was delivered."""
        self._own_due = min(self._own_due, now)

    def look_at_own_next(self, now: float) -> None:
        """Look for own entries when those that are known are taken."""
        self._retry_due = min(self._retry_due, now)

    def look_at_own_of(self, route: Route) -> None:
        """Look for own entries of one route soon."""
        self._pages.appendleft(_Page(route, is_own=True))

    def look_again(self, now: float) -> None:
        """Entries were put off: look for them when a rest is over, which begins when all have been tried once."""
        if self._looking_since is None:
            self._retry_due = min(self._retry_due, now + RETRY_OWN_SECONDS)
        else:
            rest = min(2 * (now - self._looking_since), LONGEST_RETRY_SECONDS)
            self._retry_due = now + max(RETRY_OWN_SECONDS, rest)

    def start_anew(self, now: float) -> None:
        """A group is gone, and whatever was found with it: look for everything."""
        self._forget()
        self._own_due = self._others_due = now

    def _forget(self) -> None:
        self._pages.clear()
        self._untried.clear()
        self._tried.clear()

    def drop(self, route: Route) -> None:
        """Leave the entries of a route alone."""
        self._pages = deque(page for page in self._pages if page.route != route)
        self._untried = deque(found for found in self._untried if found.route != route)
        self._tried = deque(found for found in self._tried if found.route != route)

    def take(self, most: int) -> list[Candidate]:
        """Up to so many entries of one route that were put off, or one that must be tried alone; empty: find more."""
        if not self._untried:
            return [self._tried.popleft()] if self._tried else []
        first = self._untried[0]
        taken: list[Candidate] = []
        while self._untried and len(taken) < most and self._is_like(self._untried[0], first):
            taken.append(self._untried.popleft())
        return taken

    def _is_like(self, one: Candidate, other: Candidate) -> bool:
        """Whether one claim may take both: it is conditional on the shorter of their idle times.

        Else it could take an entry away from a worker that got it since it was found.
        """
        half_ms = self._claim_idle_ms / 2
        return one.route == other.route and (one.idle_ms < half_ms) == (other.idle_ms < half_ms)

    def find(self, routes: Sequence[Route], now: float) -> Exchange[None]:
        """Look for entries on these routes, unless some are known, until a page has some or nothing is due."""
        if self._is_stale(now):  # others may have got what was found, and a claim could take it away from them
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
            self._looking_since = None
            self._is_looking_at_others = False

    def _is_stale(self, now: float) -> bool:
        return bool(self._untried or self._tried) and now - self._found_at > self._claim_idle_ms / 2000

    def _read(self, page: _Page, now: float) -> Exchange[None]:
        """Read a page; one of those to be looked at stays the first of them if it cannot be read."""
        if page.is_own and page.route not in self._looked_through:
            found = yield from self._suspect_earlier(page)
        else:
            found = yield from self._look(page)
        unseen = [candidate.id for candidate in found if page.is_own and self._is_unseen(candidate)]
        if unseen:
            self._give_backs.add(page.route, dict.fromkeys(unseen, 1))
            yield from self._give_backs.settle()
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
        found = yield "XPENDING", stream, self._group, *idle, page.start, "+", count, *owner
        return [Candidate(page.route, raw[0], raw[2], raw[3]) for raw in found]

    def _page_size(self, page: _Page) -> int:
        return OWN_AT_ONCE if page.is_own else FOUND_AT_ONCE

    def _following(self, page: _Page, found: Sequence[Candidate]) -> _Page | None:
        """The page after a full one."""
        start = after(found[-1].id) if len(found) >= self._page_size(page) else None
        return page._replace(start=start) if start is not None else None

    def _suspect_earlier(self, page: _Page) -> Exchange[list[Candidate]]:
        """Read a page; suspect what this consumer was given before this process has read anything of the route.

        A process of the same name before may have died of it.
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
        """Whether this own entry was delivered to this process by a command whose reply was lost."""
        return candidate.deliveries == 1 and (candidate.route, candidate.id) not in self._suspects

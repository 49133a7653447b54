"""The cache of unwrapped keys. It sees rotated keys within a minute, and bridges outages of the key storage.

The number of owners is bounded, so memory does not grow with the number of clients. Owners without a key are remembered
apart, so they never push out a key. While the key storage or Vault is away, cached keys serve for 15 minutes past their
age. An owner whose key is not in the cache is ``Unavailable`` then, not unknown.

The key storage is asked in a background thread (see ``background``). A key in use is looked up again after half of its
age, while the loop goes on with the cached one. The loop waits only for keys that are not in the cache, or too old, and
only for a short time in one batch. Keys that have not come by then are ``Unavailable``; they are cached when they come.
Everything in this class belongs to the loop's thread.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from functools import partial

import structlog

from token_worker.acra.owner import Owner
from token_worker.backoff import BackOffSeconds
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.absent_owners import AbsentOwners
from token_worker.keys.background import Executor, InlineExecutor, WaitBudget
from token_worker.keys.cached_keys import CachedKeys, HistorySearch
from token_worker.keys.history import HistoryPage, search_history
from token_worker.keys.index_key import KeyTexts
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.live_master_keys import LiveMasterKeys
from token_worker.keys.master import MasterKeys
from token_worker.keys.opener import Opener
from token_worker.keys.store import KeyStore

AGE_SECONDS = 60.0
"""Time that a key serves before it is looked up again. So a rotation is seen after at most this time."""

REFRESH_SECONDS = AGE_SECONDS / 2
"""Age at which a key in use is looked up again in the background."""

REFRESH_OWNERS_MAX = 50
"""Owners of one such look-up. Keys that the loop waits for come after it."""

GRACE_SECONDS = 900.0
"""Time that a key serves past its age while the key storage is away."""

ABSENCE_SECONDS = 1.0
"""Time for which the cache remembers that an owner has no key or index key, or none that the master key opens."""

RECHECK_SECONDS = 1.0
"""Shortest time between two look-ups of one owner's key because no cached key opens an entry."""

LATE_SECONDS = 5.0
"""Time for which an answer counts that came after the loop stopped waiting for it."""

OWNERS_MAX = 10_000
"""Owners whose keys are cached. The least recently used are dropped first."""

WAIT_SECONDS = 0.25
"""Longest wait of the loop, in one batch, for keys that are not cached: enough for several hundred keys in Vault."""

HISTORY_WAIT_SECONDS = 0.02
"""Longest wait of the loop, in one batch, for keys of the history: enough to scan a few names."""

RETRY_SECONDS = BackOffSeconds(0.5, 15.0)
"""Shortest and longest pause before a key storage that was away is asked again."""

log = structlog.get_logger("keys")

Found = Keyring | Refused | Unavailable

_Answer = Future[list[KeyTexts]]


class KeySearch(Enum):
    """The result of a search for more keys of an owner."""

    ADDED = auto()
    EXHAUSTED = auto()


class KeyCache:
    """The only place where keys are unwrapped.

    Args:
        store: the key storage.
        master_key: opens its keys; or the master key and the one before it; or those of a process, which may change.
        size: owners whose keys are cached.
        clock: monotonic seconds.
        wall: Unix seconds.
        lookups, history: do the look-ups in the background. By default they are done at once, and only when a key is
            too old.
        absent_lookups_per_second: look-ups of owners without a key that the key storage gets; more have to wait.
        settling_seconds: how long after a rotation the key before still seals.
        history_seconds: how long a search of the history counts.
        with_index: also look up the index keys, by the same look-up.

    Attributes:
        hits: owners whose keys were cached.
        misses: owners whose keys had to be looked up.
    """

    def __init__(
        self,
        store: KeyStore,
        master_key: bytes | MasterKeys | LiveMasterKeys,
        *,
        size: int = OWNERS_MAX,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        lookups: Executor | None = None,
        history: Executor | None = None,
        absent_lookups_per_second: float = float("inf"),
        settling_seconds: float = 0,
        history_seconds: float = AGE_SECONDS,
        with_index: bool = False,
    ) -> None:
        self._store = store
        self._with_index = with_index
        self._read = store.current_with_index if with_index else partial(_without_index, store)
        if isinstance(master_key, bytes):
            master_key = MasterKeys(master_key)
        if isinstance(master_key, MasterKeys):
            master_key = LiveMasterKeys(master_key)
        self._master_keys = master_key
        self._size = size
        self._clock = clock
        self._wall = wall
        self._refreshes = lookups is not None
        self._lookups = lookups or InlineExecutor()
        self._history = history or InlineExecutor()
        self._settling_seconds = settling_seconds
        self._history_seconds = history_seconds
        self._cached: OrderedDict[Owner, CachedKeys] = OrderedDict()
        self._absent = AbsentOwners(absent_lookups_per_second)
        self._data_keys = DataKeyCache()
        doubt_seconds = AGE_SECONDS + GRACE_SECONDS
        self._opener = Opener(master_key, self._data_keys, clock, settling_seconds, doubt_seconds)
        self._jobs: deque[tuple[list[Owner], float, _Answer]] = deque()
        self._asked: dict[Owner, _Answer] = {}
        self._due: deque[tuple[float, Owner]] = deque()
        self._refresh: _Answer | None = None
        self._budget = WaitBudget(WAIT_SECONDS)
        self._history_budget = WaitBudget(HISTORY_WAIT_SECONDS)
        self.hits = 0
        self.misses = 0
        self._away: Unavailable | None = None
        self._failures = 0
        self._ask_again_at = float("-inf")

    @property
    def away(self) -> Unavailable | None:
        """The reason why the key storage is away; None if it answered the last question."""
        return self._away

    def close(self) -> None:
        """End the threads."""
        self._lookups.close()
        self._history.close()
        self._master_keys.close()

    def rings(self, owners: Iterable[Owner]) -> dict[Owner, Found]:
        """The keys of each owner: a keyring, or why there is none, or ``Unavailable`` if that cannot be known now."""
        now = self._clock()
        self._budget.renew()
        self._history_budget.renew()
        if self._master_keys.poll():
            for cached in self._cached.values():
                cached.forget_refusal()
        if self._jobs:
            self._collect()
        found: dict[Owner, Found] = {}
        missing = []
        for owner in owners:
            known = self._known(owner, now)
            if known is None:
                missing.append(owner)
            else:
                self.hits += isinstance(known, Keyring) or owner.is_valid
                found[owner] = known
        if missing:
            self.misses += len(missing)
            self._look_up(missing, now)
            for owner in missing:
                found[owner] = self._known(owner, now) or self._past_age(owner, now)
        if self._due and now - self._due[0][0] >= REFRESH_SECONDS:
            self._refresh_used(now)
        while len(self._cached) > self._size:
            self._cached.popitem(last=False)
        return found

    def find_keys(self, ring: Keyring) -> KeySearch | Unavailable:
        """Search for a key of the ring's owner that is not in the ring: first a rotated key, then the history."""
        now = self._clock()
        cached = self._cached.setdefault(ring.owner, CachedKeys())
        try:
            found = self._find_keys(ring, cached, now)
        except Unavailable as error:
            return error.with_traceback(None)
        if found is KeySearch.EXHAUSTED and now - cached.rechecked_at >= RECHECK_SECONDS:
            cached.rechecked_at = now  # not if a key was added: another rotation may follow at once
        return found

    def settling_seconds_left(self, owner: Owner) -> float:
        """Seconds for which a replaced key of the owner still seals, as of the last call of ``rings``."""
        cached = self._cached.get(owner)
        return 0.0 if cached is None or not cached.outgoing else cached.outgoing[-1][0] - self._clock()

    # -- the newest keys

    def _known(self, owner: Owner, now: float) -> Found | None:
        """The answer for an owner, if the cache has one that is not too old."""
        cached = self._cached.get(owner)
        if cached is not None:
            age = now - cached.checked_at
            ring = cached.ring
            if now >= cached.refused_until if ring is None else age >= AGE_SECONDS:
                return None
            if age >= ABSENCE_SECONDS and self._with_index and ring is not None and ring.index is None:
                return None
            if age >= REFRESH_SECONDS and not cached.is_due and self._refreshes:
                cached.is_due = True
                self._due.appendleft((cached.checked_at, owner))
            return self._use(owner, cached, now)
        if not owner.is_valid or self._absent.includes(owner, now):
            return _unknown(owner)
        return None

    def _past_age(self, owner: Owner, now: float) -> Found:
        """The answer for an owner if the key storage has not answered in time."""
        cached = self._cached.get(owner)
        if cached is not None and cached.ring is not None and now - cached.checked_at < AGE_SECONDS + GRACE_SECONDS:
            return self._use(owner, cached, now)
        return self._away or Unavailable("keys", "not looked up yet")

    def _use(self, owner: Owner, cached: CachedKeys, now: float) -> Found:
        cached.used_at = now
        self._cached.move_to_end(owner)
        if cached.ring is None:
            return cached.refusal or Refused(Code.INTERNAL, "no key")
        if self._settling_seconds:
            self._settle(owner, cached, now)
        return cached.ring

    def _look_up(self, owners: list[Owner], now: float) -> None:
        """Look up keys that are not cached or too old: all at once, except for owners that perhaps have no key."""
        if now < self._ask_again_at or self._budget.is_late:
            return
        portion = [owner for owner in owners if owner in self._cached]
        strangers = [owner for owner in owners if owner not in self._cached]
        while True:
            allowed = self._absent.allowed(now)
            portion += strangers[:allowed]
            strangers = strangers[allowed:]
            self._ask([owner for owner in portion if owner not in self._asked], now)
            # While the storage is away, owners with a cached key can go on with that.
            awaited = portion if self._away is None else [owner for owner in portion if owner not in self._cached]
            is_done = self._wait_for(awaited)
            if not is_done or self._away is not None or not strangers or not allowed:
                return
            portion = []

    def _ask(self, owners: list[Owner], now: float) -> None:
        if not owners:
            return
        answer = self._lookups.submit(partial(self._read, owners))
        self._jobs.append((owners, now, answer))
        self._asked |= dict.fromkeys(owners, answer)

    def _wait_for(self, owners: list[Owner]) -> bool:
        """Wait for the answers about these owners. Returns False if one has not come in time."""
        answers = {id(answer): answer for owner in owners if (answer := self._asked.get(owner)) is not None}
        late = [answer for answer in answers.values() if not self._budget.wait(answer)]
        self._collect()
        return not late

    def _refresh_used(self, now: float) -> None:
        """Look up, before they are too old, the keys that were used since their last look-up."""
        if now < self._ask_again_at or (self._refresh is not None and not self._refresh.done()):
            return
        owners: list[Owner] = []
        while self._due and len(owners) < REFRESH_OWNERS_MAX and now - self._due[0][0] >= REFRESH_SECONDS:
            checked_at, owner = self._due.popleft()
            cached = self._cached.get(owner)
            if cached is None or cached.checked_at != checked_at:
                continue
            cached.is_due = False
            if cached.used_at >= checked_at and owner not in self._asked:
                owners.append(owner)
        if owners:
            self._ask(owners, now)
            self._refresh = self._jobs[-1][2]

    def _collect(self) -> None:
        """Take the answers that the key storage has given meanwhile."""
        while self._jobs and self._jobs[0][2].done():
            owners, asked_at, answer = self._jobs.popleft()
            for owner in owners:
                if self._asked.get(owner) is answer:
                    del self._asked[owner]
            try:
                texts = answer.result()
            except Unavailable as error:
                self._note_outage(error)
                continue
            if self._away is not None:
                log.info("key storage available again")
            self._away, self._failures, self._ask_again_at = None, 0, float("-inf")
            for owner, found in zip(owners, texts, strict=True):
                self._install(owner, found, asked_at)

    def _note_outage(self, error: Unavailable) -> None:
        if self._away is None:
            log.warning("key storage unavailable: cached keys are used", server=error.server, reason=str(error))
        self._away = error
        self._failures += 1
        self._ask_again_at = self._clock() + RETRY_SECONDS.after(self._failures)

    def _install(self, owner: Owner, texts: KeyTexts, asked_at: float) -> None:
        now = self._clock()
        # If the answer is late, the request that asked may have to come again, and must find the answer then.
        until = asked_at + ABSENCE_SECONDS if now - asked_at <= WAIT_SECONDS else now + LATE_SECONDS
        if texts.key is None:
            self._cached.pop(owner, None)
            self._absent.add(owner, until)
            return
        self._absent.discard(owner)
        cached = self._cached.setdefault(owner, CachedKeys())
        cached.checked_at, cached.refused_until = asked_at, until
        if self._refreshes:
            cached.is_due = True
            self._due.append((asked_at, owner))
        self._opener.take(owner, cached, texts, now)

    # -- keys that were replaced

    def _find_keys(self, ring: Keyring, cached: CachedKeys, now: float) -> KeySearch:
        known = len(ring.keys)
        if now - cached.rechecked_at >= RECHECK_SECONDS:
            self._check_again(ring.owner, cached, now)
            if len(ring.keys) > known:  # the cache still holds this ring, and has added the new key to it
                return KeySearch.ADDED
        if cached.ring is not None and cached.ring is not ring and _add(ring, cached.ring.keys):
            return KeySearch.ADDED
        if _add(ring, cached.history.values()):
            return KeySearch.ADDED
        if cached.history_at > cached.changed_at and now - cached.history_at < self._history_seconds:
            return KeySearch.EXHAUSTED
        return self._search(ring, cached, now)

    def _check_again(self, owner: Owner, cached: CachedKeys, now: float) -> None:
        """Look up the newest key once more.

        Raises:
            Unavailable: the key storage is away, or has not answered in time.
        """
        self._collect()
        awaited_since, cached.awaited_since = cached.awaited_since, None
        if awaited_since is not None and awaited_since <= cached.checked_at and now - awaited_since < LATE_SECONDS:
            return
        if now >= self._ask_again_at:
            if not self._budget.is_late:
                self._ask([owner], now)
            if self._budget.is_late or not self._wait_for([owner]):
                cached.awaited_since = now
                raise Unavailable("keys", "not looked up yet")
        if self._away is not None:
            raise self._away

    def _settle(self, owner: Owner, cached: CachedKeys, now: float) -> None:
        """Find out which key seals; see ``CachedKeys``."""
        cached.change_over(owner, self._data_keys, now)
        if cached.is_settled or cached.ring is None:
            return
        try:
            while self._search(cached.ring, cached, now) is not KeySearch.EXHAUSTED:
                pass
        except Unavailable as error:
            if cached.ring.unsettled is not None:
                cached.ring.unsettled = error.with_traceback(None)
            return
        cached.settle(owner, self._data_keys, now, self._wall(), self._settling_seconds)

    def _search(self, ring: Keyring, cached: CachedKeys, now: float) -> KeySearch:
        """Search the history until a key is added, or until all of it is known.

        Raises:
            Unavailable: the result is not known yet.
        """
        tried: set[str] = set()
        while True:
            search = cached.search or self._begin_search(ring.owner, cached, tried, now)
            cached.search = search
            if not self._history_budget.wait(search.answer):
                raise Unavailable("keys", "the history of keys is being looked up")
            cached.search = None
            page = search.answer.result()
            tried.update(name for name, _ in page.keys)
            if self._add_page(page, ring, cached):
                return KeySearch.ADDED
            is_recent = search.changed_at == cached.changed_at and now - search.at < self._history_seconds
            if page.is_complete and is_recent:
                cached.history_at = self._clock()
                return KeySearch.EXHAUSTED

    def _begin_search(self, owner: Owner, cached: CachedKeys, tried: set[str], now: float) -> HistorySearch:
        since = max(cached.changed_at, now - self._history_seconds)
        job = partial(search_history, self._store, owner, {*cached.history, *tried}, since, cached.changed_at)
        return HistorySearch(self._history.submit(job), now, cached.changed_at)

    def _add_page(self, page: HistoryPage, ring: Keyring, cached: CachedKeys) -> bool:
        """Add keys of the history to the ring, and to the cached ring if that is another. True if any key is new.

        Raises:
            Unavailable: no key is new, and one may be opened by a master key that is not known yet.
        """
        doubt: Unavailable | None = None
        for name, sealed in page.keys:
            if sealed is None:
                continue
            try:
                cached.history[name] = self._master_keys.unwrap(sealed, ring.owner)
            except Unavailable as error:
                doubt = error.with_traceback(None)
            except CorruptData:
                if not ring.some_unreadable:
                    log.error("key of the history cannot be unwrapped with the master key", key=name)
                ring.some_unreadable = True
        if cached.ring is not None and cached.ring is not ring:
            _add(cached.ring, cached.history.values())
        is_added = _add(ring, cached.history.values())
        if doubt is not None and not is_added:
            raise doubt
        return is_added


def _add(ring: Keyring, keys: Iterable[bytes]) -> bool:
    return sum(ring.add(key) for key in keys) > 0


def _without_index(store: KeyStore, owners: Sequence[Owner]) -> list[KeyTexts]:
    return [KeyTexts(key) for key in store.current(owners)]


def _unknown(owner: Owner) -> Refused:
    code = Code.UNKNOWN_CLIENT if owner.kind == "client" else Code.UNKNOWN_ZONE
    return Refused(code, f"there is no key of this {owner.kind}: `token-worker keys generate` makes one")

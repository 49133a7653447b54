"""Keys of clients and zones, unwrapped and kept for a minute, so that rotated keys are seen and outages bridged.

Bounded in number: memory does not grow with the clients there are. Names without a key are remembered apart, so that
they never push out a key. While key storage or Vault is away, keys already here serve for 15 minutes past their age; a
key that is not here is ``Unavailable``, not unknown.

The key storage is asked beside the loop (``Beside``): keys that are in use are asked for anew when half of their age is
over, and the loop goes on with those it has. Only for a key that is not here, or too old, the loop waits, for a short
time in one batch; what has not come by then is ``Unavailable``, and is taken in when it comes. All that this class
holds is the loop's alone.
"""

import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from enum import Enum, auto
from functools import partial

import structlog

from token_worker.acra.owner import Owner
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.beside import Beside, InPlace, Patience
from token_worker.keys.history import Look, look
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.slot import Asked, Slot
from token_worker.keys.store import KeyStore, unwrap

AGE_SECONDS = 60.0
"""How long a key serves before it is looked up again: a rotation is seen after at most this long."""

REFRESH_SECONDS = AGE_SECONDS / 2
"""Age at which a key that was used is looked up again beside the loop."""

REFRESH_OWNERS_MAX = 50
"""Keys of one such look-up: what the loop waits for comes after it."""

GRACE_SECONDS = 900.0
"""How much longer it serves while the key storage is away."""

ABSENCE_SECONDS = 1.0
"""How long it is remembered that there is no key, or none that the master key opens."""

RECHECK_SECONDS = 1.0
"""How often at most an entry that no key opens makes us look for a rotated key of its owner, in vain."""

LATE_SECONDS = 5.0
"""How long an answer to that counts which came when the loop waited for it no more."""

OWNERS_MAX = 10_000
ABSENT_OWNERS_MAX = 10_000
"""Names without a key that are remembered."""

WAIT_SECONDS = 0.25
"""How long the loop waits in one batch for keys that are not here: several hundred of them in Vault."""

HISTORY_WAIT_SECONDS = 0.02
"""The same for keys of the history: enough where few names are to be looked through."""

RETRY_SECONDS = (0.5, 15.0)
"""Shortest and longest wait before a key storage that was away is asked again."""

log = structlog.get_logger("keys")

Found = Keyring | Refused | Unavailable


class KeySearch(Enum):
    """What looking for more keys of an owner has brought."""

    ADDED = auto()
    EXHAUSTED = auto()


class KeyCache:
    """The only place where keys are unwrapped.

    Args:
        store: the key storage.
        master_key: opens its keys.
        previous_master_key: the one before it, while it is being replaced.
        size: owners whose keys are kept.
        clock: monotonic seconds.
        wall: Unix seconds.
        lookups, history: who asks the storage; in place, and so never before a key is too old, where left out.
        absent_a_second: names without a key that the storage is asked for; more have to wait.
        settling_seconds: how long after a rotation the key before still seals.
        history_seconds: how long a look at the history counts.
    """

    def __init__(
        self,
        store: KeyStore,
        master_key: bytes,
        *,
        previous_master_key: bytes | None = None,
        size: int = OWNERS_MAX,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        lookups: Beside | None = None,
        history: Beside | None = None,
        absent_a_second: float = float("inf"),
        settling_seconds: float = 0,
        history_seconds: float = AGE_SECONDS,
    ) -> None:
        self._store = store
        self._master_keys = [master_key] if previous_master_key is None else [master_key, previous_master_key]
        self._size = size
        self._clock = clock
        self._wall = wall
        self._refreshes = lookups is not None
        self._lookups = lookups or InPlace()
        self._history = history or InPlace()
        self._absent_a_second = absent_a_second
        self._settling_seconds = settling_seconds
        self._history_seconds = history_seconds
        self._slots: OrderedDict[Owner, Slot] = OrderedDict()
        self._absent: OrderedDict[Owner, float] = OrderedDict()
        self._data_keys = DataKeyCache()
        self._jobs: deque[tuple[list[Owner], float, Future[list[bytes | None]]]] = deque()
        self._asked: dict[Owner, Future[list[bytes | None]]] = {}
        self._due: deque[tuple[float, Owner]] = deque()
        self._refresh: Future[list[bytes | None]] | None = None
        self._patience = Patience(WAIT_SECONDS)
        self._history_patience = Patience(HISTORY_WAIT_SECONDS)
        self._allowance = absent_a_second
        self._allowance_at = float("-inf")
        self.hits = 0
        """Owners whose keys were here."""
        self.misses = 0
        """Owners that had to be looked up."""
        self._away: Unavailable | None = None
        self._wait_seconds = RETRY_SECONDS[0]
        self._ask_again_at = float("-inf")

    @property
    def away(self) -> Unavailable | None:
        """Why the key storage is out of reach, since it was last asked."""
        return self._away

    def close(self) -> None:
        """End the threads."""
        self._lookups.close()
        self._history.close()

    def rings(self, owners: Iterable[Owner]) -> dict[Owner, Found]:
        """The keys of each owner: a keyring, why it has none, or that this cannot be known now."""
        now = self._clock()
        self._patience.renew()
        self._history_patience.renew()
        self._collect()
        found: dict[Owner, Found] = {}
        missing = []
        for owner in owners:
            at_hand = self._at_hand(owner, now)
            if at_hand is None:
                missing.append(owner)
            else:
                self.hits += owner.is_valid
                found[owner] = at_hand
        if missing:
            self.misses += len(missing)
            self._look_up(missing, now)
            for owner in missing:
                found[owner] = self._at_hand(owner, now) or self._past_its_age(owner, now)
        if self._refreshes:
            self._refresh_used(now)
        while len(self._slots) > self._size:
            self._slots.popitem(last=False)
        return found

    def find_keys(self, ring: Keyring) -> KeySearch | Unavailable:
        """Look for a key of the ring's owner that is not in it: a rotated one, then the history."""
        now = self._clock()
        slot = self._slots.setdefault(ring.owner, Slot())
        try:
            found = self._find_keys(ring, slot, now)
        except Unavailable as error:
            return error.with_traceback(None)
        if found is KeySearch.EXHAUSTED and now - slot.rechecked_at >= RECHECK_SECONDS:
            slot.rechecked_at = now  # where a key was found, another rotation may follow at once
        return found

    def settling_seconds_left(self, owner: Owner) -> float:
        """How long another key than the newest one still seals; as of the last call of ``rings``."""
        slot = self._slots.get(owner)
        return 0.0 if slot is None or not slot.outgoing else slot.outgoing[-1][0] - self._clock()

    # -- the newest keys

    def _at_hand(self, owner: Owner, now: float) -> Found | None:
        """What is known of an owner and still good."""
        slot = self._slots.get(owner)
        if slot is not None:
            age = now - slot.checked_at
            if now >= slot.refused_until if slot.ring is None else age >= AGE_SECONDS:
                return None
            if age >= REFRESH_SECONDS and not slot.is_due and self._refreshes:
                slot.is_due = True
                self._due.appendleft((slot.checked_at, owner))
            return self._use(owner, slot, now)
        if not owner.is_valid or now < self._absent.get(owner, float("-inf")):
            return _unknown(owner)
        return None

    def _past_its_age(self, owner: Owner, now: float) -> Found:
        """What is to be done without an answer of the key storage."""
        slot = self._slots.get(owner)
        if slot is not None and slot.ring is not None and now - slot.checked_at < AGE_SECONDS + GRACE_SECONDS:
            return self._use(owner, slot, now)
        return self._away or Unavailable("keys", "not looked up yet")

    def _use(self, owner: Owner, slot: Slot, now: float) -> Found:
        slot.used_at = now
        self._slots.move_to_end(owner)
        if slot.ring is None:
            return slot.refusal or Refused(Code.INTERNAL, "no key")
        if self._settling_seconds:
            self._settle(owner, slot, now)
        return slot.ring

    def _look_up(self, owners: list[Owner], now: float) -> None:
        """Ask for keys that are not here or too old: all together, but for names that may be nobody's."""
        if now < self._ask_again_at or self._patience.is_late:
            return
        portion = [owner for owner in owners if owner in self._slots]
        strangers = [owner for owner in owners if owner not in self._slots]
        while True:
            allowed = self._allowed(now)
            portion += strangers[:allowed]
            strangers = strangers[allowed:]
            self._ask([owner for owner in portion if owner not in self._asked], now)
            # Those that have a key can go on with it while the storage is away.
            is_done = self._wait_for(portion if self._away is None else [it for it in portion if it not in self._slots])
            if not is_done or self._away is not None or not strangers or not allowed:
                return
            portion = []

    def _ask(self, owners: list[Owner], now: float) -> None:
        if not owners:
            return
        answer = self._lookups.submit(partial(self._store.current, owners))
        self._jobs.append((owners, now, answer))
        self._asked |= dict.fromkeys(owners, answer)

    def _wait_for(self, owners: list[Owner]) -> bool:
        """Wait for what was asked for; whether it has come."""
        answers = {id(answer): answer for owner in owners if (answer := self._asked.get(owner)) is not None}
        late = [answer for answer in answers.values() if not self._patience.wait(answer)]
        self._collect()
        return not late

    def _allowed(self, now: float) -> int:
        """How many names may be asked for that may be nobody's."""
        if self._absent_a_second == float("inf"):
            return sys.maxsize
        earned = (now - self._allowance_at) * self._absent_a_second
        self._allowance, self._allowance_at = min(self._allowance + earned, self._absent_a_second), now
        return max(int(self._allowance), 0)

    def _refresh_used(self, now: float) -> None:
        """Ask for keys that were used since they were looked up, before they are too old."""
        if now < self._ask_again_at or (self._refresh is not None and not self._refresh.done()):
            return
        owners: list[Owner] = []
        while self._due and len(owners) < REFRESH_OWNERS_MAX and now - self._due[0][0] >= REFRESH_SECONDS:
            checked_at, owner = self._due.popleft()
            slot = self._slots.get(owner)
            if slot is None or slot.checked_at != checked_at:
                continue
            slot.is_due = False
            if slot.used_at >= checked_at and owner not in self._asked:
                owners.append(owner)
        if owners:
            self._ask(owners, now)
            self._refresh = self._jobs[-1][2]

    def _collect(self) -> None:
        """Take in what the key storage has answered."""
        while self._jobs and self._jobs[0][2].done():
            owners, asked_at, answer = self._jobs.popleft()
            for owner in owners:
                if self._asked.get(owner) is answer:
                    del self._asked[owner]
            try:
                texts = answer.result()
            except Unavailable as error:
                self._lose(error)
                continue
            if self._away is not None:
                log.info("key storage available again")
            self._away, self._wait_seconds, self._ask_again_at = None, RETRY_SECONDS[0], float("-inf")
            for owner, sealed in zip(owners, texts, strict=True):
                self._install(owner, sealed, asked_at)

    def _lose(self, error: Unavailable) -> None:
        if self._away is None:
            log.warning("key storage unavailable: cached keys are used", server=error.server, reason=error.reason)
        self._away = error
        self._ask_again_at = self._clock() + self._wait_seconds
        self._wait_seconds = min(self._wait_seconds * 2, RETRY_SECONDS[1])

    def _install(self, owner: Owner, sealed: bytes | None, asked_at: float) -> None:
        now = self._clock()
        # Whoever asked may be gone when an answer is late: it has to be there still when he comes again.
        until = asked_at + ABSENCE_SECONDS if now - asked_at <= WAIT_SECONDS else now + LATE_SECONDS
        if sealed is None:
            self._slots.pop(owner, None)
            self._absent[owner] = until
            self._absent.move_to_end(owner)
            self._allowance -= 1
            if len(self._absent) > ABSENT_OWNERS_MAX:
                self._absent.popitem(last=False)
            return
        self._absent.pop(owner, None)
        slot = self._slots.setdefault(owner, Slot())
        slot.checked_at, slot.refused_until = asked_at, until
        if self._refreshes:
            slot.is_due = True
            self._due.append((asked_at, owner))
        if sealed == slot.sealed:
            return
        slot.sealed, slot.changed_at = sealed, self._clock()
        try:
            key = self._unwrap(sealed, owner)
        except CorruptData:
            log.error("key cannot be unwrapped with the master key", key=owner.key_name)
            slot.refuse(Refused(Code.KEY_UNREADABLE, f"the key of this {owner.kind} cannot be read"))
            return
        if slot.newest == key:  # sealed anew, with another master key
            return
        if slot.newest is not None:
            log.info("key was rotated", key=owner.key_name)
        slot.renew(owner, key, self._data_keys, slot.changed_at, self._settling_seconds)

    def _unwrap(self, sealed: bytes, owner: Owner) -> bytes:
        """The key in a stored text; while the master key is replaced, either of the two may open it."""
        for master_key in self._master_keys[:-1]:
            try:
                return unwrap(sealed, master_key, owner)
            except CorruptData:
                log.info("key is sealed with the previous master key, or damaged", key=owner.key_name)
        return unwrap(sealed, self._master_keys[-1], owner)

    # -- keys that were replaced

    def _find_keys(self, ring: Keyring, slot: Slot, now: float) -> KeySearch:
        known = len(ring.keys)
        if now - slot.rechecked_at >= RECHECK_SECONDS:
            self._check_again(ring.owner, slot, now)
            if len(ring.keys) > known:  # it is still the one that seals
                return KeySearch.ADDED
        if slot.ring is not None and slot.ring is not ring and _add(ring, slot.ring.keys):
            return KeySearch.ADDED
        if _add(ring, slot.history.values()):
            return KeySearch.ADDED
        if slot.history_at > slot.changed_at and now - slot.history_at < self._history_seconds:
            return KeySearch.EXHAUSTED
        return self._search(ring, slot, now)

    def _check_again(self, owner: Owner, slot: Slot, now: float) -> None:
        """Ask for the newest key once more.

        Raises:
            Unavailable: the key storage is away, or has not answered in time.
        """
        self._collect()
        awaited_since, slot.awaited_since = slot.awaited_since, None
        if awaited_since is not None and awaited_since <= slot.checked_at and now - awaited_since < LATE_SECONDS:
            return
        if now >= self._ask_again_at:
            if not self._patience.is_late:
                self._ask([owner], now)
            if self._patience.is_late or not self._wait_for([owner]):
                slot.awaited_since = now
                raise Unavailable("keys", "not looked up yet")
        if self._away is not None:
            raise self._away

    def _settle(self, owner: Owner, slot: Slot, now: float) -> None:
        """Find out which key seals; see ``Slot``."""
        slot.change_over(owner, self._data_keys, now)
        if slot.is_settled or slot.ring is None:
            return
        try:
            while self._search(slot.ring, slot, now) is not KeySearch.EXHAUSTED:
                pass
        except Unavailable as error:
            if slot.ring.unsettled is not None:
                slot.ring.unsettled = error.with_traceback(None)
            return
        slot.settle(owner, self._data_keys, now, self._wall(), self._settling_seconds)

    def _search(self, ring: Keyring, slot: Slot, now: float) -> KeySearch:
        """Look at the history until a key is added, or until all of it is known.

        Raises:
            Unavailable: that is not known yet.
        """
        tried: set[str] = set()
        while True:
            asked = slot.asked or self._ask_history(ring.owner, slot, tried, now)
            slot.asked = asked
            if not self._history_patience.wait(asked.answer):
                raise Unavailable("keys", "the history of keys is being looked up")
            slot.asked = None
            found = asked.answer.result()
            tried.update(name for name, _ in found.keys)
            if self._take(found, ring, slot):
                return KeySearch.ADDED
            is_of_now = asked.changed_at == slot.changed_at and now - asked.at < self._history_seconds
            if found.is_complete and is_of_now:
                slot.history_at = self._clock()
                return KeySearch.EXHAUSTED

    def _ask_history(self, owner: Owner, slot: Slot, tried: set[str], now: float) -> Asked:
        since = max(slot.changed_at, now - self._history_seconds)
        job = partial(look, self._store, owner, {*slot.history, *tried}, since, slot.changed_at)
        return Asked(self._history.submit(job), now, slot.changed_at)

    def _take(self, found: Look, ring: Keyring, slot: Slot) -> bool:
        """Put keys of the history into the ring, and into the owner's own if that is another; whether any was new."""
        for name, sealed in found.keys:
            if sealed is None:
                continue
            try:
                slot.history[name] = self._unwrap(sealed, ring.owner)
            except CorruptData:
                if not ring.some_unreadable:
                    log.error("key of the history cannot be unwrapped with the master key", key=name)
                ring.some_unreadable = True
        if slot.ring is not None and slot.ring is not ring:
            _add(slot.ring, slot.history.values())
        return _add(ring, slot.history.values())


def _add(ring: Keyring, keys: Iterable[bytes]) -> bool:
    return sum(ring.add(key) for key in keys) > 0


def _unknown(owner: Owner) -> Refused:
    code = Code.UNKNOWN_CLIENT if owner.kind == "client" else Code.UNKNOWN_ZONE
    return Refused(code, f"there is no key of this {owner.kind}")

"""Keys of clients and zones, unwrapped and kept for a minute, so that rotated keys are seen and outages bridged.

Bounded in number: memory does not grow with the clients there are. While key storage or Vault is away, keys already
here serve for 15 minutes past their age; a key that is not here is ``Unavailable``, not unknown.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum, auto

import structlog

from token_worker.errors import Code, Damaged, Refused, Unavailable
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.owner import Owner
from token_worker.keys.store import KeyStore, unwrap

AGE_SECONDS = 60.0
"""How long a key serves before it is looked up again: a rotation is seen after at most this long."""

GRACE_SECONDS = 900.0
"""How much longer it serves while the key storage is away."""

ABSENCE_SECONDS = 1.0
"""How long it is remembered that there is no key, or none that the master key opens."""

RECHECK_SECONDS = 1.0
"""How often at most an entry that no key opens makes us look for a rotated key of its owner, in vain."""

OWNERS_KEPT = 10_000
RETRY_SECONDS = (0.5, 15.0)
"""Shortest and longest wait before a key storage that was away is asked again."""

log = structlog.get_logger("keys")


class More(Enum):
    """What looking for more keys of an owner has brought."""

    ADDED = auto()
    NONE = auto()


class _Slot:
    __slots__ = ("changed_at", "checked_at", "history_at", "rechecked_at", "refusal", "ring", "sealed")

    def __init__(self) -> None:
        self.ring: Keyring | None = None
        self.refusal: Refused | None = None
        self.sealed: bytes | None = None
        self.checked_at = float("-inf")
        self.rechecked_at = float("-inf")
        self.changed_at = float("-inf")
        self.history_at = float("-inf")

    def is_fresh(self, now: float) -> bool:
        return now - self.checked_at < (ABSENCE_SECONDS if self.ring is None else AGE_SECONDS)


class KeyCache:
    """The only place where keys are unwrapped."""

    def __init__(
        self,
        store: KeyStore,
        master_key: bytes,
        *,
        previous_master_key: bytes | None = None,
        size: int = OWNERS_KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._master_keys = [master_key] if previous_master_key is None else [master_key, previous_master_key]
        self._size = size
        self._clock = clock
        self._slots: OrderedDict[Owner, _Slot] = OrderedDict()
        self._data_keys = DataKeyCache()
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

    def rings(self, owners: Iterable[Owner]) -> dict[Owner, Keyring | Refused | Unavailable]:
        """The keys of each owner: a keyring, why it has none, or that this cannot be known now."""
        now = self._clock()
        found: dict[Owner, Keyring | Refused | Unavailable] = {}
        stale = []
        for owner in owners:
            slot = self._slots.get(owner)
            if not owner.is_valid:
                found[owner] = _unknown(owner)
            elif slot is not None and slot.is_fresh(now):
                self._slots.move_to_end(owner)
                self.hits += 1
                found[owner] = _answer(slot)
            else:
                stale.append(owner)
        if stale:
            self.misses += len(stale)
            self._look_up(stale, now)
            for owner in stale:
                found[owner] = self._after_look_up(owner, now)
            self._evict()
        return found

    def more_keys(self, ring: Keyring) -> More | Unavailable:
        """Look for a key of the ring's owner that is not in it: a rotated one, then the history."""
        now = self._clock()
        slot = self._slots.setdefault(ring.owner, _Slot())
        found = self._more_keys(ring, slot, now)
        if found is More.NONE and now - slot.rechecked_at >= RECHECK_SECONDS:
            slot.rechecked_at = now  # where a key was found, another rotation may follow at once
        return found

    def _more_keys(self, ring: Keyring, slot: _Slot, now: float) -> More | Unavailable:
        if now - slot.rechecked_at >= RECHECK_SECONDS:
            self._look_up([ring.owner], now)
            if self._away is not None:
                return self._away
        if slot.ring is not None and slot.ring is not ring:
            added = [ring.add(key) for key in slot.ring.keys]
            if any(added):
                return More.ADDED
        if slot.history_at > slot.changed_at and now - slot.history_at < AGE_SECONDS:
            return More.NONE
        try:
            return self._add_history(ring, slot, now)
        except Unavailable as error:
            return error

    def _add_history(self, ring: Keyring, slot: _Slot, now: float) -> More:
        since = max(slot.changed_at, now - AGE_SECONDS)
        names, is_fresh = self._store.history_names(ring.owner, since)
        if self._add_named(ring, names):
            return More.ADDED
        if not is_fresh:
            self._store.refresh_history()
            names, is_fresh = self._store.history_names(ring.owner, slot.changed_at)
            if self._add_named(ring, names):
                return More.ADDED
            if not is_fresh:  # a look-up that began before the rotation may have missed the key before it
                raise Unavailable("keys", "the history of keys is being looked up")
        slot.history_at = self._clock()
        return More.NONE

    def _add_named(self, ring: Keyring, names: list[str]) -> bool:
        added = False
        for name, sealed in zip(names, self._store.read(names), strict=True):
            if sealed is None:
                continue
            try:
                added |= ring.add(self._unwrap(sealed, ring.owner))
            except Damaged:
                if not ring.some_unreadable:
                    log.error("key of the history cannot be unwrapped", key=name)
                ring.some_unreadable = True
        return added

    def _look_up(self, owners: list[Owner], now: float) -> None:
        if now < self._ask_again_at:
            return
        try:
            texts = self._store.current(owners)
        except Unavailable as error:
            if self._away is None:
                log.warning(
                    "key storage is away, going on with the keys at hand", server=error.server, reason=error.reason
                )
            self._away = error
            self._ask_again_at = self._clock() + self._wait_seconds
            self._wait_seconds = min(self._wait_seconds * 2, RETRY_SECONDS[1])
            return
        if self._away is not None:
            log.info("key storage is back")
        self._away, self._wait_seconds, self._ask_again_at = None, RETRY_SECONDS[0], float("-inf")
        for owner, sealed in zip(owners, texts, strict=True):
            self._install(owner, sealed, now)

    def _install(self, owner: Owner, sealed: bytes | None, now: float) -> None:
        slot = self._slots.setdefault(owner, _Slot())
        self._slots.move_to_end(owner)
        slot.checked_at = now
        if sealed is None:
            slot.ring, slot.sealed, slot.refusal = None, None, _unknown(owner)
            return
        if sealed == slot.sealed:
            return
        slot.sealed, slot.changed_at = sealed, now
        try:
            key = self._unwrap(sealed, owner)
        except Damaged:
            log.error("key cannot be unwrapped with the master key", key=owner.key_name)
            slot.ring, slot.refusal = None, Refused(Code.KEY_UNREADABLE, f"the key of this {owner.kind} cannot be read")
            return
        if slot.ring is not None and slot.ring.current == key:  # sealed anew, with another master key
            return
        ring = Keyring(owner, key, self._data_keys)
        if slot.ring is not None:
            log.info("key was rotated", key=owner.key_name)
            for old in slot.ring.keys:
                ring.add(old)
        slot.ring, slot.refusal = ring, None

    def _unwrap(self, sealed: bytes, owner: Owner) -> bytes:
        """The key in a stored text; while the master key is replaced, either of the two may open it."""
        for master_key in self._master_keys[:-1]:
            try:
                return unwrap(sealed, master_key, owner)
            except Damaged:
                log.info("key is sealed with the previous master key, or damaged", key=owner.key_name)
        return unwrap(sealed, self._master_keys[-1], owner)

    def _after_look_up(self, owner: Owner, now: float) -> Keyring | Refused | Unavailable:
        slot = self._slots.get(owner)
        if self._away is None:
            return Unavailable("keys", "not looked up yet") if slot is None else _answer(slot)
        if slot is not None and slot.ring is not None and now - slot.checked_at < AGE_SECONDS + GRACE_SECONDS:
            return slot.ring
        return self._away

    def _evict(self) -> None:
        while len(self._slots) > self._size:
            self._slots.popitem(last=False)


def _answer(slot: _Slot) -> Keyring | Refused:
    if slot.ring is not None:
        return slot.ring
    return slot.refusal or Refused(Code.INTERNAL, "no key")


def _unknown(owner: Owner) -> Refused:
    code = Code.UNKNOWN_CLIENT if owner.kind == "client" else Code.UNKNOWN_ZONE
    return Refused(code, f"there is no key of this {owner.kind}")

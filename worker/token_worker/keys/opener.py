"""Opens the stored texts of an owner's keys, and puts what is new into the owner's ``CachedKeys``."""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from token_worker.acra.owner import Owner
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.cached_keys import CachedKeys, OpenedIndex
from token_worker.keys.index_key import KeyTexts, index_name
from token_worker.keys.keyring import DataKeyCache
from token_worker.keys.live_master_keys import LiveMasterKeys

log = structlog.get_logger("keys")


class Opener(NamedTuple):
    """Opens texts with the master keys.

    Attributes:
        master_keys: the known master keys.
        data_keys: shared by all keyrings.
        clock: monotonic seconds.
        settling_seconds: how long after a rotation the key before still seals.
        doubt_seconds: how long keys at hand serve while no known master key opens the stored texts.
    """

    master_keys: LiveMasterKeys
    data_keys: DataKeyCache
    clock: Callable[[], float]
    settling_seconds: float
    doubt_seconds: float

    def take(self, owner: Owner, cached: CachedKeys, texts: KeyTexts, now: float) -> None:
        """Take the texts that the key storage holds now; it holds a symmetric key."""
        sealed = texts.key or b""
        is_new = sealed != cached.sealed
        if not is_new and (cached.ring is None or not _is_another_index(cached.index, texts.index_key)):
            cached.doubted_at = None  # the text that did not open is gone
            return
        try:
            key = self.master_keys.unwrap(sealed, owner) if is_new else cached.newest
            index = self._index(owner, cached, texts.index_key)
        except Unavailable as error:  # go on with the keys at hand, but not for longer than in an outage
            if cached.doubt(now) >= self.doubt_seconds or cached.ring is None:
                cached.refuse(error.with_traceback(None))
            return
        except CorruptData:
            cached.sealed, cached.changed_at = sealed, self.clock()
            log.error("key cannot be unwrapped with the master key", key=owner.key_name)
            cached.refuse(Refused(Code.KEY_UNREADABLE, f"the key of this {owner.kind} cannot be read"))
            return
        is_same_index, cached.index = index.names_as(cached.index), index
        if is_new:
            cached.sealed, cached.changed_at = sealed, self.clock()
        cached.doubted_at = None
        if key is None or cached.newest == key:  # the same key, sealed with another master key
            if not is_same_index:
                cached.rename(owner, self.data_keys)
            return
        if cached.newest is not None:
            log.info("key was rotated", key=owner.key_name)
        cached.renew(owner, key, self.data_keys, cached.changed_at, self.settling_seconds)

    def _index(self, owner: Owner, cached: CachedKeys, text: bytes | None) -> OpenedIndex:
        """Open an index key. Raises ``Unavailable`` if the master keys are about to be read again."""
        known = cached.index
        if not _is_another_index(known, text):
            return known
        if text is None:
            log.info("index key is gone", key=index_name(owner).name)
            return OpenedIndex()
        try:
            key = self.master_keys.unwrap_index(text, owner)
        except CorruptData:
            if text != known.text:
                log.error("index key cannot be unwrapped with the master key", key=index_name(owner).name)
            return OpenedIndex(text, None, "unreadable")
        if known.key not in (None, key):
            log.warning("index key was replaced by another", key=index_name(owner).name)
        return OpenedIndex(text, key, "present")


def _is_another_index(known: OpenedIndex, text: bytes | None) -> bool:
    """True if the text has to be opened. One that did not open is tried again: there may be another master key."""
    return text != known.text or known.state == "unreadable"
